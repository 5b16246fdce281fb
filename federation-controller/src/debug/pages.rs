//! The contents of the debug pages. State has its age; an unknown value is `null`, never zero.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use wire::Kind;
use wire::delta::{Body, Found as _};
use wire::discovery::{Endpoint, Health, RefusedBy, endpoint};
use wire::name;

use crate::ca::Authorities;
use crate::clusters::{Clusters, LinkState};
use crate::discovery::Shared;
use crate::discovery::refusals::Refused;
use crate::gauges::link_word;
use crate::inventory::{ClusterInventory, Inventory};
use crate::leases::words::Opinion;
use crate::objects::{Key, Kind as Object, Record as _, Service};
use crate::publish::Store;
use crate::service_entries_export::{self, ExportsPage};

/// The page `/debug/clusters`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClustersPage {
    /// The version of the controller.
    #[serde(default)]
    pub version: String,
    /// All clusters, by name.
    pub clusters: Vec<ClusterRow>,
    /// The errors of remote secrets and signing certificates, and the notices, human-readable.
    pub problems: Vec<String>,
}

/// A cluster in `/debug/clusters`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClusterRow {
    /// The name.
    pub name: String,
    /// The role: `primary` for the controller's own cluster, otherwise `remote`.
    pub role: String,
    /// The network; empty if it is unknown.
    pub network: String,
    /// The URL of the API server.
    pub server: String,
    /// The remote secret, as `<namespace>/<name>`; `None` for the own cluster.
    pub secret: Option<String>,
    /// The state of the link: `connecting`, `syncing`, `connected`, `unreachable`, `refused` or `excluded`; `remembered` if only
    /// the snapshot from before a restart is known.
    pub link: String,
    /// Why the link is not connected.
    pub why: Option<String>,
    /// The state of the link with new credentials, until it replaces this link.
    #[serde(default)]
    pub replacement: Option<String>,
    /// The time in this state, in milliseconds.
    pub link_age_ms: u64,
    /// The time since the last answer of the API server, in milliseconds.
    pub contact_age_ms: Option<u64>,
    /// The time since the last object or list, in milliseconds.
    pub heard_age_ms: Option<u64>,
    /// Whether every kind has been listed since the controller started.
    pub synced: bool,
    /// The kinds whose list was empty unexpectedly; their last known objects stay until the list is confirmed.
    pub unconfirmed: Vec<String>,
    /// The number of services, without system services.
    pub services: usize,
    /// The number of exported services.
    pub exported: usize,
    /// The number of ready endpoints of the services.
    pub endpoints: usize,
    /// The number of pods.
    pub pods: usize,
    /// The signing certificate.
    pub trust: Option<TrustRow>,
    /// The lease; `None` for the own cluster.
    #[serde(default)]
    pub lease: Option<LeaseRow>,
}

/// The signing certificate of a cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TrustRow {
    /// The first bytes of the root certificate's fingerprint.
    pub root: String,
    /// Whether an intermediate of its own signs for the cluster.
    pub own_intermediate: bool,
    /// The time until the signing certificate expires, in seconds; `None` if the cluster's own controller signs.
    pub expires_in_s: Option<u64>,
}

/// The lease of a remote cluster: for how long what is known of it holds without proof of life.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct LeaseRow {
    /// The state: `fresh`, `stale`, `drained` or `expired`.
    pub state: String,
    /// The time in this state, in milliseconds.
    pub state_age_ms: u64,
    /// The time until the lease ends without proof of life, in milliseconds.
    pub left_ms: u64,
    /// The clusters for whose proxies its endpoints are the last resort.
    pub drained_for: Vec<String>,
    /// How the proxies of other clusters reach it.
    pub paths: Vec<PathRow>,
}

/// How the proxies of one cluster reach another, by their words of late.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PathRow {
    /// The cluster of the proxies.
    pub viewer: String,
    /// The number of proxies that reach it.
    pub alive: usize,
    /// The number of those that do not.
    pub dead: usize,
}

