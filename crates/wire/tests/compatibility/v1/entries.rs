//! ServiceEntries, exports with a policy, workloads that are no pods, and what proxies report.

use std::collections::BTreeMap;

use bytes::Bytes;
use isthmus_wire::discovery::{
    AddressBlock, AddressRange, ApplicationHealth, Callers, Direct, DrainedCluster, Endpoint, Entry, EntryEndpoint,
    Export, HttpProbe, InboundPort, MeshConfig, PathNormalization, PathReport, ProxyReport, ReadinessProbe, Refusal,
    RefusedBy, Resolution, Service, SourceAddresses, Workload, endpoint, readiness_probe,
};
use isthmus_wire::envoy::DeltaDiscoveryRequest;

use super::{ipv6, names};

pub(super) fn mesh_config() -> MeshConfig {
    MeshConfig {
        path_normalization: PathNormalization::DecodeAndMergeSlashes as i32,
        entries: true,
        wildcard_entries: true,
        address_blocks: vec![AddressBlock {
            ip: Bytes::from_static(&[192, 0, 2, 0]),
            length: 24,
            hostname: "legacy.example.com".into(),
            ..Default::default()
        }],
        drained: vec![DrainedCluster {
            cluster: "east".into(),
            viewers: names(&["central", "west"]),
            ..Default::default()
        }],
        path_interval_ms: 5_000,
        ..Default::default()
    }
}

pub(super) fn service() -> Service {
    let range = |ip: &'static [u8], length| AddressRange { ip: Bytes::from_static(ip), length, ..Default::default() };
    Service {
        hostname: "*.example.com".into(),
        namespace: "shop".into(),
        exports: vec![Export {
            cluster: "east".into(),
            network: "net-east".into(),
            sources: Some(SourceAddresses {
                permitted: vec![range(&[203, 0, 113, 0], 24)],
                refused: vec![range(&[203, 0, 113, 7], 32)],
                permitted_only: true,
                ..Default::default()
            }),
            ..Default::default()
        }],
        entry: Some(Entry {
            resolution: Resolution::DynamicDns as i32,
            endpoints: vec![EntryEndpoint {
                ip: ipv6(),
                host: "backend.example.com".into(),
                ports: BTreeMap::from([(443, 8443)]),
                labels: BTreeMap::from([("version".into(), "v1".into())]),
                region: "region-1".into(),
                zone: "zone-a".into(),
                subzone: "rack-7".into(),
                weight: 5,
                network: "net-east".into(),
                identities: names(&["spiffe://mesh.example/ns/shop/sa/vm"]),
                mutual_tls: true,
                pod: "vm-1".into(),
                cluster: "east".into(),
                ..Default::default()
            }],
            subject_alt_names: names(&["backend.example.com"]),
            external: true,
            ..Default::default()
        }),
        clusterset: true,
        ..Default::default()
    }
}

/// An endpoint with the fields of pods of both families and of headless services.
pub(super) fn endpoint() -> Endpoint {
    Endpoint {
        service: "db.shop.svc.cluster.local".into(),
        cluster: "west".into(),
        kind: Some(endpoint::Kind::Direct(Direct {
            ip: Bytes::from_static(&[10, 244, 1, 9]),
            further_ips: vec![ipv6()],
            node_local: true,
            plaintext_ports: vec![5432],
            pod_hostname: "db-0".into(),
            ..Default::default()
        })),
        ..Default::default()
    }
}

pub(super) fn workload() -> Workload {
    Workload {
        cluster: "west".into(),
        pod: "vm-1".into(),
        ports: vec![
            InboundPort {
                number: 9080,
                target_ip: Bytes::from_static(&[127, 0, 0, 1]),
                target_port: 8080,
                callers: Some(Callers { clusters: names(&["central"]), plaintext: true, ..Default::default() }),
                ..Default::default()
            },
            InboundPort { number: 9090, target_path: "/run/app.sock".into(), ..Default::default() },
        ],
        pod_labels: BTreeMap::from([("app".into(), "reviews".into())]),
        peer_authentication_overrides: names(&["bookinfo/reviews", "bookinfo/default"]),
        request_authentications: names(&["bookinfo/users"]),
        rate_limits: names(&["RateLimit/shop/api"]),
        scope: "west/bookinfo/default".into(),
        probe: Some(ReadinessProbe {
            initial_delay_ms: 1_000,
            timeout_ms: 500,
            period_ms: 2_000,
            success_threshold: 1,
            failure_threshold: 3,
            check: Some(readiness_probe::Check::Http(HttpProbe {
                host: "127.0.0.1".into(),
                port: 8080,
                path: "/ready".into(),
                https: true,
                headers: names(&["host", "app.example.com"]),
                ..Default::default()
            })),
            ..Default::default()
        }),
        ..Default::default()
    }
}

pub(super) fn report() -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        report: Some(ProxyReport {
            refusals: vec![Refusal {
                by: RefusedBy::Policy as i32,
                policy: "bookinfo/ratings".into(),
                count: 17,
                last: 1_790_000_000,
                ..Default::default()
            }],
            workload_group: "shop/vms".into(),
            network: "net-vm".into(),
            health: ApplicationHealth::Unhealthy as i32,
            paths: vec![PathReport { cluster: "east".into(), checks: 41, failing: true, ..Default::default() }],
            ..Default::default()
        }),
        ..Default::default()
    }
}
