//! VirtualService: where requests and connections to its hosts go.

use std::collections::BTreeMap;

use super::http_route::HttpRoute;
use super::json::{message, object};

object! {
    /// Istio's VirtualService resource.
    VirtualService: VirtualServiceSpec, "networking.istio.io", "VirtualService", "virtualservices"
}

/// The gateway of [`VirtualServiceSpec::gateways`] that means all sidecars.
pub const MESH_GATEWAY: &str = "mesh";

message! {
    /// The spec of a VirtualService.
    VirtualServiceSpec {
        /// The hosts whose traffic is routed: short names, full names, wildcards, IP addresses. Empty: a delegate.
        hosts: Vec<String> = "hosts",
        /// The gateways that route by it, as `name` or `namespace/name`; empty: `mesh`, all sidecars.
        gateways: Vec<String> = "gateways",
        /// The routes of requests. The first that matches has effect.
        http: Vec<HttpRoute> = "http",
        /// The routes of TLS connections that are forwarded by SNI.
        tls: Vec<TlsRoute> = "tls",
        /// The routes of other connections.
        tcp: Vec<TcpRoute> = "tcp",
        /// The namespaces in which it has effect: `.`, `*` or names; empty: as the mesh settings say, else all.
        export_to: Vec<String> = "exportTo",
    }
}

message! {
    /// A route of TLS connections.
    TlsRoute {
        /// What has to match: any of these.
        matches: Vec<TlsMatch> = "match",
        /// Where connections go.
        route: Vec<RouteDestination> = "route",
    }
}

message! {
    /// What a TLS connection has to match: all of these.
    TlsMatch {
        /// The server names, with wildcards. At least one.
        sni_hosts: Vec<String> = "sniHosts",
        /// The IP addresses or CIDR blocks of the destination.
        destination_subnets: Vec<String> = "destinationSubnets",
        /// The port of the destination; 0: any.
        port: u32 = "port",
        /// The labels of the client's workload.
        source_labels: BTreeMap<String, String> = "sourceLabels",
        /// The gateways; they take the place of the VirtualService's.
        gateways: Vec<String> = "gateways",
        /// The namespace of the client's workload.
        source_namespace: String = "sourceNamespace",
    }
}

message! {
    /// A route of connections.
    TcpRoute {
        /// What has to match: any of these; empty: every connection.
        matches: Vec<L4Match> = "match",
        /// Where connections go.
        route: Vec<RouteDestination> = "route",
    }
}

message! {
    /// What a connection has to match: all of these.
    L4Match {
        /// The IP addresses or CIDR blocks of the destination.
        destination_subnets: Vec<String> = "destinationSubnets",
        /// The port of the destination; 0: any.
        port: u32 = "port",
        /// Deprecated: the IP addresses of the client.
        source_subnet: String = "sourceSubnet",
        /// The labels of the client's workload.
        source_labels: BTreeMap<String, String> = "sourceLabels",
        /// The gateways; they take the place of the VirtualService's.
        gateways: Vec<String> = "gateways",
        /// The namespace of the client's workload.
        source_namespace: String = "sourceNamespace",
    }
}

message! {
    /// A destination of connections, and its share of them.
    RouteDestination {
        /// The destination. Required.
        destination: Option<Destination> = "destination",
        /// The weight, in proportion to the others. It has no effect on a single destination.
        weight: i32 = "weight",
    }
}

message! {
    /// A service, and a subset of its endpoints.
    Destination {
        /// The host: a short name is in the namespace of the VirtualService.
        host: String = "host",
        /// The subset of a DestinationRule; empty: all endpoints.
        subset: String = "subset",
        /// The port. Required if the service has several.
        port: Option<PortSelector> = "port",
    }
}

message! {
    /// A port, by its number.
    PortSelector {
        /// The number.
        number: u32 = "number",
    }
}

impl VirtualServiceSpec {
    /// Returns whether other VirtualServices delegate to it: it has no hosts.
    pub fn is_delegate(&self) -> bool {
        self.hosts.is_empty()
    }

    /// Returns whether sidecars route by it.
    pub fn applies_to_mesh(&self) -> bool {
        self.gateways.is_empty() || self.gateways.iter().any(|name| name == MESH_GATEWAY)
    }
}