/// A proxy in `/debug/proxies`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProxyRow {
    /// The node id.
    pub id: String,
    /// The role: `sidecar` or `gateway`.
    pub role: String,
    /// The name of the pod.
    pub pod: String,
    /// The namespace of the pod.
    pub namespace: String,
    /// The cluster of the pod.
    pub cluster: String,
    /// The SPIFFE ID of the certificate.
    pub identity: String,
    /// The source address of the connection.
    pub address: String,
    /// The time since the stream was opened, in milliseconds.
    pub connected_ms: u64,
    /// Whether the proxy has acknowledged every push.
    pub acked: bool,
    /// The age of the oldest push that is not acknowledged, in milliseconds.
    pub lag_ms: u64,
    /// The time until the certificate expires, in seconds.
    pub certificate_expires_in_s: Option<u64>,
    /// The number of subscriptions by resource type.
    pub subscriptions: BTreeMap<String, usize>,
    /// The number of pushes by resource type.
    pub pushes: BTreeMap<String, u64>,
    /// The number of pushed resources.
    pub resources: u64,
    /// The size of the pushed resources, in bytes.
    pub bytes: u64,
    /// The number of rejected pushes.
    pub rejected: u64,
    /// What the proxy has refused since it started, at most 32 rows.
    #[serde(default)]
    pub refusals: Vec<RefusalRow>,
}

/// What a proxy has refused for one reason.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RefusalRow {
    /// The reason: `policy`, `no policy`, `mutual TLS`, `token` or `federation policy`.
    pub by: String,
    /// The AuthorizationPolicy, as `<namespace>/<name>`, if the reason is `policy`.
    pub policy: Option<String>,
    /// The number of requests and connections.
    pub count: u64,
    /// The time since the last one, in milliseconds.
    pub last_age_ms: u64,
}

impl RefusalRow {
    fn of(refused: Refused, now: SystemTime) -> Self {
        let last_age_ms = millis(refused.age(now));
        let by = match refused.by {
            RefusedBy::Policy => "policy",
            RefusedBy::NoPolicy => "no policy",
            RefusedBy::MutualTls => "mutual TLS",
            RefusedBy::Token => "token",
            RefusedBy::Federation => "federation policy",
            RefusedBy::Unspecified => "unknown",
        };
        let policy = Some(refused.policy).filter(|policy| !policy.is_empty());
        RefusalRow { by: by.into(), policy, count: refused.count, last_age_ms }
    }
}

/// The page `/debug/services/<hostname>`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServicePage {
    /// The hostname.
    pub hostname: String,
    /// The clusters that define the service.
    pub clusters: Vec<String>,
    /// The clusters that export the service, each with the reason.
    pub exports: BTreeMap<String, String>,
    /// The differences between the clusters' definitions, and the definition that is used.
    pub conflicts: Vec<String>,
    /// The ports, as `<number>/<name> <protocol>`.
    pub ports: Vec<String>,
    /// The addresses.
    pub addresses: Vec<AddressRow>,
    /// The SPIFFE IDs of the endpoints.
    pub identities: Vec<String>,
    /// The endpoints and summaries.
    pub endpoints: Vec<EndpointRow>,
}

/// An address of a service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AddressRow {
    /// The address.
    pub ip: String,
    /// The cluster in which the address is valid; empty for all clusters without an address of their own.
    pub cluster: String,
}

/// An endpoint or summary of a service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EndpointRow {
    /// The name of the resource.
    pub name: String,
    /// The cluster.
    pub cluster: String,
    /// The network.
    pub network: String,
    /// The locality, as `<region>/<zone>/<subzone>`.
    pub locality: String,
    /// The health: `ready`, `unready` or `draining`.
    pub health: String,
    /// The weight; for a summary the number of ready endpoints.
    pub weight: u32,
    /// The address; `None` for a summary.
    pub ip: Option<String>,
    /// The pod.
    pub pod: Option<String>,
    /// Whether the endpoint accepts mutual TLS.
    pub mutual_tls: bool,
    /// The SPIFFE IDs.
    pub identities: Vec<String>,
}

