//! Formats and parses the names of resources, aliases and collections, node ids and server names.
//!
//! The header of `proto/isthmus/discovery/v1/resources.proto` defines the names. Clusters, networks, namespaces and
//! pods are DNS labels or subdomains, so none of the separators `@`, `/` and `~` can occur in them.

use std::net::IpAddr;

use bytes::Bytes;

/// The name of the only [`crate::discovery::Trust`] and of the only [`crate::discovery::MeshConfig`].
pub const MESH: &str = "mesh";

/// Returns `@<cluster>/<ip>`: the alias of the service with this virtual address in the cluster, and of the services
/// with an endpoint at this pod address.
pub fn address(cluster: &str, ip: IpAddr) -> String {
    format!("@{cluster}/{ip}")
}

/// Parses the form of [`address`] into cluster and address.
pub fn parse_address(name: &str) -> Option<(&str, IpAddr)> {
    let (cluster, ip) = name.strip_prefix('@')?.split_once('/')?;
    Some((cluster, ip.parse().ok()?))
}

/// Returns `exported@<network>`: the collection of services that a cluster of the network exports.
pub fn exported(network: &str) -> String {
    format!("exported@{network}")
}

/// Parses the form of [`exported`], and returns the network.
pub fn parse_exported(name: &str) -> Option<&str> {
    name.strip_prefix("exported@")
}

/// Returns `<hostname>@<network>`: the collection of a service's endpoints as seen from the network.
pub fn endpoints(hostname: &str, network: &str) -> String {
    format!("{hostname}@{network}")
}

/// Parses the form of [`endpoints`] into hostname and network.
pub fn parse_endpoints(name: &str) -> Option<(&str, &str)> {
    let (hostname, network) = name.split_once('@')?;
    (!hostname.is_empty() && !network.contains(['/', '@'])).then_some((hostname, network))
}

/// Returns `<hostname>@<network>/<cluster>/<id>`: the name of one [`crate::discovery::Endpoint`]. `network` is the
/// endpoint's network, or [`SUMMARY`] for a summary.
pub fn endpoint(hostname: &str, network: &str, cluster: &str, id: &str) -> String {
    format!("{hostname}@{network}/{cluster}/{id}")
}

/// The network in the name of a summary.
pub const SUMMARY: &str = "*";

/// The parts of an endpoint's name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EndpointName<'a> {
    /// The service's hostname.
    pub hostname: &'a str,
    /// The endpoint's network, or [`SUMMARY`] for a summary.
    pub network: &'a str,
    /// The endpoint's cluster.
    pub cluster: &'a str,
    /// An identifier that is unique among the service's endpoints in the cluster.
    pub id: &'a str,
}

/// Parses the form of [`endpoint`].
pub fn parse_endpoint(name: &str) -> Option<EndpointName<'_>> {
    let (hostname, rest) = name.split_once('@')?;
    let mut parts = rest.splitn(3, '/');
    Some(EndpointName { hostname, network: parts.next()?, cluster: parts.next()?, id: parts.next()? })
}

/// Returns `<cluster>/<namespace>/<pod>`: the name of a proxy's own [`crate::discovery::Workload`].
pub fn workload(cluster: &str, namespace: &str, pod: &str) -> String {
    format!("{cluster}/{namespace}/{pod}")
}

/// Parses the form of [`workload`] into cluster, namespace and pod.
pub fn parse_workload(name: &str) -> Option<(&str, &str, &str)> {
    let mut parts = name.split('/');
    let workload = (parts.next()?, parts.next()?, parts.next()?);
    parts.next().is_none().then_some(workload)
}

/// The beginning of the name in a node id and in the name of a [`crate::discovery::Workload`], in the place of the pod's, of a
/// workload that is no pod. The name of its WorkloadEntry follows. No pod has a colon in its name.
const WORKLOAD_ENTRY: &str = "workloadentry:";

/// Returns `workloadentry:<name>`, which stands for the pod of a workload that is none.
pub fn workload_entry(name: &str) -> String {
    format!("{WORKLOAD_ENTRY}{name}")
}

/// Parses the form of [`workload_entry`], and returns the name of the WorkloadEntry.
pub fn parse_workload_entry(pod: &str) -> Option<&str> {
    pod.strip_prefix(WORKLOAD_ENTRY)
}

/// Returns `<group>-<address>[-<network>]`: the name of the WorkloadEntry that the controller registers for a proxy of a
/// WorkloadGroup, as Istio names it.
pub fn registered(group: &str, ip: IpAddr, network: &str) -> String {
    let ip = ip.to_string().replace(':', "-");
    match network {
        "" => format!("{group}-{ip}"),
        network => format!("{group}-{ip}-{network}"),
    }
}

