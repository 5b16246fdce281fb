//! The sidecar's admin pages: its configuration as received and as used.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use identity::Identity;
use proxy::mesh::{Endpoint, MeshSnapshot, Protocol, Published, Reach, Service};
use proxy::report::ObservedTraffic;
use proxy::upstream::{ClusterKey, target};
use runtime::admin::{Admin, Reply};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::explain::Asked;

mod authz;
mod clusters;
mod envoy;
mod explain;
mod listeners;
mod routes;

/// What the pages show.
#[derive(Clone, Default)]
pub(crate) struct Shown {
    /// The published view of the mesh, once discovery has started.
    pub(crate) published: Arc<OnceLock<Arc<Published>>>,
    /// The identity, once the proxy is enrolled.
    pub(crate) identity: Arc<OnceLock<Identity>>,
    /// The proxy's name in discovery.
    pub(crate) node: Arc<OnceLock<String>>,
    /// The proxy's cluster, and what the workload has accepted.
    pub(crate) observed: Arc<OnceLock<(String, ObservedTraffic)>>,
    /// The address of the pod.
    pub(crate) address: Arc<OnceLock<IpAddr>>,
    /// Asks where requests would go, once the workers run.
    pub(crate) questions: Arc<OnceLock<mpsc::Sender<Asked>>>,
}

impl Shown {
    fn newest(&self) -> Option<Arc<MeshSnapshot>> {
        self.published.get().map(|published| published.newest())
    }
}

/// Adds the pages.
pub(crate) fn add(admin: Admin, shown: &Shown) -> Admin {
    let (listing, mesh, dump, policies) = (shown.clone(), shown.clone(), shown.clone(), shown.clone());
    let (traffic, explained) = (shown.observed.clone(), shown.clone());
    admin
        .page("/clusters", "the services in use and their endpoints; ?format=json as Envoy has it", move |query| {
            let snapshot = listing.newest().unwrap_or_default();
            match query.get("format") {
                Some("json") => {
                    let ejected = listing.published.get().map(|published| envoy::ejected(published, Instant::now()));
                    Reply::json(&envoy::endpoints(&snapshot, &ejected.unwrap_or_default()))
                }
                _ => Reply::text(clusters(&snapshot)),
            }
        })
        .page(
            "/authz",
            "the policies in force; ?port=…&method=…&path=…&principal=… for a decision",
            move |query| authz::answer(&policies.newest().unwrap_or_default(), policies.address.get().copied(), query),
        )
        .page("/authz/observed", "what was accepted: callers, ports, methods and paths", move |_| {
            Reply::json(&traffic.get().map_or(Value::Null, |(cluster, traffic)| authz::observed(cluster, traffic)))
        })
        .later(
            "/explain",
            "where a request goes, and why; ?url=…&method=…&header=NAME:VALUE&measure=true",
            move |query| explain::answer(explained.clone(), query),
        )
        .section("mesh", move || mesh.newest().map_or(Value::Null, |snapshot| config(&snapshot)))
        .section("configs", move || {
            let node = dump.node.get().map(String::as_str).unwrap_or_default();
            envoy::config_dump(&dump.newest().unwrap_or_default(), node, dump.identity.get())
        })
}

/// Returns one line per endpoint of each service port, in the form of Envoy's `/clusters`.
fn clusters(snapshot: &MeshSnapshot) -> String {
    let mut lines = Vec::new();
    for service in snapshot.services.values() {
        for port in &service.ports {
            let subsets = service.subsets.iter().map(Some);
            for subset in std::iter::once(None).chain(subsets) {
                let key =
                    ClusterKey::of(service, port.number, subset.map(|subset| subset.name.clone()).unwrap_or_default());
                let cluster = format!("outbound|{}|{}|{}", key.port, key.subset, key.hostname);
                for candidate in target::targets(service, &key, snapshot) {
                    let target = &candidate.target;
                    lines.push(format!(
                        "{cluster}::{}::{}::weight::{}::cluster::{}::locality::{}::{}\n",
                        target.address,
                        health(candidate.health),
                        candidate.weight,
                        target.cluster,
                        candidate.locality,
                        match (&target.tls, target.remote) {
                            (None, _) => "plaintext",
                            (Some(_), false) => "mutual TLS",
                            (Some(_), true) => "mutual TLS through gateway",
                        }
                    ));
                }
            }
        }
    }
    lines.sort();
    lines.concat()
}

