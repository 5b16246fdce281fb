//! Ends of containers and pods: restarts, kills, deletion.

use std::time::{Duration, Instant};

use lab::node::NodeFault;
use serde_json::{Value, json};

use super::bench::{condition, is_ready, pod, with_agent};

pub(super) const TESTS: &[harness::Test] = &[
    ("ends::containers_are_restarted_with_pauses", containers_are_restarted_with_pauses),
    ("ends::kills_are_detected_at_once", kills_are_detected_at_once),
    ("ends::a_killed_sandbox_is_replaced", a_killed_sandbox_is_replaced),
    ("ends::deletion_is_graceful", deletion_is_graceful),
    ("ends::deletion_ends_after_the_grace_period", deletion_ends_after_the_grace_period),
    ("ends::a_killed_node_reports_nothing", a_killed_node_reports_nothing),
    ("ends::processes_end_with_their_container", processes_end_with_their_container),
];

fn containers_are_restarted_with_pauses() {
    with_agent(|bench| async move {
        bench.agent.apply(pod(
            "crash",
            json!({"containers": [{"name": "main", "command": ["sh", "-c", "echo run; exit 5"]}]}),
        ));
        let looping = bench
            .status_when("crash", "backs off", |s| {
                s["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff"
                    && s["containerStatuses"][0]["restartCount"] == 2
            })
            .await;
        let container = &looping["containerStatuses"][0];
        let message = container["state"]["waiting"]["message"].as_str().unwrap();
        assert!(message.starts_with("back-off 2s restarting failed container=main pod=crash_shop("), "{message}");
        assert_eq!(container["lastState"]["terminated"]["exitCode"], 5);
        assert_eq!(looping["phase"], "Running");
        assert_eq!(condition(&looping, "Ready"), "False");
        bench.until("the event", || bench.has_event("crash BackOff: Back-off 2s restarting failed container")).await;
        let logs = || [1, 2].map(|run| bench.log("crash", "main", run));
        bench.until("the logs of two runs", || logs().iter().all(|log| log == "run\n")).await;
        bench.until("the first run's log goes: two are kept", || bench.log("crash", "main", 0).is_empty()).await;
    });
}

/// Returns the number of the process with the given argument.
fn process_with(argument: &str) -> Option<u32> {
    std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        line.split('\0').any(|word| word == argument).then_some(pid)
    })
}

fn find_process(argument: &str) -> u32 {
    process_with(argument).unwrap_or_else(|| panic!("no process with argument {argument}"))
}

