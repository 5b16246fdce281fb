//! `kubectl top`: what pods and nodes use.

use super::*;

/// Two samples of the node agent, on a busy machine.
const MEASURED: Duration = Duration::from_secs(60);

/// A pod that computes without end, in a child of its first process, and one that does nothing.
const BUSY: &str = "
apiVersion: v1
kind: Pod
metadata: {name: busy, labels: {top: 'yes'}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: loop, image: host, command: [sh, -c, 'while :; do :; done & wait']}
  - {name: idle, image: host, command: [sleep, infinity]}
---
apiVersion: v1
kind: Pod
metadata: {name: idle, labels: {top: 'yes'}}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: host, command: [sleep, infinity]}]
";

pub(super) fn shows_usage(kubectl: &Kubectl<'_>) {
    let busy = file(kubectl, "busy.yaml", BUSY);
    kubectl.run(&format!("apply -f {busy}"));
    kubectl.run("wait pod -l top=yes --for=condition=Ready --timeout=60s");
    // The rows of `kubectl top`, with millicores and mebibytes as numbers.
    let rows = |arguments: &str| -> Option<Vec<(String, u64, u64)>> {
        let outcome = Outcome::from(kubectl.command(&format!("{arguments} --no-headers")).output().expect("kubectl"));
        (outcome.code == Some(0)).then_some(())?;
        let row = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let cpu = words.iter().position(|word| word.strip_suffix('m').is_some_and(|n| n.parse::<u64>().is_ok()))?;
            let memory = words[cpu..].iter().find_map(|word| word.strip_suffix("Mi")?.parse().ok())?;
            Some((words[..cpu].join("/"), words[cpu].trim_end_matches('m').parse().ok()?, memory))
        };
        Some(outcome.stdout.lines().filter_map(row).collect())
    };
    let containers = eventually(MEASURED, || {
        let rows = rows("top pods -l top=yes --containers").unwrap_or_default();
        if rows.len() == 3 && rows.iter().any(|(_, cpu, _)| *cpu > 0) { Ok(rows) } else { Err(rows) }
    });
    let containers = containers.expect("every container has been measured");
    let names: Vec<&str> = containers.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(names, ["busy/idle", "busy/loop", "idle/main"]);
    let cpu = |name: &str| containers.iter().find(|(found, ..)| found == name).map_or(0, |(_, cpu, _)| *cpu);
    assert!(cpu("busy/loop") > 50 && cpu("busy/idle") < 50 && cpu("idle/main") < 50, "{containers:?}");
    let pods = rows("top pods -l top=yes --sort-by=cpu").expect("pods");
    assert_eq!(pods.first().map(|(name, ..)| name.as_str()), Some("busy"), "{pods:?}");
    let web = rows("top pods -l app=web").expect("pods");
    assert!(web.len() == 2 && web.iter().all(|(_, _, memory)| (1..500).contains(memory)), "{web:?}");

    let nodes = eventually(MEASURED, || {
        let rows = rows("top nodes").unwrap_or_default();
        if rows.iter().any(|(_, cpu, _)| *cpu > 50) { Ok(rows) } else { Err(rows) }
    });
    let nodes = nodes.expect("the node of the busy pod is busy");
    assert!(
        nodes.len() == 2 && nodes.iter().all(|(name, _, memory)| name.starts_with("west-us-west-1") && *memory > 0)
    );
    has(&kubectl.run("get podmetrics busy -o yaml"), &["kind: PodMetrics", "window: ", "timestamp: "]);
    kubectl.run(&format!("delete -f {busy} --timeout=60s"));
}
