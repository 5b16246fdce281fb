//! The contents of the debug pages. Ages are always told; what is not known is `null`, never zero.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use wire::Kind;
use wire::delta::{Body, Found as _};
use wire::discovery::{Endpoint, Health, endpoint};
use wire::name;

use crate::ca::Authorities;
use crate::clusters::{Clusters, LinkState};
use crate::discovery::Shared;
use crate::inventory::{ClusterIndex, Index, Key};
use crate::metrics::link_word;
use crate::objects::event::Kind as Object;

/// `/debug/clusters`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClustersPage {
    /// All clusters, by name.
    pub clusters: Vec<ClusterRow>,
    /// What is wrong with remote secrets, signing certificates and what clusters claim, in words.
    pub problems: Vec<String>,
}

/// One cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClusterRow {
    /// Its name.
    pub name: String,
    /// `primary` for the controller's own, else `remote`.
    pub role: String,
    /// Its network; empty where none is known.
    pub network: String,
    /// Its API server.
    pub server: String,
    /// The remote secret that it is known by.
    pub secret: Option<String>,
    /// `connecting`, `syncing`, `connected`, `unreachable`, `refused`, or `remembered` where only the view from before a
    /// restart is there.
    pub link: String,
    /// Why the link is not connected.
    pub why: Option<String>,
    /// How the link with changed credentials is, as long as it has not taken over.
    #[serde(default)]
    pub replacement: Option<String>,
    /// How long the link has been so.
    pub link_age_ms: u64,
    /// Since the API server last answered anything at all.
    pub contact_age_ms: Option<u64>,
    /// Since an object or a list last arrived.
    pub heard_age_ms: Option<u64>,
    /// Whether all kinds have been listed since the controller started.
    pub synced: bool,
    /// Kinds whose last list was empty against expectation; what was known of them stays until that is confirmed.
    pub unconfirmed: Vec<String>,
    /// Services, without those of the system.
    pub services: usize,
    /// Those that other clusters may use.
    pub exported: usize,
    /// Endpoints of those services that are ready.
    pub endpoints: usize,
    /// Pods.
    pub pods: usize,
    /// Who signs for it.
    pub trust: Option<TrustRow>,
}

/// A cluster's signing certificate.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TrustRow {
    /// The first bytes of the root's fingerprint.
    pub root: String,
    /// Whether it is an intermediate of the cluster's own.
    pub own_intermediate: bool,
    /// How long it is still valid; not known where the cluster signs for itself.
    pub expires_in_s: Option<u64>,
}

/// One row of `/debug/proxies`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProxyRow {
    /// Its node id.
    pub id: String,
    /// `sidecar` or `gateway`.
    pub role: String,
    /// Its pod.
    pub pod: String,
    /// Its namespace.
    pub namespace: String,
    /// Its cluster.
    pub cluster: String,
    /// The SPIFFE id of its certificate.
    pub identity: String,
    /// Where it calls from.
    pub address: String,
    /// How long its stream has been open.
    pub connected_ms: u64,
    /// Whether it has acknowledged all that it was sent.
    pub acked: bool,
    /// How long it has owed an acknowledgement.
    pub lag_ms: u64,
    /// How long its certificate is still valid.
    pub certificate_expires_in_s: Option<u64>,
    /// Names that it subscribes to, by type.
    pub subscriptions: BTreeMap<String, usize>,
    /// Responses sent, by type.
    pub pushes: BTreeMap<String, u64>,
    /// Resources sent.
    pub resources: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Responses that it rejected.
    pub rejected: u64,
}

/// `/debug/services/<hostname>`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServicePage {
    /// Its hostname.
    pub hostname: String,
    /// Clusters that define it.
    pub clusters: Vec<String>,
    /// Clusters that export it, and why.
    pub exports: BTreeMap<String, String>,
    /// Where definitions differ, and which wins.
    pub conflicts: Vec<String>,
    /// "number/name protocol".
    pub ports: Vec<String>,
    /// Addresses, and the cluster in which each is valid; empty: all.
    pub addresses: Vec<AddressRow>,
    /// SPIFFE ids that its endpoints present.
    pub identities: Vec<String>,
    /// All endpoints and summaries.
    pub endpoints: Vec<EndpointRow>,
}

/// An address of a service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AddressRow {
    /// The address.
    pub ip: String,
    /// The cluster in which it is valid; empty: all that have none of their own.
    pub cluster: String,
}

/// An endpoint of a service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EndpointRow {
    /// Its resource name.
    pub name: String,
    /// Its cluster.
    pub cluster: String,
    /// Its network.
    pub network: String,
    /// "region/zone/subzone".
    pub locality: String,
    /// `ready`, `unready` or `draining`.
    pub health: String,
    /// Its weight; for a summary the ready endpoints that it stands for.
    pub weight: u32,
    /// Its address; none for a summary.
    pub ip: Option<String>,
    /// Its pod.
    pub pod: Option<String>,
    /// Whether it speaks the mesh's mutual TLS.
    pub mutual_tls: bool,
    /// Who it is.
    pub identities: Vec<String>,
}

/// One row of `/debug/gateways`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GatewayRow {
    /// The network.
    pub network: String,
    /// "ip:port (cluster)".
    pub addresses: Vec<String>,
}

fn said(link: &LinkState) -> String {
    match link {
        LinkState::Unreachable { why } | LinkState::Refused { why } => format!("{}: {why}", link.word()),
        other => other.word().to_owned(),
    }
}

