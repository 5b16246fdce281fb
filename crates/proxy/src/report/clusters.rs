//! Metrics of upstream clusters under Envoy's names: ejections, retries and refused requests.
//!
//! The counts are those that workers share, so a scrape reads them where they are. Clusters about which there is nothing to
//! say are left out: most have no limits and have never lost an endpoint.

use std::sync::Arc;

use balance::Cause;
use telemetry::metrics::{Family, MAX_SERIES, Registry};

use crate::mesh::{ClusterCounter, Published, SharedCluster};

macro_rules! family {
    ($name:literal, $help:literal) => {
        Family { name: concat!("envoy_cluster_", $name), help: $help, labels: &["cluster_name"] }
    };
}

/// Reads the value of a metric.
type Read = fn(&SharedCluster) -> u64;

const COUNTERS: &[(Family, Read)] = &[
    (family!("upstream_rq_retry", "Retries."), |of| of.counted(ClusterCounter::Retry)),
    (family!("upstream_rq_retry_success", "Retries that succeeded."), |of| of.counted(ClusterCounter::RetrySuccess)),
    (family!("upstream_rq_retry_overflow", "Requests that were not repeated because of the limit on retries."), |of| {
        of.counted(ClusterCounter::RetryOverflow)
    }),
    (family!("upstream_rq_retry_limit_exceeded", "Requests that used up their attempts."), |of| {
        of.counted(ClusterCounter::RetryLimitExceeded)
    }),
    (family!("upstream_cx_overflow", "Connections that were not opened because of the limit on connections."), |of| {
        of.counted(ClusterCounter::ConnectionOverflow)
    }),
    (family!("upstream_rq_pending_overflow", "Requests that were refused because of a limit on requests."), |of| {
        of.counted(ClusterCounter::PendingOverflow)
    }),
    (family!("lb_healthy_panic", "Picks among all endpoints because too few are healthy."), |of| of.ejections.panic()),
    (family!("outlier_detection_ejections_overflow", "Endpoints that were not ejected because too many are."), |of| {
        of.ejections.overflow()
    }),
    (family!("outlier_detection_ejections_enforced_total", "Ejections of endpoints."), |of| {
        of.ejections.enforced_total()
    }),
    (family!("outlier_detection_ejections_enforced_consecutive_5xx", "Ejections for consecutive 5xx."), |of| {
        of.ejections.enforced(Cause::ServerErrors)
    }),
    (
        family!("outlier_detection_ejections_enforced_consecutive_gateway_failure", "Ejections for gateway errors."),
        |of| of.ejections.enforced(Cause::GatewayErrors),
    ),
    (
        family!(
            "outlier_detection_ejections_enforced_consecutive_local_origin_failure",
            "Ejections for failures to connect."
        ),
        |of| of.ejections.enforced(Cause::LocalOrigin),
    ),
    (family!("outlier_detection_ejections_detected_consecutive_5xx", "Detections of consecutive 5xx."), |of| {
        of.ejections.detected(Cause::ServerErrors)
    }),
    (
        family!("outlier_detection_ejections_detected_consecutive_gateway_failure", "Detections of gateway errors."),
        |of| of.ejections.detected(Cause::GatewayErrors),
    ),
    (
        family!(
            "outlier_detection_ejections_detected_consecutive_local_origin_failure",
            "Detections of failures to connect."
        ),
        |of| of.ejections.detected(Cause::LocalOrigin),
    ),
];

const ACTIVE: Family = family!("outlier_detection_ejections_active", "Endpoints that are ejected.");

/// Registers the metrics of all upstream clusters.
pub fn observe_clusters(registry: &Registry, published: &Arc<Published>) {
    for (family, read) in COUNTERS {
        let published = published.clone();
        registry.observe_counter(*family, move |emit| each(&published, *read, emit));
    }
    let published = published.clone();
    registry.observe_gauge(ACTIVE, move |emit| each(&published, |of| of.ejections.active(), emit));
}

fn each(published: &Published, read: Read, emit: &mut dyn FnMut(&[&str], f64)) {
    let mut left = MAX_SERIES;
    published.each_cluster(|name, cluster| {
        if left > 0 && is_notable(cluster) {
            left -= 1;
            emit(&[name], read(cluster) as f64);
        }
    });
}

fn is_notable(cluster: &SharedCluster) -> bool {
    cluster.is_configured() || COUNTERS.iter().any(|(_, read)| read(cluster) > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::TrafficPolicy;

    #[test]
    fn clusters_have_metrics_once_there_is_something_to_say() {
        let (registry, published) = (Registry::new(), Arc::<Published>::default());
        observe_clusters(&registry, &published);
        let name = |host: &str| Arc::<str>::from(format!("outbound|9080||{host}.default.svc.cluster.local"));
        let [reviews, ratings] = ["reviews", "ratings"].map(|host| published.shared_cluster(&name(host)));
        assert!(!registry.render().contains("outbound"));
        reviews.count(ClusterCounter::PendingOverflow);
        let text = registry.render();
        let label = r#"{cluster_name="outbound|9080||reviews.default.svc.cluster.local"}"#;
        for line in [
            format!("envoy_cluster_upstream_rq_pending_overflow{label} 1"),
            format!("envoy_cluster_upstream_rq_retry{label} 0"),
            format!("envoy_cluster_outlier_detection_ejections_active{label} 0"),
        ] {
            assert!(text.lines().any(|found| *found == line), "{line} in\n{text}");
        }
        assert!(!text.contains("ratings"));
        let mut policy = TrafficPolicy::default();
        policy.pool.max_connections = Some(7);
        ratings.apply(&policy);
        assert!(registry.render().contains("ratings"), "limits were configured");
    }
}
