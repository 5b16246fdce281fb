//! ServiceEntry, WorkloadEntry and WorkloadGroup: services that are not Kubernetes Services, and workloads that are not pods.

use std::borrow::Cow;
use std::collections::BTreeMap;

use kube::core::ObjectMeta;
use serde_json::Value;

use super::json::{message, object, words};

object! {
    /// Istio's ServiceEntry resource.
    ServiceEntry: ServiceEntrySpec, "networking.istio.io", "ServiceEntry", "serviceentries"
}

object! {
    /// Istio's WorkloadEntry resource.
    WorkloadEntry: WorkloadEntrySpec in with_registration,
    "networking.istio.io", "v1", "WorkloadEntry", "workloadentries"
}

object! {
    /// Istio's WorkloadGroup resource.
    WorkloadGroup: WorkloadGroupSpec, "networking.istio.io", "WorkloadGroup", "workloadgroups"
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
        /// The WorkloadGroup for which the object was registered; empty: none. Of the metadata, not of the spec.
        group: String = "metadata.group",
        /// The workload fails its group's probe, or has not passed it yet. Of the status, not of the spec.
        unready: bool = "status.unready",
    }
}

message! {
    /// The spec of a WorkloadGroup: what the WorkloadEntries have that are registered for its workloads.
    WorkloadGroupSpec {
        /// The metadata of WorkloadEntries. The labels are labels of the workload as well.
        metadata: GroupMetadata = "metadata",
        /// The spec of WorkloadEntries. The address is the workload's own.
        template: WorkloadEntrySpec = "template",
        /// The check that decides whether a workload is ready.
        probe: Option<ReadinessProbe> = "probe",
    }
}

message! {
    /// Metadata of WorkloadEntries.
    GroupMetadata {
        /// The labels.
        labels: BTreeMap<String, String> = "labels",
        /// The annotations.
        annotations: BTreeMap<String, String> = "annotations",
    }
}

message! {
    /// A check of an application. One of the four handlers is set.
    ReadinessProbe {
        /// Seconds before the first check.
        initial_delay_seconds: u32 = "initialDelaySeconds",
        /// Seconds that one check may take; 0: 1.
        timeout_seconds: u32 = "timeoutSeconds",
        /// Seconds between checks; 0: 10.
        period_seconds: u32 = "periodSeconds",
        /// The checks in a row that succeed before the application is ready; 0: 1.
        success_threshold: u32 = "successThreshold",
        /// The checks in a row that fail before the application is not ready; 0: 3.
        failure_threshold: u32 = "failureThreshold",
        /// A request that is answered with a status from 200 to 399.
        http_get: Option<HttpProbe> = "httpGet",
        /// A connection that is accepted.
        tcp_socket: Option<TcpProbe> = "tcpSocket",
        /// A command that exits with 0.
        exec: Option<ExecProbe> = "exec",
        /// A health check by gRPC that is answered with SERVING.
        grpc: Option<GrpcProbe> = "grpc",
    }
}

message! {
    /// A check by a request.
    HttpProbe {
        /// The path; empty: `/`.
        path: String = "path",
        /// The port.
        port: u32 = "port",
        /// The host to connect to; empty: the workload's own address.
        host: String = "host",
        /// `HTTP` or `HTTPS`; empty: HTTP.
        scheme: String = "scheme",
        /// Further headers.
        http_headers: Vec<ProbeHeader> = "httpHeaders",
    }
}

message! {
    /// A header of a check.
    ProbeHeader {
        /// The name.
        name: String = "name",
        /// The value.
        value: String = "value",
    }
}

message! {
    /// A check by a connection.
    TcpProbe {
        /// The host to connect to; empty: the workload's own address.
        host: String = "host",
        /// The port.
        port: u32 = "port",
    }
}

message! {
    /// A check by a command.
    ExecProbe {
        /// The command and its arguments, without a shell.
        command: Vec<String> = "command",
    }
}

message! {
    /// A check by gRPC.
    GrpcProbe {
        /// The port.
        port: u32 = "port",
        /// The service; empty: the server as a whole.
        service: String = "service",
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

/// The label of an endpoint with a sidecar or another server of the mesh's mutual TLS, if its value is `istio`. Without it, an
/// endpoint with a service account is one.
pub const TLS_MODE: &str = "security.istio.io/tlsMode";

/// The annotation of a WorkloadEntry with the WorkloadGroup for which it was registered.
pub const GROUP_ANNOTATION: &str = "istio.io/autoRegistrationGroup";

/// The annotation of a WorkloadEntry whose condition `Healthy` decides whether it has traffic, if its value is `true`.
pub const HEALTH_CHECKED: &str = "proxy.istio.io/health-checks-enabled";

/// The condition of a WorkloadEntry that says whether its workload passes the probe.
pub const HEALTHY: &str = "Healthy";

/// Returns the spec of a WorkloadEntry with what its registration says of it in metadata and status.
fn with_registration(object: &Value) -> Option<Cow<'_, Value>> {
    let spec = object.get("spec")?;
    let annotations = &object["metadata"]["annotations"];
    let (group, checked) = (annotations[GROUP_ANNOTATION].as_str(), annotations[HEALTH_CHECKED] == "true");
    if group.is_none() && !checked {
        return Some(Cow::Borrowed(spec));
    }
    let mut spec = spec.clone();
    if let Some(fields) = spec.as_object_mut() {
        let conditions = object["status"]["conditions"].as_array();
        let healthy = |of: &Value| of["type"] == HEALTHY && of["status"] == "True";
        let unready = checked && !conditions.into_iter().flatten().any(healthy);
        fields.insert("metadata.group".into(), group.unwrap_or_default().into());
        fields.insert("status.unready".into(), unready.into());
    }
    Some(Cow::Owned(spec))
}

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

    /// Returns whether requests or connections have the name of their host.
    pub fn names_hosts(&self) -> bool {
        matches!(&*self.protocol.to_ascii_uppercase(), "HTTP" | "HTTP2" | "GRPC" | "GRPC-WEB" | "HTTPS" | "TLS")
    }

    /// Returns the port of an endpoint.
    pub fn target(&self) -> u32 {
        if self.target_port == 0 { self.number } else { self.target_port }
    }
}

impl WorkloadEntrySpec {
    /// Returns whether it accepts the mesh's mutual TLS: its label says so, else it has a service account, as in Istio.
    pub fn accepts_mutual_tls(&self) -> bool {
        self.labels.get(TLS_MODE).map_or(!self.service_account.is_empty(), |mode| mode == "istio")
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
