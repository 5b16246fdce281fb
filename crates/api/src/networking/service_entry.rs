//! ServiceEntry and WorkloadEntry: services that are not Kubernetes Services, and workloads that are not pods.

use std::collections::BTreeMap;

use kube::core::ObjectMeta;

use super::json::{message, object, words};

object! {
    /// Istio's ServiceEntry resource.
    ServiceEntry: ServiceEntrySpec, "networking.istio.io", "ServiceEntry", "serviceentries"
}

object! {
    /// Istio's WorkloadEntry resource.
    WorkloadEntry: WorkloadEntrySpec, "networking.istio.io", "WorkloadEntry", "workloadentries"
}

message! {
    /// The spec of a ServiceEntry.
    ServiceEntrySpec {
        /// The hosts, each a service of its own.
        hosts: Vec<String> = "hosts",
        /// The addresses at which applications reach the hosts; empty: the controller allocates one for each.
        addresses: Vec<String> = "addresses",
        /// The ports.
        ports: Vec<EntryPort> = "ports",
        /// Where the endpoints are.
        location: Location = "location",
        /// How endpoints are found.
        resolution: Resolution = "resolution",
        /// The endpoints; with DNS, empty: the hosts themselves.
        endpoints: Vec<WorkloadEntrySpec> = "endpoints",
        /// The pods and WorkloadEntries of the namespace that are the endpoints.
        workload_selector: Option<EntrySelector> = "workloadSelector",
        /// The namespaces in which it has effect: `.`, `*` or names; empty: as the mesh settings say, else all.
        export_to: Vec<String> = "exportTo",
        /// The identities that endpoints may present; empty: those of their service accounts.
        subject_alt_names: Vec<String> = "subjectAltNames",
    }
}

message! {
    /// A port of a ServiceEntry.
    EntryPort {
        /// The number.
        number: u32 = "number",
        /// The protocol.
        protocol: String = "protocol",
        /// The name.
        name: String = "name",
        /// The port of endpoints; 0: the same number.
        target_port: u32 = "targetPort",
    }
}

message! {
    /// Workloads, by their labels.
    EntrySelector {
        /// The labels.
        labels: BTreeMap<String, String> = "labels",
    }
}

message! {
    /// A workload that is not a pod: the spec of a WorkloadEntry, or an endpoint of a ServiceEntry.
    WorkloadEntrySpec {
        /// An IP address, with DNS also a name; empty: it is reached through the gateways of its network.
        address: String = "address",
        /// Ports by the names of the service's ports.
        ports: BTreeMap<String, u32> = "ports",
        /// The labels.
        labels: BTreeMap<String, String> = "labels",
        /// The network; empty: reached directly.
        network: String = "network",
        /// The locality: `region/zone/subzone`.
        locality: String = "locality",
        /// The weight relative to the other endpoints; 0: 1.
        weight: u32 = "weight",
        /// The service account of its identity, in the namespace of the object.
        service_account: String = "serviceAccount",
    }
}

words! {
    /// Where the endpoints of a ServiceEntry are.
    Location {
        /// Outside of the mesh: they have no identity.
        #[default]
        External = "MESH_EXTERNAL",
        /// In the mesh.
        Internal = "MESH_INTERNAL",
    }
}

words! {
    /// How the endpoints of a ServiceEntry are found.
    Resolution {
        /// The endpoint is the address that the application connects to.
        #[default]
        None = "NONE",
        /// The endpoints have addresses.
        Static = "STATIC",
        /// The names of the endpoints are resolved, and each of their addresses is an endpoint.
        Dns = "DNS",
        /// The name of the endpoint is resolved, and its first address is the endpoint.
        DnsRoundRobin = "DNS_ROUND_ROBIN",
        /// The name of each request is resolved.
        DynamicDns = "DYNAMIC_DNS",
    }
}

/// The label of an endpoint with a sidecar or another server of the mesh's mutual TLS, if its value is `istio`.
pub const TLS_MODE: &str = "security.istio.io/tlsMode";

/// The label of a ServiceEntry that has no address allocated, if its value is `false`.
pub const AUTO_ALLOCATE: &str = "networking.istio.io/enable-autoallocate-ip";

impl Resolution {
    /// Returns whether names are resolved.
    pub fn is_dns(self) -> bool {
        matches!(self, Resolution::Dns | Resolution::DnsRoundRobin | Resolution::DynamicDns)
    }
}

/// Returns whether the controller may allocate an address for the hosts of a ServiceEntry.
pub fn allocates(metadata: &ObjectMeta) -> bool {
    metadata.labels.as_ref().and_then(|labels| labels.get(AUTO_ALLOCATE)).is_none_or(|value| value != "false")
}

impl EntryPort {
    /// Returns whether connections to the port are TCP connections.
    pub fn is_tcp(&self) -> bool {
        !self.protocol.eq_ignore_ascii_case("UDP")
    }

    /// Returns the port of an endpoint.
    pub fn target(&self) -> u32 {
        if self.target_port == 0 { self.number } else { self.target_port }
    }
}

impl WorkloadEntrySpec {
    /// Returns whether it accepts the mesh's mutual TLS.
    pub fn accepts_mutual_tls(&self) -> bool {
        self.labels.get(TLS_MODE).is_some_and(|mode| mode == "istio")
    }

    /// Returns the port of the endpoint for a port of the service.
    pub fn port(&self, of: &EntryPort) -> u32 {
        self.ports.get(&of.name).copied().unwrap_or_else(|| of.target())
    }
}

/// Returns whether an address is that of a Unix socket.
pub fn is_unix(address: &str) -> bool {
    address.starts_with("unix://")
}