pub(super) fn clusters(shared: &Shared, parts: Option<&(Clusters, Authorities)>) -> ClustersPage {
    let now = SystemTime::now();
    let statuses: BTreeMap<String, crate::clusters::Status> = parts
        .map(|(clusters, _)| clusters.statuses().into_iter().map(|of| (of.name.to_string(), of)).collect())
        .unwrap_or_default();
    let snapshot = parts.map(|(_, authorities)| authorities.now());
    let index = shared.index();
    let rows = index.clusters().map(|cluster| {
        let name = cluster.info.name.to_string();
        let status = statuses.get(&name);
        let (link, why) = match status.map(|status| &status.link) {
            Some(LinkState::Unreachable { why } | LinkState::Refused { why }) => {
                (status.map_or("", |status| status.link.word()), Some(why.clone()))
            }
            Some(state) => (state.word(), None),
            None if index.is_remembered(&name) => ("remembered", None),
            None => (link_word(&cluster.link.0), None),
        };
        let trust = snapshot.as_ref().and_then(|snapshot| snapshot.summary(&name)).map(|summary| TrustRow {
            root: summary.root,
            own_intermediate: summary.own_intermediate,
            expires_in_s: summary.not_after.map(|at| at.duration_since(now).unwrap_or_default().as_secs()),
        });
        let (services, exported, endpoints) = counts(&index, cluster);
        ClusterRow {
            role: if cluster.info.own { "primary" } else { "remote" }.into(),
            network: cluster.network().to_string(),
            server: cluster.info.server.to_string(),
            secret: status.and_then(|status| status.secret.as_ref()).map(ToString::to_string),
            link: link.into(),
            why,
            replacement: status.and_then(|status| status.replacement.as_ref()).map(said),
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
            name,
        }
    });
    let mut page = ClustersPage { clusters: rows.collect(), problems: Vec::new() };
    page.problems.extend(index.notices());
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

/// Services of people, those of them exported, and ready endpoints.
fn counts(index: &Index, cluster: &ClusterIndex) -> (usize, usize, usize) {
    let own = |key: &Key| *key.namespace == *index.settings().namespace;
    let system = |key: &Key| {
        own(key) || &*key.namespace == "kube-system" || (&*key.namespace == "default" && &*key.name == "kubernetes")
    };
    let mut counted = (0, 0, 0);
    for key in cluster.service_keys().filter(|key| !system(key)) {
        counted.0 += 1;
        let facts = index.facts().get(&key);
        let exports = facts.is_some_and(|facts| facts.exports.iter().any(|(of, _)| *of == cluster.info.name));
        counted.1 += usize::from(exports);
        counted.2 += cluster.ready_endpoints(&key);
    }
    counted
}

pub(super) fn proxies(shared: &Shared) -> Vec<ProxyRow> {
    let (now, clock) = (SystemTime::now(), Instant::now());
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
        }
    });
    rows.collect()
}

pub(super) fn services(shared: &Shared) -> Vec<String> {
    let mut names: Vec<String> = shared.store().all(Kind::Service).map(|found| found.name().to_string()).collect();
    names.sort_unstable();
    names
}

pub(super) fn service(shared: &Shared, hostname: &str) -> Option<ServicePage> {
    let index = shared.index();
    let store = shared.store();
    let found = store.get(Kind::Service, hostname)?;
    let Ok(Body::Service(told)) = Body::decode(Kind::Service, Kind::Service.url(), found.body()) else {
        return None;
    };
    let key = Key::new(&told.namespace, &told.name);
    let facts = index.facts().get(&key).cloned().unwrap_or_default();
    let mut endpoints: Vec<EndpointRow> = store
        .endpoints_of(hostname)
        .filter_map(|found| match Body::decode(Kind::Endpoint, Kind::Endpoint.url(), found.body()) {
            Ok(Body::Endpoint(endpoint)) => Some(endpoint_row(&found.name(), endpoint)),
            _ => None,
        })
        .collect();
    endpoints.sort_by(|a, b| a.name.cmp(&b.name));
    Some(ServicePage {
        hostname: told.hostname.clone(),
        clusters: index
            .clusters()
            .filter(|cluster| cluster.service(&key).is_some())
            .map(|cluster| cluster.info.name.to_string())
            .collect(),
        exports: facts.exports.iter().map(|(of, reason)| (of.to_string(), reason.as_str().to_string())).collect(),
        conflicts: facts.conflicts.clone(),
        ports: told
            .ports
            .iter()
            .map(|port| format!("{}/{} {}", port.number, port.name, port.protocol().as_str_name()))
            .collect(),
        addresses: told
            .addresses
            .iter()
            .filter_map(|address| {
                let ip = name::ip_of_bytes(&address.ip)?.to_string();
                Some(AddressRow { ip, cluster: address.cluster.clone() })
            })
            .collect(),
        identities: told.identities,
        endpoints,
    })
}

fn endpoint_row(name: &str, told: Endpoint) -> EndpointRow {
    let health = match told.health() {
        Health::Ready => "ready",
        Health::Unready => "unready",
        Health::Draining => "draining",
    };
    let locality = told.locality.as_ref().map(|at| [&*at.region, &at.zone, &at.subzone].join("/")).unwrap_or_default();
    let mut row = EndpointRow {
        name: name.into(),
        locality: locality.trim_end_matches('/').into(),
        health: health.into(),
        weight: told.weight,
        cluster: told.cluster,
        network: told.network,
        ip: None,
        pod: None,
        mutual_tls: true,
        identities: Vec::new(),
    };
    match told.kind {
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

pub(super) fn gateways(shared: &Shared) -> Vec<GatewayRow> {
    let store = shared.store();
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