/// A network in `/debug/gateways`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GatewayRow {
    /// The name of the network.
    pub network: String,
    /// The addresses of the gateways, as `<ip>:<port> (<cluster>)`.
    pub addresses: Vec<String>,
}

/// Formats a link's state with its reason.
fn describe(link: &LinkState) -> String {
    match link {
        LinkState::Unreachable { why } | LinkState::Refused { why } | LinkState::Excluded { why } => {
            format!("{}: {why}", link.word())
        }
        other => other.word().to_owned(),
    }
}

pub(super) fn clusters(shared: &Shared, parts: Option<&(Clusters, Authorities)>) -> ClustersPage {
    let now = SystemTime::now();
    let statuses: BTreeMap<String, crate::clusters::Status> = parts
        .map(|(clusters, _)| clusters.statuses().into_iter().map(|of| (of.name.to_string(), of)).collect())
        .unwrap_or_default();
    let snapshot = parts.map(|(_, authorities)| authorities.now());
    let inventory = shared.state.inventory();
    let store = shared.state.store();
    let rows = inventory.clusters().map(|cluster| {
        let name = cluster.info.name.to_string();
        let status = statuses.get(&name);
        let (link, why) = match status.map(|status| &status.link) {
            Some(LinkState::Unreachable { why } | LinkState::Refused { why } | LinkState::Excluded { why }) => {
                (status.map_or("", |status| status.link.word()), Some(why.clone()))
            }
            Some(state) => (state.word(), None),
            None if inventory.is_remembered(&name) => ("remembered", None),
            None => (link_word(&cluster.link.0), None),
        };
        let trust = snapshot.as_ref().and_then(|snapshot| snapshot.summary(&name)).map(|summary| TrustRow {
            root: summary.root,
            own_intermediate: summary.own_intermediate,
            expires_in_s: summary.not_after.map(|at| at.duration_since(now).unwrap_or_default().as_secs()),
        });
        let (services, exported, endpoints) = counts(&inventory, &store, cluster);
        ClusterRow {
            role: if cluster.info.own { "primary" } else { "remote" }.into(),
            network: cluster.network().to_string(),
            server: cluster.info.server.to_string(),
            secret: status.and_then(|status| status.secret.as_ref()).map(ToString::to_string),
            link: link.into(),
            why,
            replacement: status.and_then(|status| status.replacement.as_ref()).map(describe),
            link_age_ms: millis(age(now, status.map_or(cluster.link.1, |status| status.since))),
            contact_age_ms: status.and_then(|status| status.last_contact).map(|at| millis(age(now, at))),
            heard_age_ms: cluster.heard.map(|at| millis(age(now, at))),
            synced: cluster.synced(),
            unconfirmed: cluster.doubtful().into_iter().map(|kind| kind.as_str().to_string()).collect(),
            services,
            exported,
            endpoints,
            pods: cluster.count(Object::Pod),
            trust,
            lease: lease(&inventory, &name, now),
            name,
        }
    });
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let mut page = ClustersPage { version, clusters: rows.collect(), problems: Vec::new() };
    page.problems.extend(inventory.notices());
    let unwritten = shared.state.unwritten_exports();
    page.problems.extend(unwritten.iter().map(|notice| format!("Cluster {}: {}", notice.cluster, notice.message)));
    if let Some((clusters, _)) = parts {
        page.problems.extend(clusters.problems().iter().map(|problem| match problem.cluster.is_empty() {
            true => format!("Secret {}: {}", problem.secret, problem.why),
            false => format!("Secret {}, cluster {}: {}", problem.secret, problem.cluster, problem.why),
        }));
    }
    if let Some(snapshot) = snapshot {
        page.problems
            .extend(snapshot.problems.iter().map(|problem| format!("Secret {}: {}", problem.secret, problem.why)));
    }
    page
}