fn health(health: balance::Health) -> &'static str {
    match health {
        balance::Health::Ready => "ready",
        balance::Health::Degraded => "degraded",
        balance::Health::Unready => "unready",
        balance::Health::Draining => "draining",
    }
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Unknown => "unknown",
        Protocol::Http => "http",
        Protocol::Http2 => "http2",
        Protocol::Grpc => "grpc",
        Protocol::Tcp => "tcp",
    }
}

fn config(snapshot: &MeshSnapshot) -> Value {
    let mut services: Vec<_> = snapshot.services.values().collect();
    services.sort_by(|a, b| a.hostname.cmp(&b.hostname));
    let own = snapshot.own.as_ref();
    let timeouts = snapshot.settings.connect_timeouts(true);
    json!({
        "meshId": &*snapshot.settings.mesh_id,
        "outboundPolicy": snapshot.outbound_policy().as_str(),
        "scope": snapshot.scope.as_ref().map(|scope| &*scope.source),
        "connectTimeoutMs": timeouts.direct.as_millis() as u64,
        "gatewayConnectTimeoutMs": timeouts.through_gateway.as_millis() as u64,
        "workload": own.map(|own| json!({
            "name": &*own.labels.workload,
            "locality": own.locality.to_string(),
            "ports": own.ports.iter().map(|port| json!({
                "number": port.number,
                "protocol": protocol(port.protocol),
                "service": &*port.service,
                "application": port.application.as_ref().map(ToString::to_string),
            })).collect::<Vec<_>>(),
        })),
        "authentication": snapshot.authentication.as_ref().map(|found| match found.mode {
            policy::PeerMode::Permissive => "PERMISSIVE",
            policy::PeerMode::Strict => "STRICT",
            policy::PeerMode::Disable => "DISABLE",
        }),
        "gateways": snapshot.gateways.iter().map(|(network, gateways)| {
            let addresses: Vec<_> = gateways.iter().map(|gateway| gateway.address.to_string()).collect();
            (network.to_string(), json!(addresses))
        }).collect::<serde_json::Map<_, _>>(),
        "services": services.into_iter().map(|found| service(found)).collect::<Vec<_>>(),
    })
}

fn service(service: &Service) -> Value {
    json!({
        "hostname": &*service.hostname,
        "addresses": service.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "ports": service.ports.iter().map(|port| format!("{} {}", port.number, protocol(port.protocol))).collect::<Vec<_>>(),
        "endpoints": service.endpoints.as_ref().map(|endpoints| endpoints.iter().map(endpoint).collect::<Vec<_>>()),
    })
}

fn endpoint(endpoint: &Endpoint) -> Value {
    let mut value = json!({
        "id": &*endpoint.id,
        "cluster": &*endpoint.cluster,
        "network": &*endpoint.network,
        "locality": endpoint.locality.to_string(),
        "health": health(endpoint.health),
        "weight": endpoint.weight,
    });
    match &endpoint.reach {
        Reach::Direct(direct) => {
            value["address"] = json!(direct.ip.to_string());
            if let Some(further) = direct.further_ip {
                value["furtherAddress"] = json!(further.to_string());
            }
            value["identity"] = json!(direct.identity.as_ref().map(ToString::to_string));
            value["mutualTls"] = json!(direct.mutual_tls);
        }
        Reach::Named(named) => {
            value["host"] = json!(&*named.host);
            value["mutualTls"] = json!(named.at.mutual_tls);
        }
        Reach::Gateways(summary) => {
            value["identities"] = json!(summary.identities.iter().map(ToString::to_string).collect::<Vec<_>>());
        }
    }
    value
}
