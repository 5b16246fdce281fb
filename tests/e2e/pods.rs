//! Pods with an injected sidecar: probes, init containers and the end of a pod.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

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

/// A pod whose sidecar is an ordinary container, so that both containers receive SIGTERM at the same time. The application then
/// calls another cluster on connections of its own for some seconds, while it still answers, and ends.
const LEAVING: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: leaving}
spec: {selector: {app: leaving}, ports: [{name: http, port: 9080}]}
---
apiVersion: v1
kind: Pod
metadata:
  name: leaving
  labels: {app: leaving}
  annotations:
    sidecar.istio.io/nativeSidecar: "false"
    proxy.istio.io/config: "terminationDrainDuration: 20s"
spec:
  terminationGracePeriodSeconds: 25
  containers:
  - name: app
    image: host
    readinessProbe: {httpGet: {path: /ready, port: 9080}, periodSeconds: 1}
    command:
    - sh
    - -c
    - |
      isthmus testapp &
      server=$!
      trap stop=1 TERM
      while [ -z "$stop" ]; do sleep 0.1; done
      echo terminating
      call=0
      while [ $call -lt 20 ]; do
        curl -sS -o /dev/null -w 'call %{http_code}\n' --max-time 5 http://ratings:9080/ || echo 'call failed'
        call=$((call + 1))
        sleep 0.1
      done
      kill $server
      wait $server
      echo ended
"#;

#[test]
fn a_sidecar_that_is_an_ordinary_container_serves_until_the_application_has_ended() {
    let lab = Lab::up("primary-remote.yaml", User::Own);
    lab.apply("west", LEAVING);
    lab.kubectl("west", &["wait", "pod/leaving", "--for=condition=Ready", "--timeout=60s"]).ok();
    let pod = lab.kubectl("west", &["get", "pod", "leaving", "-o", "json"]).json();
    let containers = pod["spec"]["containers"].as_array().expect("containers").iter();
    let names: Vec<&str> = containers.filter_map(|container| container["name"].as_str()).collect();
    assert_eq!(names, ["app", "isthmus-proxy"], "the sidecar is an ordinary container");
    eventually(Duration::from_secs(20), || lab.get("west/default/frontend", "http://leaving:9080/"))
        .expect("it answers");

    let in_background = |arguments: &[&str]| {
        let mut command = lab.directory.isthmus();
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("isthmus")
    };
    let log = in_background(&["lab", "kubectl", "west", "--", "logs", "-f", "leaving", "-c", "app"]);
    let slow = "http://leaving:9080/delay/3000";
    let request = ["curl", "-sSv", "--fail", "--max-time", "20", slow];
    let mut in_flight = in_background(&[&["lab", "exec", "west/default/frontend", "--"][..], &request].concat());
    let mut progress = BufReader::new(in_flight.stderr.take().expect("piped")).lines().map_while(Result::ok);
    assert!(progress.any(|line| line.starts_with("> GET")), "the request is sent");

    let deleting = Instant::now();
    lab.kubectl("west", &["delete", "pod", "leaving", "--timeout=30s"]).ok();
    let took = deleting.elapsed();
    let output = in_flight.wait_with_output().expect("curl ends");
    let answer = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && answer.contains("/delay/3000"), "the request in flight: {output:?}");
    let log = log.wait_with_output().expect("the log ends");
    let log = String::from_utf8_lossy(&log.stdout).into_owned();
    let (_, after) = log.split_once("terminating\n").expect("the application received the signal");
    let calls: Vec<&str> = after.lines().filter(|line| line.starts_with("call ")).collect();
    assert_eq!(calls, ["call 200"; 20], "the application's calls during its shutdown: {log}");
    assert!(after.contains("ended"), "{log}");
    // The sidecar has noticed the end of the application.
    println!("deleted in {:.1}s", took.as_secs_f64());
    assert!(took < Duration::from_secs(18), "{took:?}");
    lab.down();
}
