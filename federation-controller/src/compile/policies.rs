//! Policies: resources of their own, to which workloads refer by name.
//!
//! A policy that selects a thousand pods is compiled once and sent once to each of their proxies. The tables are the place
//! to add a kind of policy; see `docs/adding-a-kind.md`.

use api::security::peer_authentication::Mode;
use prost::Message;
use wire::discovery::{PeerAuthentication, PeerMode, Workload};
use wire::{Kind as ResourceKind, name};

use super::authentication;
use super::authorization::{self, TrustDomains};
use super::external;
use super::rate_limits::compile as compile_limits;
use super::resource::{Audience, Resource};
use super::scope;
use crate::inventory::{ClusterInventory, Inventory};
use crate::objects::{Key, Kind, Labels, Pod, Record as _, Text};

/// Compiles the resource of a policy object.
type Compile = fn(&Inventory, &ClusterInventory, &Key) -> Option<Resource>;

/// Adds the references to the policies that apply to a pod.
type Refer = fn(&Inventory, &ClusterInventory, &Pod, &mut Workload);

/// The kinds of objects with a resource of their own.
const COMPILE: &[(Kind, Compile)] = &[
    (Kind::Sidecar, scope::compile),
    (Kind::AuthorizationPolicy, authorization_policy),
    (Kind::PeerAuthentication, peer_authentication),
    (Kind::RequestAuthentication, request_authentication),
    (Kind::EnvoyFilter, envoy_filter),
    (Kind::RateLimit, rate_limit),
    (Kind::HttpLocalRateLimitPolicy, local_rate_limit),
];

/// The references of workloads.
const REFER: &[Refer] = &[peer_authentication_names, authorization_policies, request_authentications, rate_limits];

/// Compiles the resource of a policy object. Returns `None` if the object does not exist or has no effect.
pub(super) fn compile(inventory: &Inventory, kind: Kind, cluster: &Text, key: &Key) -> Option<Resource> {
    let (_, compile) = COMPILE.iter().find(|(of, _)| *of == kind)?;
    compile(inventory, inventory.cluster(cluster)?, key)
}

/// Adds the references to all policies that apply to a pod.
pub(super) fn refer(inventory: &Inventory, cluster: &ClusterInventory, pod: &Pod, workload: &mut Workload) {
    REFER.iter().for_each(|refer| refer(inventory, cluster, pod, workload));
}

/// Returns the security policies of the controller's own cluster that apply to a pod.
pub(crate) fn own_policies(inventory: &Inventory, cluster: &ClusterInventory, pod: &Pod) -> Vec<(Kind, Key)> {
    let namespaces = [&pod.namespace, &inventory.settings().root_namespace];
    let mut found = Vec::new();
    if let Some(own) = inventory.primary() {
        let authorization = own.authorization_policies().selecting(&namespaces, &pod.labels);
        found.extend(authorization.map(|policy| (Kind::AuthorizationPolicy, policy.key())));
        let tokens = own.request_authentications().selecting(&namespaces, &pod.labels);
        found.extend(tokens.map(|policy| (Kind::RequestAuthentication, policy.key())));
        let filters = own.envoy_filters().selecting(&namespaces, &pod.labels);
        found.extend(filters.map(|filter| (Kind::EnvoyFilter, filter.key())));
        let limits = own.rate_limits().selecting(&namespaces, &pod.labels);
        found.extend(limits.map(|limit| (Kind::RateLimit, limit.key())));
        let servers = own.servers().selecting(&namespaces[..1], &pod.labels);
        let local = servers.filter_map(|server| own.local_rate_limit_of(&server.key()));
        found.extend(local.map(|policy| (Kind::HttpLocalRateLimitPolicy, policy.key())));
    }
    let modes = peer_authentications_of(inventory, cluster, &pod.namespace, &pod.labels).into_iter();
    let modes = modes.filter(|(source, _)| source.info.own);
    found.extend(modes.map(|(_, policy)| (Kind::PeerAuthentication, policy.key())));
    found
}