/// Returns the lease of a cluster, and how proxies reach it.
fn lease(inventory: &Inventory, cluster: &str, now: SystemTime) -> Option<LeaseRow> {
    let leases = inventory.leases();
    let lease = leases.of(cluster)?;
    let path = |of: Opinion| PathRow { viewer: of.viewer.to_string(), alive: of.alive, dead: of.dead };
    Some(LeaseRow {
        state: lease.state().word().into(),
        state_age_ms: millis(age(now, lease.since())),
        left_ms: millis(lease.left(leases.length(), now)),
        drained_for: lease.drained().iter().map(ToString::to_string).collect(),
        paths: leases.opinions(cluster, now).into_iter().map(path).collect(),
    })
}

/// Returns the number of services without those of the system, how many are exported, and their ready endpoints.
fn counts(inventory: &Inventory, store: &Store, cluster: &ClusterInventory) -> (usize, usize, usize) {
    let mut counted = (0, 0, 0);
    let services = cluster.services().values().filter(|service| !service.external).map(Service::key);
    for key in services.filter(|key| !is_system(inventory, key)) {
        let facts = store.facts(&inventory.settings().hostname(&key));
        let exported = facts.is_some_and(|facts| facts.exports.iter().any(|(of, _)| *of == cluster.info.name));
        counted.0 += 1;
        counted.1 += usize::from(exported);
        counted.2 += cluster.ready_endpoints(&key);
    }
    counted
}

/// Returns whether a service belongs to Kubernetes or to the mesh itself.
pub(super) fn is_system(inventory: &Inventory, key: &Key) -> bool {
    key.namespace == inventory.settings().namespace
        || &*key.namespace == "kube-system"
        || (&*key.namespace == "default" && &*key.name == "kubernetes")
}

pub(super) fn proxies(shared: &Shared) -> Vec<ProxyRow> {
    let (now, clock) = (SystemTime::now(), Instant::now());
    let own = shared.state.inventory().settings().cluster.clone();
    let store = shared.state.store();
    let rows = shared.proxies.list().into_iter().map(|proxy| {
        let progress = proxy.progress();
        let lag = progress.lag(clock);
        let by_kind = |kind: &Kind| kind.as_str().to_string();
        ProxyRow {
            id: proxy.id.clone(),
            role: proxy.role.as_str().into(),
            pod: proxy.pod.clone(),
            namespace: proxy.namespace.clone(),
            cluster: proxy.cluster.clone(),
            identity: proxy.identity.clone(),
            address: proxy.address.to_string(),
            connected_ms: millis(age(now, proxy.since)),
            acked: progress.waiting_since.is_none(),
            lag_ms: millis(lag),
            certificate_expires_in_s: proxy.expires.map(|at| at.duration_since(now).unwrap_or_default().as_secs()),
            subscriptions: Kind::ALL.iter().map(by_kind).zip(progress.subscriptions).filter(|(_, n)| *n > 0).collect(),
            pushes: Kind::ALL.iter().map(by_kind).zip(progress.stats.responses).filter(|(_, n)| *n > 0).collect(),
            resources: progress.stats.resources,
            bytes: progress.stats.bytes,
            rejected: progress.stats.nacks,
            refusals: proxy.refused(&store, &own).into_iter().map(|of| RefusalRow::of(of, now)).collect(),
        }
    });
    rows.collect()
}