/// The role of a proxy: the first part of its node id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Role {
    /// The proxy beside a pod's application.
    Sidecar,
    /// An ingress or egress gateway.
    Router,
    /// The gateway at the edge of a network, which forwards mutual-TLS connections by SNI.
    EastWestGateway,
}

impl Role {
    /// All roles.
    pub const ALL: [Role; 3] = [Role::Sidecar, Role::Router, Role::EastWestGateway];

    /// Returns the role as a node id spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Sidecar => "sidecar",
            Role::Router => "router",
            Role::EastWestGateway => "eastwest",
        }
    }

    fn parse(text: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.as_str() == text)
    }
}

/// A node id, which identifies a proxy in discovery: `<role>~<ip>~<pod>.<namespace>~<cluster>`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Node {
    /// The proxy's role.
    pub role: Role,
    /// The proxy's address.
    pub ip: IpAddr,
    /// The name of the proxy's pod.
    pub pod: String,
    /// The namespace of the proxy's pod.
    pub namespace: String,
    /// The proxy's cluster.
    pub cluster: String,
}

impl std::fmt::Display for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}~{}~{}.{}~{}", self.role.as_str(), self.ip, self.pod, self.namespace, self.cluster)
    }
}

/// Why a node id is not valid.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("node id {id:?} is not `<sidecar|router|eastwest>~<ip>~<pod>.<namespace>~<cluster>`: {part} is not valid")]
pub struct BadNode {
    /// The node id, at most 300 characters of it.
    pub id: String,
    /// The part that is not valid.
    pub part: &'static str,
}

impl std::str::FromStr for Node {
    type Err = BadNode;

    fn from_str(id: &str) -> Result<Self, BadNode> {
        let bad = |part| BadNode { id: id.chars().take(300).collect(), part };
        let mut parts = id.split('~');
        let role = parts.next().and_then(Role::parse).ok_or_else(|| bad("the role"))?;
        let ip = parts.next().and_then(|ip| ip.parse().ok()).ok_or_else(|| bad("the address"))?;
        // A pod's name may contain dots, a namespace may not.
        let (pod, namespace) = parts.next().and_then(|pod| pod.rsplit_once('.')).ok_or_else(|| bad("the pod"))?;
        let cluster = parts.next().ok_or_else(|| bad("the cluster"))?;
        let valid = |text: &str| !text.is_empty() && !text.contains(['/', '@']);
        if !valid(pod) || !valid(namespace) {
            return Err(bad("the pod"));
        }
        if !valid(cluster) || parts.next().is_some() {
            return Err(bad("the cluster"));
        }
        Ok(Node { role, ip, pod: pod.into(), namespace: namespace.into(), cluster: cluster.into() })
    }
}

/// Returns an address in the form of the messages: 4 or 16 bytes, network order.
pub fn ip_to_bytes(ip: IpAddr) -> Bytes {
    match ip {
        IpAddr::V4(ip) => Bytes::copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => Bytes::copy_from_slice(&ip.octets()),
    }
}

/// Parses the form of [`ip_to_bytes`]; returns `None` for any other length.
pub fn ip_of_bytes(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => None,
    }
}

/// Returns `outbound_.<service port>_.<subset>_.<hostname>`: the server name (SNI) by which a gateway forwards.
pub fn sni(port: u16, subset: &str, hostname: &str) -> String {
    format!("outbound_.{port}_.{subset}_.{hostname}")
}

/// Parses the form of [`sni`] into service port, subset and hostname.
pub fn parse_sni(name: &str) -> Option<(u16, &str, &str)> {
    let (port, rest) = name.strip_prefix("outbound_.")?.split_once("_.")?;
    let (subset, hostname) = rest.split_once("_.")?;
    // `str::parse` accepts a plus sign and leading zeros, so that a port would have several names.
    if hostname.is_empty() || port.is_empty() || port.starts_with('0') || !port.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some((port.parse().ok()?, subset, hostname))
}

/// Returns the path of a claim of a token, as authorization policies write it after `request.auth.claims`: each name in
/// brackets.
pub fn claim_path(text: &str) -> Option<Vec<&str>> {
    let names = text.strip_prefix('[')?.strip_suffix(']')?.split("][");
    names.map(|name| (!name.is_empty() && !name.contains(['[', ']'])).then_some(name)).collect()
}

/// What precedes the claim in the name of a header that a route's condition on a claim has.
const ROUTED_CLAIM: &str = "@request.auth.claims";