/// Returns the names of the resources of a proxy's policies.
pub(crate) fn names_in(workload: &Workload) -> impl Iterator<Item = (ResourceKind, &str)> {
    let modes = std::iter::once(&workload.peer_authentication).chain(&workload.peer_authentication_overrides);
    modes
        .map(|name| (ResourceKind::PeerAuthentication, name.as_str()))
        .chain(workload.authorization_policies.iter().map(|name| (ResourceKind::AuthorizationPolicy, name.as_str())))
        .chain(workload.request_authentications.iter().map(|name| (ResourceKind::RequestAuthentication, name.as_str())))
        .chain(workload.rate_limits.iter().map(|name| (ResourceKind::RateLimit, name.as_str())))
}

/// Returns the policies that apply while no object of their kind exists.
pub(super) fn defaults() -> Vec<Resource> {
    // Istio's default permits plaintext.
    let permissive = PeerAuthentication { mode: PeerMode::Permissive.into(), ports: Default::default() };
    vec![Resource::for_all(ResourceKind::PeerAuthentication, name::MESH, permissive.encode_to_vec())]
}

/// Returns the resource of a security policy. The policies of the controller's own cluster are for the workloads of all
/// clusters that it serves, those of another cluster for its own; those of the root namespace are for every namespace.
pub(super) fn resource(
    inventory: &Inventory,
    cluster: &ClusterInventory,
    key: &Key,
    kind: ResourceKind,
    message: &impl Message,
) -> Resource {
    let clusters: Box<[Text]> = if cluster.info.own { Box::default() } else { [cluster.info.name.clone()].into() };
    let audience = match (key.namespace == inventory.settings().root_namespace, clusters.is_empty()) {
        (false, _) => Audience::Namespaces { clusters, namespaces: [key.namespace.clone()].into() },
        (true, false) => Audience::Clusters(clusters),
        (true, true) => Audience::All,
    };
    let body = message.encode_to_vec().into();
    Resource { kind, name: name_of(cluster, key).into(), keys: Box::default(), audience, body }
}

/// Returns the name of the resource of a policy object.
pub(super) fn name_of(cluster: &ClusterInventory, key: &Key) -> String {
    format!("{}/{key}", cluster.info.name)
}

fn authorization_policy(inventory: &Inventory, cluster: &ClusterInventory, key: &Key) -> Option<Resource> {
    let policy = cluster.authorization_policies().get(key)?;
    let domains = TrustDomains { own: inventory.trust_domain(), aliases: &inventory.mesh().trust_domain_aliases };
    let spec = policy.spec.as_ref()?;
    let mut message = authorization::compile(policy, spec, &domains);
    // Of a provider that does not exist, the policy refuses what it matches.
    let provider = spec.provider.as_ref().and_then(|of| inventory.external_authorization(&of.name).ok());
    message.external = provider.map(external::compile);
    Some(resource(inventory, cluster, key, ResourceKind::AuthorizationPolicy, &message))
}

fn request_authentication(inventory: &Inventory, cluster: &ClusterInventory, key: &Key) -> Option<Resource> {
    let policy = cluster.request_authentications().get(key)?;
    let message = authentication::compile(inventory, policy, policy.spec.as_ref()?)?;
    Some(resource(inventory, cluster, key, ResourceKind::RequestAuthentication, &message))
}

fn envoy_filter(inventory: &Inventory, cluster: &ClusterInventory, key: &Key) -> Option<Resource> {
    let filter = cluster.envoy_filters().get(key)?;
    let (limits, _) = filter.spec.as_ref()?.translate();
    let message = compile_limits(Kind::EnvoyFilter, key, &limits)?;
    Some(limits_resource(inventory, cluster, Kind::EnvoyFilter, key, &message))
}

fn rate_limit(inventory: &Inventory, cluster: &ClusterInventory, key: &Key) -> Option<Resource> {
    let limits = cluster.rate_limits().get(key)?.spec.as_ref()?.limits();
    let message = compile_limits(Kind::RateLimit, key, &limits)?;
    Some(limits_resource(inventory, cluster, Kind::RateLimit, key, &message))
}

