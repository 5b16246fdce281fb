//! Clusters in the shape of Envoy's.

use std::time::Duration;

use balance::{Algorithm, OutlierPolicy};
use proxy::mesh::{ConnectionPool, MeshSnapshot, Service, Subset, TrafficPolicy};
use serde_json::{Value, json};

use super::{envoy, routes};

/// Returns the clusters of a service: name, port and subset.
pub(super) fn names(service: &Service) -> impl Iterator<Item = (String, u16, Option<&Subset>)> {
    let of_policy = service.policy.subsets.iter().map(|found| &found.subset);
    let declared = service.subsets.iter().filter(|subset| service.policy.subset(&subset.name).is_none());
    let subsets: Vec<&Subset> = of_policy.chain(declared).collect();
    service.ports.iter().flat_map(move |port| {
        let subsets = std::iter::once(None).chain(subsets.clone().into_iter().map(Some));
        subsets.map(move |subset| {
            let name = subset.map_or("", |subset| &subset.name);
            (routes::cluster_name(port.number, name, &service.hostname), port.number, subset)
        })
    })
}

/// Returns the clusters of a service.
pub(super) fn clusters(service: &Service, snapshot: &MeshSnapshot) -> Vec<Value> {
    let default = snapshot.settings.connect_timeouts(true).direct;
    names(service)
        .map(|(name, port, subset)| {
            let policy = service.policy.traffic(port, subset.map_or("", |subset| &subset.name));
            let mut cluster = json!({
                "@type": envoy::config("config.cluster.v3.Cluster"),
                "name": name,
                "type": if policy.balancing.passthrough { "ORIGINAL_DST" } else { "EDS" },
                "connect_timeout": seconds(policy.pool.connect_timeout.unwrap_or(default)),
                "lb_policy": algorithm(policy),
                "metadata": metadata(service),
            });
            let thresholds = thresholds(&policy.pool);
            if thresholds != json!({}) {
                cluster["circuit_breakers"] = json!({"thresholds": [thresholds]});
            }
            if let Some(outlier) = &policy.outlier_detection {
                cluster["outlier_detection"] = outlier_detection(outlier);
            }
            json!({ "cluster": cluster })
        })
        .collect()
}

/// The cluster of destinations outside the mesh.
pub(super) const PASSTHROUGH: &str = "PassthroughCluster";
/// The cluster of destinations outside the mesh if they are refused.
pub(super) const BLACK_HOLE: &str = "BlackHoleCluster";
/// The cluster of ports of the application that no service has.
pub(super) const INBOUND_PASSTHROUGH: &str = "InboundPassthroughCluster";

/// Returns the name of the cluster of a port of the application.
pub(super) fn inbound_name(port: u16) -> String {
    format!("inbound|{port}||")
}

/// Returns the clusters that belong to no service of another workload.
pub(super) fn own(snapshot: &MeshSnapshot) -> Vec<Value> {
    let timeout = seconds(snapshot.settings.connect_timeouts(true).direct);
    let cluster = |name: &str, kind: &str, policy: &str, services: Value| {
        json!({"cluster": {
            "@type": envoy::config("config.cluster.v3.Cluster"),
            "name": name,
            "type": kind,
            "connect_timeout": timeout,
            "lb_policy": policy,
            "metadata": {"filter_metadata": {"istio": {"services": services}}},
        }})
    };
    let original = |name: &str, services| cluster(name, "ORIGINAL_DST", "CLUSTER_PROVIDED", services);
    let ports = snapshot.own.iter().flat_map(|own| &own.ports);
    let inbound = ports.map(|port| original(&inbound_name(port.number), json!([{"host": &*port.service}])));
    let others = [PASSTHROUGH, INBOUND_PASSTHROUGH].map(|name| original(name, json!([])));
    let refused = cluster(BLACK_HOLE, "STATIC", "ROUND_ROBIN", json!([]));
    inbound.chain(others).chain([refused]).collect()
}

/// Names the service, and the DestinationRule that the policy is from; of several, the first.
fn metadata(service: &Service) -> Value {
    let mut metadata = match service.policy.sources.first() {
        Some(source) => routes::metadata(source, "destination-rule"),
        None => json!({"filter_metadata": {"istio": {}}}),
    };
    metadata["filter_metadata"]["istio"]["services"] = json!([{
        "host": &*service.hostname,
        "name": &*service.name,
        "namespace": &*service.namespace,
    }]);
    metadata
}

fn algorithm(policy: &TrafficPolicy) -> &'static str {
    match policy.balancing.algorithm {
        _ if policy.balancing.passthrough => "CLUSTER_PROVIDED",
        Algorithm::LeastRequest => "LEAST_REQUEST",
        Algorithm::RoundRobin => "ROUND_ROBIN",
        Algorithm::Random => "RANDOM",
        Algorithm::RingHash { .. } => "RING_HASH",
        Algorithm::Maglev { .. } => "MAGLEV",
    }
}

fn thresholds(pool: &ConnectionPool) -> Value {
    let limits = [
        ("max_connections", pool.max_connections),
        ("max_pending_requests", pool.max_pending_requests),
        ("max_requests", pool.max_requests),
        ("max_retries", pool.max_retries),
    ];
    limits.into_iter().filter_map(|(name, limit)| Some((name.to_owned(), json!(limit?)))).collect()
}

fn outlier_detection(policy: &OutlierPolicy) -> Value {
    json!({
        "consecutive_5xx": policy.consecutive_5xx,
        "consecutive_gateway_failure": policy.consecutive_gateway_errors,
        "interval": seconds(policy.interval),
        "base_ejection_time": seconds(policy.base_ejection_time),
        "max_ejection_percent": policy.max_ejection_percent,
    })
}

fn seconds(duration: Duration) -> String {
    format!("{}s", duration.as_secs_f64())
}