/// Returns the path of the claim of a condition of a route: `@request.auth.claims.a.b` or `@request.auth.claims[a][b]`, as in
/// VirtualServices.
pub fn routed_claim(name: &str) -> Option<Vec<&str>> {
    let rest = name.strip_prefix(ROUTED_CLAIM)?;
    match rest.strip_prefix('.') {
        Some(dotted) => dotted.split('.').map(|name| (!name.is_empty()).then_some(name)).collect(),
        None => claim_path(rest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resource_names_parse_to_their_parts() {
        let ip: IpAddr = "10.96.0.7".parse().unwrap();
        assert_eq!(parse_address(&address("west", ip)), Some(("west", ip)));
        assert_eq!(parse_address("west/10.0.0.1"), None);
        assert_eq!(parse_address("@west/10.0.0"), None);
        let v6: IpAddr = "2001:db8::1".parse().unwrap();
        assert_eq!(parse_address(&address("west", v6)), Some(("west", v6)));
        assert_eq!(parse_exported(&exported("net-west")), Some("net-west"));
        assert_eq!(parse_endpoints("a.b.svc.cluster.local@net"), Some(("a.b.svc.cluster.local", "net")));
        assert_eq!(parse_endpoints("a@net/c/id"), None);
        assert_eq!(parse_endpoints("@net"), None);
        let name = endpoint("h", "net", "west", "pod-1/x");
        let parts = EndpointName { hostname: "h", network: "net", cluster: "west", id: "pod-1/x" };
        assert_eq!(parse_endpoint(&name), Some(parts));
        assert_eq!(parse_workload("west/default/a-1"), Some(("west", "default", "a-1")));
        assert_eq!(parse_workload("west/default"), None);
        assert_eq!(parse_workload("west/default/a/b"), None);
    }

    #[test]
    fn node_ids_round_trip_and_errors_name_the_invalid_part() {
        let id = "sidecar~10.244.0.5~front.end-1.default~west";
        let node: Node = id.parse().unwrap();
        assert_eq!((node.pod.as_str(), node.namespace.as_str()), ("front.end-1", "default"));
        assert_eq!(node.to_string(), id);
        for role in Role::ALL {
            let id = format!("{}~10.244.0.5~a-1.default~west", role.as_str());
            assert_eq!(id.parse::<Node>().map(|node| (node.role, node.to_string())), Ok((role, id)));
        }
        for (id, part) in [
            ("", "the role"),
            ("proxy~1.1.1.1~a.b~c", "the role"),
            ("sidecar~1.1.1~a.b~c", "the address"),
            ("sidecar~1.1.1.1~ab~c", "the pod"),
            ("sidecar~1.1.1.1~a.~c", "the pod"),
            ("sidecar~1.1.1.1~a/x.b~c", "the pod"),
            ("sidecar~1.1.1.1~a.b", "the cluster"),
            ("sidecar~1.1.1.1~a.b~c~d", "the cluster"),
        ] {
            assert_eq!(id.parse::<Node>().unwrap_err().part, part, "{id}");
        }
    }

    #[test]
    fn a_server_name_has_one_form() {
        let name = sni(9080, "", "ratings.default.svc.cluster.local");
        assert_eq!(name, "outbound_.9080_._.ratings.default.svc.cluster.local");
        assert_eq!(parse_sni(&name), Some((9080, "", "ratings.default.svc.cluster.local")));
        assert_eq!(parse_sni("outbound_.80_.v1_.a.b"), Some((80, "v1", "a.b")));
        for bad in [
            "",
            "a.b",
            "outbound_.",
            "outbound_.x_._.a",
            "outbound_.+80_._.a",
            "outbound_.080_._.a",
            "outbound_.70000_._.a",
            "outbound_.80_._.",
        ] {
            assert_eq!(parse_sni(bad), None, "{bad}");
        }
    }

    #[test]
    fn addresses_round_trip() {
        for ip in ["10.0.0.1", "::1"] {
            let ip: IpAddr = ip.parse().unwrap();
            assert_eq!(ip_of_bytes(&ip_to_bytes(ip)), Some(ip));
        }
        assert_eq!(ip_of_bytes(&[1, 2, 3]), None);
    }

    #[test]
    fn a_condition_of_a_route_names_a_claim_with_dots_or_brackets() {
        for (name, path) in [
            ("@request.auth.claims.group", Some(vec!["group"])),
            ("@request.auth.claims.a.b", Some(vec!["a", "b"])),
            ("@request.auth.claims[a.b][c]", Some(vec!["a.b", "c"])),
            ("@request.auth.claims", None),
            ("@request.auth.claims.", None),
            ("@request.auth.claims.a..b", None),
            ("@request.auth.claimsx", None),
            ("x-group", None),
        ] {
            assert_eq!(routed_claim(name), path, "{name}");
        }
    }

    #[test]
    fn claims_have_a_path_of_names_in_brackets() {
        assert_eq!(claim_path("[a]"), Some(vec!["a"]));
        assert_eq!(claim_path("[a.b][https://c/d]"), Some(vec!["a.b", "https://c/d"]));
        for invalid in ["", "a", "[", "[]", "[a", "[a][]", "[a]b[c]", "[[a]]"] {
            assert_eq!(claim_path(invalid), None, "{invalid}");
        }
    }
}
