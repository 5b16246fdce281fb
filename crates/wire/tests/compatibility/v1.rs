//! The messages of version 1. Every field of that version is set in at least one of them; of alternatives, at least one is.

#![allow(clippy::needless_update, reason = "fields that the protocol gains later are unset in these messages")]

use std::collections::BTreeMap;

use bytes::Bytes;
use isthmus_wire::delta::Body;
use isthmus_wire::discovery::{
    AccessLogEncoding, AuthorizationOperation, AuthorizationPolicy, AuthorizationRule, AuthorizationSource,
    ClaimToHeader, Direct, Endpoint, Export, GatewayAddress, HeaderCondition, Health, InboundLimits, InboundPort,
    Issuer, JwtHeader, JwtRule, Locality, MeshConfig, NetworkGateway, OutboundPolicy, PeerAuthentication, PeerMode,
    PolicyAction, Port, Protocol, RequestAuthentication, Service, Subset, Summary, Trust, Values, VirtualAddress,
    Workload, WorkloadLabels, endpoint,
};
use isthmus_wire::envoy::{Any, DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Resource, Status};

use super::{Expected, Fixture};

#[path = "v1/entries.rs"]
mod entries;
#[path = "v1/gateways.rs"]
mod gateways;
#[path = "v1/limits.rs"]
mod limits;
#[path = "v1/routes.rs"]
mod routes;

pub(super) fn fixtures() -> Vec<Fixture> {
    let resource = |name, body| Fixture { name, expected: Expected::Resource(Box::new(body)) };
    vec![
        resource("Trust", Body::Trust(trust())),
        resource("MeshConfig", Body::MeshConfig(mesh_config())),
        resource("MeshConfig-entries", Body::MeshConfig(entries::mesh_config())),
        resource("Scope", Body::Scope(limits::scope())),
        resource("PeerAuthentication", Body::PeerAuthentication(peer_authentication())),
        resource("RequestAuthentication", Body::RequestAuthentication(request_authentication())),
        resource("AuthorizationPolicy", Body::AuthorizationPolicy(authorization_policy())),
        resource("AuthorizationPolicy-custom", Body::AuthorizationPolicy(limits::custom_policy())),
        resource("RateLimit", Body::RateLimit(limits::rate_limit())),
        resource("Workload", Body::Workload(workload())),
        resource("Workload-machine", Body::Workload(entries::workload())),
        resource("NetworkGateway", Body::NetworkGateway(network_gateway())),
        resource("DestinationPolicy", Body::DestinationPolicy(routes::destination_policy())),
        resource("Service", Body::Service(service())),
        resource("Service-entry", Body::Service(entries::service())),
        resource("Endpoint-direct", Body::Endpoint(direct_endpoint())),
        resource("Endpoint-headless", Body::Endpoint(entries::endpoint())),
        resource("Endpoint-summary", Body::Endpoint(summary_endpoint())),
        resource("RouteTable", Body::RouteTable(routes::route_table())),
        resource("Credential", Body::Credential(gateways::credential())),
        resource("Listeners", Body::Listeners(gateways::listeners())),
        Fixture { name: "DeltaDiscoveryRequest", expected: Expected::Request(request()) },
        Fixture { name: "DeltaDiscoveryRequest-report", expected: Expected::Request(entries::report()) },
        Fixture { name: "DeltaDiscoveryResponse", expected: Expected::Response(response()) },
    ]
}

fn trust() -> Trust {
    Trust {
        trust_domain: "mesh.example".into(),
        roots: vec![Bytes::from_static(b"\x30\x03\x02\x01\x01"), Bytes::from_static(b"\x30\x03\x02\x01\x02")],
        issuers: vec![
            Issuer { cluster: "west".into(), public_key_sha256: Bytes::from_static(&[0xa1; 32]), ..Default::default() },
            Issuer { cluster: "east".into(), public_key_sha256: Bytes::from_static(&[0xb2; 32]), ..Default::default() },
        ],
        ..Default::default()
    }
}

fn mesh_config() -> MeshConfig {
    MeshConfig {
        mesh_id: "mesh1".into(),
        cluster_domain: "cluster.local".into(),
        outbound_policy: OutboundPolicy::RegistryOnly as i32,
        access_log_file: "/dev/stdout".into(),
        access_log_encoding: AccessLogEncoding::Json as i32,
        access_log_format: "%REQ(:METHOD)% %RESPONSE_CODE%\n".into(),
        connect_timeout_ms: 10_000,
        protocol_detection_timeout_ms: 5_000,
        locality_load_balancing: true,
        ..Default::default()
    }
}

