//! Probes of real servers.

use std::time::Duration;

use serde_json::json;

use super::bench::{condition, is_ready, pod, with_agent};

pub(super) const TESTS: &[harness::Test] = &[
    ("probes::readiness_follows_the_server", readiness_follows_the_server),
    ("probes::liveness_restarts", liveness_restarts),
    ("probes::commands_and_ports_are_probed", commands_and_ports_are_probed),
    ("probes::a_container_that_starts_too_slowly_is_restarted", a_container_that_starts_too_slowly_is_restarted),
];

fn readiness_follows_the_server() {
    with_agent(|bench| async move {
        let state = tempfile::tempdir().unwrap();
        let unwell = state.path().join("unwell");
        std::fs::write(&unwell, "").unwrap();
        bench.agent.apply(pod("web", json!({
            "volumes": [{"name": "state", "hostPath": {"path": state.path()}}],
            "containers": [{"name": "main", "image": "isthmus/serve", "ports": [{"name": "http", "containerPort": 8080}],
                "volumeMounts": [{"name": "state", "mountPath": "/state"}],
                "readinessProbe": {"httpGet": {"port": "http", "path": "/"}, "periodSeconds": 1, "failureThreshold": 2}}]})));
        let running = bench.status_when("web", "runs", |s| s["containerStatuses"][0]["started"] == true).await;
        assert!(!is_ready(&running));
        bench
            .until("the event", || bench.has_event("Readiness probe failed") && bench.has_event("statuscode: 503"))
            .await;
        std::fs::remove_file(&unwell).unwrap();
        bench.ready("web").await;
        std::fs::write(&unwell, "").unwrap();
        let lost = bench.status_when("web", "unready", |s| !is_ready(s)).await;
        assert_eq!(lost["containerStatuses"][0]["restartCount"], 0, "readiness does not restart");
        assert_eq!(condition(&lost, "ContainersReady"), "False");
    });
}

fn liveness_restarts() {
    with_agent(|bench| async move {
        let state = tempfile::tempdir().unwrap();
        bench.agent.apply(pod(
            "web",
            json!({
            "volumes": [{"name": "state", "hostPath": {"path": state.path()}}],
            "containers": [{"name": "main", "image": "isthmus/serve",
                "volumeMounts": [{"name": "state", "mountPath": "/state"}],
                "startupProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
                "livenessProbe": {"httpGet": {"port": 8080}, "periodSeconds": 1, "failureThreshold": 1}}]}),
        ));
        bench.ready("web").await;
        std::fs::write(state.path().join("unwell"), "").unwrap();
        bench.status_when("web", "restarted", |s| s["containerStatuses"][0]["restartCount"] == 1).await;
        std::fs::remove_file(state.path().join("unwell")).unwrap();
        bench.ready("web").await;
        bench
            .until("the event", || {
                bench.has_event("web Killing: Container main failed liveness probe, will be restarted")
            })
            .await;
    });
}

fn commands_and_ports_are_probed() {
    with_agent(|bench| async move {
        let probe = |command: &str| json!({"exec": {"command": ["sh", "-c", command]}, "periodSeconds": 1});
        bench.agent.apply(pod(
            "well",
            json!({"containers": [{"name": "main", "command": ["sleep", "60"],
            "env": [{"name": "WHO", "value": "me"}], "readinessProbe": probe("test $WHO = me")}]}),
        ));
        bench.agent.apply(pod(
            "unwell",
            json!({"containers": [{"name": "main", "command": ["sleep", "60"],
            "readinessProbe": probe("echo not today; exit 1")}]}),
        ));
        bench.agent.apply(pod(
            "closed",
            json!({"containers": [{"name": "main", "command": ["sleep", "60"],
            "readinessProbe": {"tcpSocket": {"port": 9}, "periodSeconds": 1}}]}),
        ));
        bench.agent.apply(pod(
            "silent",
            json!({"containers": [{"name": "main", "image": "isthmus/serve",
            "readinessProbe": {"grpc": {"port": 8080}, "periodSeconds": 1}}]}),
        ));
        bench.ready("well").await;
        bench
            .until("the command's words", || bench.has_event("unwell Unhealthy: Readiness probe failed: not today"))
            .await;
        bench
            .until("the refusal", || bench.has_event("closed Unhealthy: Readiness probe failed: dial tcp 10.244."))
            .await;
        bench.until("no gRPC", || bench.has_event("silent Unhealthy: Readiness probe failed: ")).await;
        assert!(
            !is_ready(&bench.status("unwell"))
                && !is_ready(&bench.status("closed"))
                && !is_ready(&bench.status("silent"))
        );
    });
}

fn a_container_that_starts_too_slowly_is_restarted() {
    with_agent(|bench| async move {
        bench.agent.apply(pod(
            "slow",
            json!({"terminationGracePeriodSeconds": 1, "containers": [{
            "name": "main", "command": ["sleep", "60"],
            "startupProbe": {"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 2}}]}),
        ));
        let before = std::time::Instant::now();
        let running =
            bench.status_when("slow", "runs", |s| !s["containerStatuses"][0]["state"]["running"].is_null()).await;
        assert_eq!((&running["containerStatuses"][0]["started"], is_ready(&running)), (&false.into(), false));
        bench.status_when("slow", "restarted", |s| s["containerStatuses"][0]["restartCount"] == 1).await;
        assert!(before.elapsed() > Duration::from_secs(1));
        bench.until("the event", || bench.has_event("Container main failed startup probe, will be restarted")).await;
    });
}