fn runs(argument: &str) -> bool {
    process_with(argument).is_some()
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

fn kills_are_detected_at_once() {
    with_agent(|bench| async move {
        let container = json!({"name": "main", "command": ["sleep", "61.5"]});
        bench.agent.apply(pod("victim", json!({"containers": [container]})));
        bench.ready("victim").await;
        kill(find_process("61.5"));
        let killed = Instant::now();
        let after = bench
            .status_when("victim", "restarted", |s| s["containerStatuses"][0]["restartCount"] == 1 && is_ready(s))
            .await;
        assert!(killed.elapsed() < Duration::from_secs(1), "took {:?}", killed.elapsed());
        let last = &after["containerStatuses"][0]["lastState"]["terminated"];
        assert_eq!((&last["exitCode"], &last["signal"], &last["reason"]), (&137.into(), &9.into(), &"Error".into()));

        // After a second kill the container waits, and is unready meanwhile.
        kill(find_process("61.5"));
        let killed = Instant::now();
        bench.status_when("victim", "not ready", |s| !is_ready(s)).await;
        assert!(killed.elapsed() < Duration::from_millis(500), "took {:?}", killed.elapsed());
        bench.status_when("victim", "back", |s| s["containerStatuses"][0]["restartCount"] == 2 && is_ready(s)).await;
    });
}

fn a_killed_sandbox_is_replaced() {
    with_agent(|bench| async move {
        bench.agent.apply(pod(
            "anew",
            json!({
            "initContainers": [{"name": "init", "command": ["true"]}],
            "containers": [{"name": "main", "command": ["sleep", "62.5"]}]}),
        ));
        let before = bench.ready("anew").await;
        let main = find_process("62.5");
        let status = std::fs::read_to_string(format!("/proc/{main}/status")).unwrap();
        let pause = std::fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
            .find(|pid| {
                let same = |kind: &str| {
                    let link = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok();
                    link(*pid).is_some() && link(*pid) == link(main)
                };
                *pid != main && same("pid") && same("net")
            })
            .unwrap_or_else(|| panic!("no pause process beside {status}"));
        kill(pause);
        let after = bench
            .status_when("anew", "runs again", |s| is_ready(s) && s["containerStatuses"][0]["restartCount"] == 1)
            .await;
        assert_ne!(before["podIP"], after["podIP"], "a new address");
        assert_eq!(after["initContainerStatuses"][0]["restartCount"], 1, "init containers ran again");
        bench.until("the event", || bench.has_event("anew SandboxChanged")).await;
    });
}

/// Returns a pod that is being deleted.
fn deleted(mut spec: Value, name: &str, grace: i64) -> k8s_openapi::api::core::v1::Pod {
    spec["terminationGracePeriodSeconds"] = grace.into();
    let mut pod = serde_json::to_value(pod(name, spec)).unwrap();
    pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    pod["metadata"]["deletionGracePeriodSeconds"] = grace.into();
    serde_json::from_value(pod).unwrap()
}

fn deletion_is_graceful() {
    with_agent(|bench| async move {
        let shared = json!([{"name": "out", "mountPath": "/out"}]);
        let out = tempfile::tempdir().unwrap();
        let spec = json!({
            "volumes": [{"name": "out", "hostPath": {"path": out.path()}}],
            "initContainers": [{"name": "side", "restartPolicy": "Always", "volumeMounts": shared,
                "command": ["sh", "-c", "trap 'echo side >> /out/log; exit 0' TERM; echo ready; while :; do sleep 0.1; done"]}],
            "containers": [{"name": "main", "volumeMounts": shared,
                "lifecycle": {"preStop": {"exec": {"command": ["sh", "-c", "echo hook >> /out/log"]}}},
                "command": ["sh", "-c", "trap 'echo main >> /out/log; exit 0' TERM; echo ready; while :; do sleep 0.1; done"]}],
        });
        bench.agent.apply(pod("gentle", spec.clone()));
        bench.ready("gentle").await;
        bench
            .until("the shells have set their traps", || {
                ["main", "side"].iter().all(|container| bench.log("gentle", container, 0) == "ready\n")
            })
            .await;
        bench.agent.apply(deleted(spec, "gentle", 10));
        let asked = Instant::now();
        bench.until("it is finished", || bench.cluster.finished.lock().unwrap().contains(&"gentle".to_owned())).await;
        assert!(asked.elapsed() < Duration::from_secs(5), "took {:?}", asked.elapsed());
        assert_eq!(std::fs::read_to_string(out.path().join("log")).unwrap(), "hook\nmain\nside\n");
        bench.until("the event", || bench.has_event("gentle Killing: Stopping container main")).await;
    });
}

fn deletion_ends_after_the_grace_period() {
    with_agent(|bench| async move {
        let spec = json!({"containers": [{"name": "main", "image": "isthmus/stubborn"}]});
        bench.agent.apply(pod("stubborn", spec.clone()));
        bench.ready("stubborn").await;
        bench.until("it listens", || bench.log("stubborn", "main", 0).contains("ready")).await;
        bench.agent.apply(deleted(spec, "stubborn", 1));
        let asked = Instant::now();
        bench.until("SIGTERM was sent", || bench.log("stubborn", "main", 0).contains("ignored SIGTERM")).await;
        bench.until("it is finished", || !bench.cluster.finished.lock().unwrap().is_empty()).await;
        let took = asked.elapsed();
        assert!(took > Duration::from_millis(900) && took < Duration::from_secs(4), "took {took:?}");
    });
}

fn a_killed_node_reports_nothing() {
    with_agent(|bench| async move {
        let agent = bench.agent.clone();
        tokio::spawn(async move { agent.serve().await.unwrap() });
        bench.agent.apply(pod("lost", json!({"containers": [{"name": "main", "command": ["sleep", "66.5"]}]})));
        bench.agent.apply(pod(
            "kept",
            json!({"nodeName": "west-b", "containers": [
            {"name": "main", "command": ["sleep", "67.5"]}]}),
        ));
        let before = bench.ready("lost").await;
        bench.ready("kept").await;
        let socket = bench.directory.join("node.sock");
        let order = |node: &'static str, fault: NodeFault| {
            let socket = socket.clone();
            tokio::task::spawn_blocking(move || lab::node::inject(&socket, node, fault))
        };
        order("west-a", NodeFault::Kill).await.unwrap().unwrap();
        bench.until("its processes are gone", || !runs("66.5")).await;
        assert!(runs("67.5"), "another node's are not");
        bench.agent.apply(pod("later", json!({"containers": [{"name": "main", "command": ["sleep", "68.5"]}]})));
        // The agent has handled "later" once a later pod runs on another node.
        let after = json!({"nodeName": "west-b", "containers": [{"name": "main", "command": ["sleep", "69.5"]}]});
        bench.agent.apply(pod("after", after));
        bench.ready("after").await;
        assert_eq!(bench.status("lost"), before, "no status is reported");
        assert!(bench.status("later").is_null() && !runs("68.5"), "no pod is started");
        let unknown = order("west-z", NodeFault::Kill).await.unwrap().unwrap_err();
        assert_eq!(unknown.to_string(), "there is no node \"west-z\"");

        order("west-a", NodeFault::Revive).await.unwrap().unwrap();
        bench
            .status_when("lost", "runs again", |s| is_ready(s) && s["containerStatuses"][0]["restartCount"] == 1)
            .await;
        bench.ready("later").await;
    });
}

fn processes_end_with_their_container() {
    with_agent(|bench| async move {
        let out = tempfile::tempdir().unwrap();
        bench.agent.apply(pod(
            "parent",
            json!({
            "restartPolicy": "OnFailure",
            "volumes": [{"name": "out", "hostPath": {"path": out.path()}}],
            "containers": [
                {"name": "main", "command": ["sh", "-c", "setsid sleep 63.5 & sleep 0.2"]},
                {"name": "other", "command": ["sleep", "64.5"]},
            ]}),
        ));
        let done = bench.status_when("parent", "main is done", |s| {
            s["containerStatuses"][0]["state"]["terminated"]["reason"] == "Completed"
        });
        done.await;
        // The process has been killed; a busy kernel takes a moment to remove it.
        bench.until("what the container started is gone", || !runs("63.5")).await;
        assert!(runs("64.5"), "the other container is not");
    });
}
