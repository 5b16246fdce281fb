//! Starting pods: network, environment, order, messages.

use serde_json::json;

use super::bench::{condition, get, pod, with_agent};

pub(super) const TESTS: &[harness::Test] = &[
    ("lifecycle::a_pod_serves", a_pod_serves),
    ("lifecycle::pods_reach_each_other", pods_reach_each_other),
    ("lifecycle::init_containers_run_in_order", init_containers_run_in_order),
    ("lifecycle::sidecars_run_beside", sidecars_run_beside),
    ("lifecycle::containers_that_cannot_start_report_why", containers_that_cannot_start_report_why),
    ("lifecycle::many_pods_start_at_once", many_pods_start_at_once),
    ("lifecycle::pods_on_the_nodes_network", pods_on_the_nodes_network),
];

fn a_pod_serves() {
    with_agent(|bench| async move {
        bench.agent.apply(pod(
            "web",
            json!({"serviceAccountName": "shopkeeper", "containers": [{
                "name": "main", "image": "isthmus/serve:dev", "args": ["$(PORT)"],
                "env": [
                    {"name": "PORT", "value": "80"},
                    {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                    {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
                ],
            }]}),
        ));
        let status = bench.ready("web").await;
        let address = status["podIP"].as_str().unwrap().to_owned();
        assert!(address.starts_with("10.244.0."), "{address}");
        assert_eq!(status["phase"], "Running");
        assert_eq!(status["hostIP"], "203.0.113.1");
        assert_eq!(status["qosClass"], "BestEffort");
        let container = &status["containerStatuses"][0];
        assert_eq!(
            (&container["ready"], &container["started"], &container["restartCount"]),
            (&true.into(), &true.into(), &0.into())
        );
        bench.until("the program listens", || bench.log("web", "main", 0).contains("serving on 80")).await;
        let answer = get(&address, 80).await.unwrap();
        for part in [&format!("IP={address}"), "NODE=west-a", "HOSTNAME=web", "KUBERNETES_SERVICE_HOST=10.96.0.1"] {
            assert!(answer.contains(part), "{part} in {answer}");
        }
        assert!(answer.contains("PEER=169.254.1.1") || answer.contains("PEER=203.0.113.1"), "{answer}");
        bench.until("the event", || bench.has_event("web Started: Started container main")).await;
    });
}

fn pods_reach_each_other() {
    with_agent(|bench| async move {
        bench.agent.apply(pod(
            "server",
            json!({"containers": [{
            "name": "main", "image": "isthmus/serve",
            "readinessProbe": {"httpGet": {"port": 8080}, "periodSeconds": 1}}]}),
        ));
        let server = bench.ready("server").await["podIP"].as_str().unwrap().to_owned();
        // The client calls the server, and an address without a pod.
        let script =
            format!("curl -s http://{server}:8080/ | grep PEER; curl -s --max-time 3 http://10.244.9.9/; echo none $?");
        bench.agent.apply(pod(
            "client",
            json!({"restartPolicy": "Never", "containers": [{
            "name": "main", "command": ["sh", "-c", script]}]}),
        ));
        let done = bench.status_when("client", "done", |status| status["phase"] == "Succeeded").await;
        let log = bench.log("client", "main", 0);
        assert!(log.contains(&format!("PEER={}", done["podIP"].as_str().unwrap())), "{log}");
        assert!(log.contains("none 7"), "refused at once: {log}");
    });
}

fn init_containers_run_in_order() {
    with_agent(|bench| async move {
        let step = |name: &str, script: &str| json!({"name": name, "command": ["sh", "-c", script], "volumeMounts": [{"name": "shared", "mountPath": "/shared"}]});
        bench.agent.apply(pod("ordered", json!({
            "restartPolicy": "Never",
            "volumes": [{"name": "shared", "emptyDir": {}}],
            "initContainers": [step("first", "sleep 0.3; echo 1 >> /shared/log"), step("second", "echo 2 >> /shared/log")],
            "containers": [step("main", "cat /shared/log")],
        })));
        let early = bench
            .status_when("ordered", "first runs", |s| !s["initContainerStatuses"][0]["state"]["running"].is_null())
            .await;
        assert_eq!(early["phase"], "Pending");
        assert_eq!(early["containerStatuses"][0]["state"]["waiting"]["reason"], "PodInitializing");
        assert_eq!(condition(&early, "Initialized"), "False");
        let done = bench.status_when("ordered", "done", |status| status["phase"] == "Succeeded").await;
        assert_eq!(condition(&done, "Initialized"), "True");
        assert_eq!(done["initContainerStatuses"][1]["state"]["terminated"]["reason"], "Completed");
        assert_eq!(bench.log("ordered", "main", 0), "1\n2\n");

        bench.agent.apply(pod(
            "broken",
            json!({
                "restartPolicy": "Never",
                "initContainers": [{"name": "bad", "command": ["sh", "-c", "exit 3"]}],
                "containers": [{"name": "main", "command": ["true"]}],
            }),
        ));
        let failed = bench.status_when("broken", "failed", |status| status["phase"] == "Failed").await;
        assert_eq!(failed["initContainerStatuses"][0]["state"]["terminated"]["exitCode"], 3);
    });
}

fn sidecars_run_beside() {
    with_agent(|bench| async move {
        bench.agent.apply(pod("job", json!({
            "restartPolicy": "Never",
            "initContainers": [{
                "name": "side", "image": "isthmus/serve", "restartPolicy": "Always",
                "startupProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
            }],
            // The sidecar has started before this container, so the call never fails.
            "containers": [{"name": "main", "command": ["sh", "-c", "curl -sf http://127.0.0.1:8080/ > /dev/null && sleep 0.3"]}],
        })));
        let during =
            bench.status_when("job", "main runs", |s| !s["containerStatuses"][0]["state"]["running"].is_null()).await;
        assert_eq!(during["initContainerStatuses"][0]["started"], true);
        let done = bench.status_when("job", "done", |status| status["phase"] == "Succeeded").await;
        assert!(
            !done["initContainerStatuses"][0]["state"]["terminated"].is_null(),
            "the sidecar ended after it: {done}"
        );
    });
}

fn containers_that_cannot_start_report_why() {
    with_agent(|bench| async move {
        bench.agent.apply(pod("image", json!({"containers": [{"name": "main", "image": "nginx:1.29"}]})));
        let waiting = bench
            .status_when("image", "waiting", |s| {
                s["containerStatuses"][0]["state"]["waiting"]["reason"] == "ErrImageNeverPull"
            })
            .await;
        let message = waiting["containerStatuses"][0]["state"]["waiting"]["message"].as_str().unwrap().to_owned();
        assert!(
            message.contains("\"nginx:1.29\"") && message.contains("give the container a \"command\""),
            "{message}"
        );

        bench.agent.apply(pod(
            "program",
            json!({"restartPolicy": "Never", "containers": [
            {"name": "main", "command": ["no-such-program"]}]}),
        ));
        let failed = bench.status_when("program", "failed", |status| status["phase"] == "Failed").await;
        let ended = &failed["containerStatuses"][0]["state"]["terminated"];
        assert_eq!((&ended["reason"], &ended["exitCode"]), (&"StartError".into(), &128.into()));
        assert_eq!(ended["message"], "exec: \"no-such-program\": executable file not found in $PATH");

        bench.agent.apply(pod(
            "config",
            json!({"containers": [{"name": "main", "command": ["sleep", "60"],
            "env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "k"}}}]}]}),
        ));
        let waiting = bench
            .status_when("config", "waiting", |s| {
                s["containerStatuses"][0]["state"]["waiting"]["reason"] == "CreateContainerConfigError"
            })
            .await;
        assert_eq!(waiting["containerStatuses"][0]["state"]["waiting"]["message"], "secret \"keys\" not found");
        let keys = [("k".to_owned(), b"v".to_vec())];
        bench.objects.put(lab::node::cluster::DataKind::Secret, "shop", "keys", Some(keys.into()));
        bench.ready("config").await;
    });
}

fn many_pods_start_at_once() {
    with_agent(|bench| async move {
        let short = |name: &str| json!({"name": name, "command": ["true"]});
        let names: Vec<String> = (0..12).map(|number| format!("many-{number}")).collect();
        for name in &names {
            bench.agent.apply(pod(name, json!({
                "initContainers": [short("one"), short("two"), short("three")],
                "containers": [{"name": "main", "command": ["sleep", "60"]}, {"name": "other", "command": ["sleep", "60"]}],
            })));
        }
        for name in &names {
            let status = bench.ready(name).await;
            for containers in ["initContainerStatuses", "containerStatuses"] {
                for container in status[containers].as_array().unwrap() {
                    assert_eq!(container["restartCount"], 0, "{name}: {container}");
                }
            }
        }
        let addresses: std::collections::BTreeSet<_> =
            names.iter().map(|name| bench.status(name)["podIP"].as_str().unwrap().to_owned()).collect();
        assert_eq!(addresses.len(), names.len());
        assert!(!bench.has_event("Failed"), "{:?}", bench.events());
    });
}

fn pods_on_the_nodes_network() {
    with_agent(|bench| async move {
        bench.agent.apply(pod(
            "host",
            json!({"hostNetwork": true, "restartPolicy": "Never", "containers": [
            {"name": "main", "command": ["sh", "-c", "cat /proc/net/dev | tail -n +3 | cut -d: -f1 | tr -d ' '"]}]}),
        ));
        let done = bench.status_when("host", "done", |status| status["phase"] == "Succeeded").await;
        assert_eq!(done["podIP"], "203.0.113.1");
        assert!(bench.log("host", "main", 0).contains("lo\n"));
        assert!(!bench.log("host", "main", 0).contains("eth0"));
    });
}