fn peer_authentication() -> PeerAuthentication {
    PeerAuthentication {
        mode: PeerMode::Strict as i32,
        ports: BTreeMap::from([
            (8080, PeerMode::Permissive as i32),
            (9090, PeerMode::Disable as i32),
            (9443, PeerMode::Strict as i32),
        ]),
        ..Default::default()
    }
}

fn request_authentication() -> RequestAuthentication {
    RequestAuthentication {
        name: "bookinfo/users".into(),
        rules: vec![JwtRule {
            issuer: "https://issuer.example".into(),
            audiences: vec!["bookinfo".into(), "shop".into()],
            jwks: r#"{"keys":[]}"#.into(),
            from_headers: vec![JwtHeader { name: "x-token".into(), prefix: "Token ".into(), ..Default::default() }],
            from_params: vec!["token".into()],
            from_cookies: vec!["session".into()],
            output_payload_to_header: "x-payload".into(),
            forward_original_token: true,
            output_claim_to_headers: vec![ClaimToHeader {
                header: "x-user".into(),
                claim: "user.name".into(),
                ..Default::default()
            }],
            space_delimited_claims: vec!["roles".into()],
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn authorization_policy() -> AuthorizationPolicy {
    AuthorizationPolicy {
        name: "bookinfo/ratings".into(),
        action: PolicyAction::Deny as i32,
        rules: vec![AuthorizationRule {
            from: vec![AuthorizationSource {
                principals: values(&["mesh.example/ns/bookinfo/sa/reviews"], &["*/sa/default"]),
                namespaces: values(&["bookinfo", "test-*"], &["test-old"]),
                clusters: values(&["west"], &["east"]),
                ip_blocks: values(&["10.0.0.0/8", "2001:db8::/32"], &["10.1.2.3"]),
                ..Default::default()
            }],
            to: vec![AuthorizationOperation {
                hosts: values(&["ratings.bookinfo", "*.example.com"], &["old.example.com"]),
                ports: values(&["9080"], &["9090"]),
                methods: values(&["GET", "HEAD"], &["DELETE"]),
                paths: values(&["/ratings/*"], &["*/private"]),
                ..Default::default()
            }],
            when: vec![HeaderCondition {
                name: "x-tenant".into(),
                value: values(&["blue"], &["green"]),
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// Strings of a repeated field.
fn names(of: &[&str]) -> Vec<String> {
    of.iter().map(|name| (*name).to_owned()).collect()
}

fn values(any_of: &[&str], none_of: &[&str]) -> Option<Values> {
    let owned = |values: &[&str]| values.iter().map(|value| (*value).into()).collect();
    Some(Values { any_of: owned(any_of), none_of: owned(none_of), ..Default::default() })
}

fn workload() -> Workload {
    Workload {
        cluster: "west".into(),
        network: "net-west".into(),
        namespace: "bookinfo".into(),
        pod: "reviews-v2-5f7".into(),
        service_account: "reviews".into(),
        locality: Some(locality()),
        labels: Some(workload_labels()),
        ports: vec![InboundPort {
            number: 9080,
            protocol: Protocol::Http as i32,
            service: "reviews.bookinfo.svc.cluster.local".into(),
            service_port: 80,
            limits: Some(InboundLimits { max_connections: 1_000, max_requests: 200, ..Default::default() }),
            ..Default::default()
        }],
        node: "node-3".into(),
        peer_authentication: "bookinfo/strict".into(),
        authorization_policies: vec!["bookinfo/reviews".into(), "istio-system/deny-all".into()],
        ..Default::default()
    }
}

fn locality() -> Locality {
    Locality { region: "region-1".into(), zone: "zone-a".into(), subzone: "rack-7".into(), ..Default::default() }
}

fn workload_labels() -> WorkloadLabels {
    WorkloadLabels {
        workload: "reviews-v2".into(),
        namespace: "bookinfo".into(),
        app: "reviews".into(),
        version: "v2".into(),
        canonical_service: "reviews".into(),
        canonical_revision: "v2".into(),
        ..Default::default()
    }
}

fn network_gateway() -> NetworkGateway {
    NetworkGateway {
        network: "net-east".into(),
        addresses: vec![
            GatewayAddress {
                ip: Bytes::from_static(&[203, 0, 113, 7]),
                port: 15_443,
                cluster: "east".into(),
                locality: Some(locality()),
                ..Default::default()
            },
            GatewayAddress { ip: ipv6(), port: 30_443, cluster: "east-2".into(), ..Default::default() },
        ],
        ..Default::default()
    }
}

/// 2001:db8::7.
fn ipv6() -> Bytes {
    Bytes::from_static(&[0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7])
}

fn service() -> Service {
    let port = |number, name: &str, protocol| Port {
        number,
        name: name.into(),
        protocol: protocol as i32,
        server_names: vec![format!("{name}.reviews.example.com")],
        ..Default::default()
    };
    Service {
        hostname: "reviews.bookinfo.svc.cluster.local".into(),
        name: "reviews".into(),
        namespace: "bookinfo".into(),
        ports: vec![
            port(79, "detect", Protocol::Unspecified),
            port(80, "http", Protocol::Http),
            port(81, "http2", Protocol::Http2),
            port(82, "grpc", Protocol::Grpc),
            port(83, "tcp", Protocol::Tcp),
            port(443, "tls", Protocol::Tls),
        ],
        addresses: vec![
            VirtualAddress { cluster: "west".into(), ip: Bytes::from_static(&[10, 96, 0, 7]), ..Default::default() },
            VirtualAddress { ip: ipv6(), ..Default::default() },
        ],
        identities: vec!["spiffe://mesh.example/ns/bookinfo/sa/reviews".into()],
        exports: vec![Export { cluster: "east".into(), network: "net-east".into(), ..Default::default() }],
        headless: true,
        subsets: vec![Subset {
            name: "v2".into(),
            labels: BTreeMap::from([("app".into(), "reviews".into()), ("version".into(), "v2".into())]),
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn direct_endpoint() -> Endpoint {
    Endpoint {
        service: "reviews.bookinfo.svc.cluster.local".into(),
        cluster: "west".into(),
        network: "net-west".into(),
        locality: Some(locality()),
        health: Health::Draining as i32,
        weight: 3,
        kind: Some(endpoint::Kind::Direct(Direct {
            ip: Bytes::from_static(&[10, 244, 1, 9]),
            ports: BTreeMap::from([(80, 9080), (443, 9443)]),
            identity: "spiffe://mesh.example/ns/bookinfo/sa/reviews".into(),
            mutual_tls: true,
            pod: "reviews-v2-5f7".into(),
            workload: Some(workload_labels()),
            labels: BTreeMap::from([("app".into(), "reviews".into()), ("version".into(), "v2".into())]),
            node: "node-3".into(),
            ..Default::default()
        })),
        ..Default::default()
    }
}

fn summary_endpoint() -> Endpoint {
    Endpoint {
        service: "reviews.bookinfo.svc.cluster.local".into(),
        cluster: "east".into(),
        network: "net-east".into(),
        locality: Some(locality()),
        health: Health::Unready as i32,
        weight: 12,
        kind: Some(endpoint::Kind::Summary(Summary {
            ready: 4,
            identities: vec!["spiffe://mesh.example/ns/bookinfo/sa/reviews".into()],
            ports: vec![80, 443],
            subset: "v2".into(),
            ..Default::default()
        })),
        ..Default::default()
    }
}

fn request() -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        node: Some(Node {
            id: "sidecar~10.244.1.9~reviews-v2-5f7.bookinfo~west".into(),
            cluster: "west".into(),
            ..Default::default()
        }),
        type_url: "type.googleapis.com/isthmus.discovery.v1.Service".into(),
        resource_names_subscribe: vec!["@west/10.96.0.7".into(), "exported@net-west".into()],
        resource_names_unsubscribe: vec!["ratings.bookinfo.svc.cluster.local".into()],
        initial_resource_versions: BTreeMap::from([
            ("details.bookinfo.svc.cluster.local".into(), "00000000000000a1".into()),
            ("reviews.bookinfo.svc.cluster.local".into(), "00000000000000b2".into()),
        ]),
        response_nonce: "17".into(),
        error_detail: Some(Status { code: 3, message: "reviews: a port is 0".into(), ..Default::default() }),
        ..Default::default()
    }
}

fn response() -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        system_version_info: "1".into(),
        resources: vec![
            Resource {
                version: "00000000000000b2".into(),
                resource: Some(Any {
                    type_url: "type.googleapis.com/isthmus.discovery.v1.Service".into(),
                    value: Bytes::from_static(b"\x0a\x07reviews"),
                    ..Default::default()
                }),
                name: "reviews.bookinfo.svc.cluster.local".into(),
                aliases: vec!["@west/10.96.0.7".into(), "@west/10.244.1.9".into()],
                ..Default::default()
            },
            // Confirms an unsubscription.
            Resource { version: "-".into(), name: "ratings.bookinfo.svc.cluster.local".into(), ..Default::default() },
        ],
        type_url: "type.googleapis.com/isthmus.discovery.v1.Service".into(),
        nonce: "18".into(),
        removed_resources: vec!["details.bookinfo.svc.cluster.local".into()],
        ..Default::default()
    }
}
