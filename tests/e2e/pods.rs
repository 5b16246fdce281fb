//! Pods with an injected sidecar: probes, init containers and the end of a pod.

use std::time::Duration;

use crate::support::{Lab, User, eventually};

/// A pod whose readiness probe connects to a port, which only the second one's application listens on.
fn probed(name: &str, port: u16) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  terminationGracePeriodSeconds: 5
  initContainers:
  - name: uses-the-mesh
    image: host
    command: [curl, -sS, --fail, --retry, '20', --retry-delay, '1', --retry-all-errors, http://ratings:9080/]
  containers:
  - name: app
    image: isthmus/testapp
    readinessProbe: {{tcpSocket: {{port: {port}}}}}
    livenessProbe: {{httpGet: {{path: /, port: 9080}}, periodSeconds: 1}}
"
    )
}

#[test]
fn probes_and_init_containers_work_beside_a_sidecar() {
    let lab = Lab::up("primary-remote.yaml", User::Own);
    lab.apply("west", &probed("unheard", 9999));
    lab.apply("west", &probed("heard", 9080));
    let ready = |pod: &str| {
        let status = lab.kubectl("west", &["get", "pod", pod, "-o", "json"]).json()["status"].clone();
        let application = status["containerStatuses"].as_array().and_then(|all| all.first()).cloned();
        (status["phase"].clone(), application.unwrap_or_default()["ready"] == true)
    };
    eventually(Duration::from_secs(30), || match ready("heard") {
        (phase, true) if phase == "Running" => Ok(()),
        other => Err(other),
    })
    .expect("the init container has called a service of another cluster, and the probe succeeds");
    eventually(Duration::from_secs(10), || {
        let events = lab.kubectl("west", &["get", "events", "--field-selector", "involvedObject.name=unheard"]).ok();
        if events.contains("Readiness probe failed") { Ok(()) } else { Err(events) }
    })
    .expect("a probe of a port that nobody listens on fails");
    assert_eq!(ready("unheard").0, "Running");
    assert!(!ready("unheard").1, "a probe of a port that nobody listens on fails");

    // What the kubelet sends is no traffic of the mesh.
    let metrics = lab.exec("west/default/heard", &["curl", "-sS", "http://localhost:15090/stats/prometheus"]).ok();
    assert!(metrics.contains("# TYPE istio_requests_total counter"), "{metrics}");
    let inbound: Vec<_> = metrics
        .lines()
        .filter(|line| line.starts_with("istio_") && line.contains("reporter=\"destination\""))
        .collect();
    assert!(inbound.is_empty(), "{inbound:#?}");

    // The sidecar serves until the application has ended.
    let deleting = std::time::Instant::now();
    lab.kubectl("west", &["delete", "pod", "heard", "--timeout=20s"]).ok();
    println!("deleted in {:.1}s", deleting.elapsed().as_secs_f64());
    lab.down();
}