pub(super) fn services(shared: &Shared) -> Vec<String> {
    let mut names: Vec<String> =
        shared.state.store().all(Kind::Service).map(|found| found.name().to_string()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

pub(super) fn service(shared: &Shared, hostname: &str) -> Option<ServicePage> {
    let inventory = shared.state.inventory();
    let store = shared.state.store();
    let found = store.get(Kind::Service, hostname)?;
    let Ok(Body::Service(service)) = Body::decode(Kind::Service, Kind::Service.url(), found.body()) else {
        return None;
    };
    let facts = store.facts(hostname).cloned().unwrap_or_default();
    let mut endpoints: Vec<EndpointRow> = store
        .endpoints_of(hostname)
        .filter_map(|found| match Body::decode(Kind::Endpoint, Kind::Endpoint.url(), found.body()) {
            Ok(Body::Endpoint(endpoint)) => Some(endpoint_row(&found.name(), endpoint)),
            _ => None,
        })
        .collect();
    endpoints.sort_by(|a, b| a.name.cmp(&b.name));
    Some(ServicePage {
        hostname: service.hostname.clone(),
        clusters: inventory
            .definitions(hostname)
            .filter(|of| !of.service.external)
            .map(|of| of.cluster.info.name.to_string())
            .collect(),
        exports: facts.exports.iter().map(|(of, reason)| (of.to_string(), reason.as_str().to_string())).collect(),
        conflicts: facts.conflicts.clone(),
        ports: service
            .ports
            .iter()
            .map(|port| format!("{}/{} {}", port.number, port.name, port.protocol().as_str_name()))
            .collect(),
        addresses: service
            .addresses
            .iter()
            .filter_map(|address| {
                let ip = name::ip_of_bytes(&address.ip)?.to_string();
                Some(AddressRow { ip, cluster: address.cluster.clone() })
            })
            .collect(),
        identities: service.identities,
        endpoints,
    })
}

fn endpoint_row(name: &str, endpoint: Endpoint) -> EndpointRow {
    let health = match endpoint.health() {
        Health::Ready => "ready",
        Health::Unready => "unready",
        Health::Draining => "draining",
    };
    let locality =
        endpoint.locality.as_ref().map(|at| [&*at.region, &at.zone, &at.subzone].join("/")).unwrap_or_default();
    let mut row = EndpointRow {
        name: name.into(),
        locality: locality.trim_end_matches('/').into(),
        health: health.into(),
        weight: endpoint.weight,
        cluster: endpoint.cluster,
        network: endpoint.network,
        ip: None,
        pod: None,
        mutual_tls: true,
        identities: Vec::new(),
    };
    match endpoint.kind {
        Some(endpoint::Kind::Direct(direct)) => {
            row.ip = name::ip_of_bytes(&direct.ip).map(|ip| ip.to_string());
            row.pod = Some(direct.pod).filter(|pod| !pod.is_empty());
            row.mutual_tls = direct.mutual_tls;
            row.identities = Some(direct.identity).filter(|id| !id.is_empty()).into_iter().collect();
        }
        Some(endpoint::Kind::Summary(summary)) => row.identities = summary.identities,
        None => {}
    }
    row
}

pub(super) fn exports(shared: &Shared) -> ExportsPage {
    let (inventory, store) = (shared.state.inventory(), shared.state.store());
    service_entries_export::page(&inventory, &store)
}

pub(super) fn gateways(shared: &Shared) -> Vec<GatewayRow> {
    let store = shared.state.store();
    let mut rows: Vec<GatewayRow> = store
        .all(Kind::NetworkGateway)
        .filter_map(|found| match Body::decode(Kind::NetworkGateway, Kind::NetworkGateway.url(), found.body()) {
            Ok(Body::NetworkGateway(gateway)) => Some(GatewayRow {
                network: gateway.network,
                addresses: gateway
                    .addresses
                    .iter()
                    .filter_map(|at| {
                        let ip = name::ip_of_bytes(&at.ip)?;
                        Some(format!("{} ({})", std::net::SocketAddr::new(ip, at.port.try_into().ok()?), at.cluster))
                    })
                    .collect(),
            }),
            _ => None,
        })
        .collect();
    rows.sort_by(|a, b| a.network.cmp(&b.network));
    rows
}

fn age(now: SystemTime, then: SystemTime) -> Duration {
    now.duration_since(then).unwrap_or_default()
}

fn millis(age: Duration) -> u64 {
    u64::try_from(age.as_millis()).unwrap_or(u64::MAX)
}