fn local_rate_limit(inventory: &Inventory, cluster: &ClusterInventory, key: &Key) -> Option<Resource> {
    let spec = cluster.local_rate_limits().get(key)?.spec.as_ref()?;
    let server = Key::new(&key.namespace, &spec.target_ref.name);
    let port = cluster.servers().get(&server)?.spec.as_ref()?.port_number()?;
    let message = compile_limits(Kind::HttpLocalRateLimitPolicy, key, &spec.limits(&key.namespace, port))?;
    Some(limits_resource(inventory, cluster, Kind::HttpLocalRateLimitPolicy, key, &message))
}

/// Returns the resource of limits on rates, whose names have the kind of the object.
fn limits_resource(
    inventory: &Inventory,
    cluster: &ClusterInventory,
    kind: Kind,
    key: &Key,
    message: &impl Message,
) -> Resource {
    let resource = resource(inventory, cluster, key, ResourceKind::RateLimit, message);
    Resource { name: limits_name(cluster, kind, key).into(), ..resource }
}

fn limits_name(cluster: &ClusterInventory, kind: Kind, key: &Key) -> String {
    format!("{}/{}", name_of(cluster, key), kind.as_str())
}

fn peer_authentication(inventory: &Inventory, cluster: &ClusterInventory, key: &Key) -> Option<Resource> {
    let spec = cluster.peer_authentications().get(key)?.spec.as_ref()?;
    let message = PeerAuthentication {
        mode: mode(spec.mode()).into(),
        ports: spec.ports().map(|(port, of)| (port.into(), mode(of).into())).collect(),
    };
    Some(resource(inventory, cluster, key, ResourceKind::PeerAuthentication, &message))
}

fn mode(mode: Mode) -> PeerMode {
    match mode {
        Mode::Unset => PeerMode::Unset,
        Mode::Disable => PeerMode::Disable,
        Mode::Permissive => PeerMode::Permissive,
        Mode::Strict => PeerMode::Strict,
    }
}

/// Returns the clusters whose security policies are for a cluster's workloads: itself and the controller's own.
fn sources<'a>(
    inventory: &'a Inventory,
    cluster: &'a ClusterInventory,
) -> impl Iterator<Item = &'a ClusterInventory> + use<'a> {
    let primary = inventory.primary().filter(|_| !cluster.info.own);
    [cluster].into_iter().chain(primary)
}

fn authorization_policies(inventory: &Inventory, cluster: &ClusterInventory, pod: &Pod, workload: &mut Workload) {
    let namespaces = [&pod.namespace, &inventory.settings().root_namespace];
    for source in sources(inventory, cluster) {
        let selecting = source.authorization_policies().selecting(&namespaces, &pod.labels);
        workload.authorization_policies.extend(selecting.map(|policy| name_of(source, &policy.key())));
    }
    workload.authorization_policies.sort_unstable();
    workload.authorization_policies.dedup();
}

fn request_authentications(inventory: &Inventory, cluster: &ClusterInventory, pod: &Pod, workload: &mut Workload) {
    let namespaces = [&pod.namespace, &inventory.settings().root_namespace];
    for source in sources(inventory, cluster) {
        let selecting = source.request_authentications().selecting(&namespaces, &pod.labels);
        workload.request_authentications.extend(selecting.map(|policy| name_of(source, &policy.key())));
    }
    workload.request_authentications.sort_unstable();
    workload.request_authentications.dedup();
}

/// Limits are read in the controller's own cluster. EnvoyFilters come first, in the order in which Istio applies them: by priority,
/// those of the root namespace before others, then by age.
fn rate_limits(inventory: &Inventory, _: &ClusterInventory, pod: &Pod, workload: &mut Workload) {
    let Some(own) = inventory.primary() else { return };
    let root = &inventory.settings().root_namespace;
    let namespaces = [&pod.namespace, root];
    let mut filters: Vec<_> = own.envoy_filters().selecting(&namespaces, &pod.labels).collect();
    filters.sort_by_key(|of| (of.spec.as_ref().map_or(0, |spec| spec.priority), of.namespace != *root, of.age()));
    filters.dedup_by_key(|of| of.key());
    let mut limits: Vec<_> = own.rate_limits().selecting(&namespaces, &pod.labels).collect();
    limits.sort_by_key(|of| (of.namespace != *root, of.age()));
    limits.dedup_by_key(|of| of.key());
    let of_filters = filters.into_iter().map(|of| limits_name(own, Kind::EnvoyFilter, &of.key()));
    let of_limits = limits.into_iter().map(|of| limits_name(own, Kind::RateLimit, &of.key()));
    // Servers select pods of their own namespace, also in the root namespace.
    let servers = own.servers().selecting(&namespaces[..1], &pod.labels);
    let servers = servers.filter(|of| of.spec.as_ref().is_some_and(|spec| spec.port_number().is_some()));
    let mut local: Vec<String> = servers
        .filter_map(|server| own.local_rate_limit_of(&server.key()))
        .map(|policy| limits_name(own, Kind::HttpLocalRateLimitPolicy, &policy.key()))
        .collect();
    local.sort_unstable();
    local.dedup();
    workload.rate_limits = of_filters.chain(of_limits).chain(local).collect();
}

fn peer_authentication_names(inventory: &Inventory, cluster: &ClusterInventory, pod: &Pod, workload: &mut Workload) {
    workload.peer_authentication = name::MESH.to_owned();
    let layers = peer_authentications_of(inventory, cluster, &pod.namespace, &pod.labels);
    workload.peer_authentication_overrides =
        layers.into_iter().map(|(source, policy)| name_of(source, &policy.key())).collect();
}

/// Returns the PeerAuthentications in force for a pod: of its own selector, its namespace and the mesh, the oldest of each.
fn peer_authentications_of<'a>(
    inventory: &'a Inventory,
    cluster: &'a ClusterInventory,
    namespace: &Text,
    labels: &'a Labels,
) -> Vec<(&'a ClusterInventory, &'a crate::objects::PeerAuthentication)> {
    let root = &inventory.settings().root_namespace;
    let mut oldest: [Option<(&ClusterInventory, &crate::objects::PeerAuthentication)>; 3] = [None; 3];
    for source in sources(inventory, cluster) {
        for policy in source.peer_authentications().selecting(&[namespace, root], labels) {
            let selects = policy.spec.as_ref().is_some_and(|spec| spec.selects());
            let scope = match (selects, policy.namespace == *root) {
                // One with a selector is for its own namespace, also in the root namespace.
                (true, _) if policy.namespace != *namespace => continue,
                (true, _) => 0,
                (false, false) => 1,
                (false, true) => 2,
            };
            if oldest[scope].is_none_or(|(_, of)| policy.age() < of.age()) {
                oldest[scope] = Some((source, policy));
            }
        }
    }
    oldest.into_iter().flatten().collect()
}

/// Returns the ports of a pod, of the given ones, on which its sidecar terminates no TLS.
pub(super) fn plaintext_ports(
    inventory: &Inventory,
    cluster: &ClusterInventory,
    pod: &Pod,
    ports: impl Iterator<Item = u16>,
) -> Box<[u16]> {
    let layers = peer_authentications_of(inventory, cluster, &pod.namespace, &pod.labels);
    if layers.is_empty() {
        return Box::default();
    }
    let specs: Vec<_> = layers.iter().filter_map(|(_, policy)| policy.spec.as_ref()).collect();
    let disabled = |port: &u16| {
        let modes = specs.iter().flat_map(|spec| {
            let of_port = spec.ports().find(|(of, _)| of == port).map(|(_, mode)| mode);
            of_port.into_iter().chain([spec.mode()])
        });
        modes.into_iter().find(|mode| *mode != Mode::Unset) == Some(Mode::Disable)
    };
    let mut plaintext: Vec<u16> = ports.filter(disabled).collect();
    plaintext.sort_unstable();
    plaintext.dedup();
    plaintext.into()
}
