//! Volumes of every kind, as their containers see them.

use std::collections::BTreeMap;

use lab::node::cluster::DataKind;
use serde_json::json;

use super::bench::{pod, with_agent};

pub(super) const TESTS: &[harness::Test] = &[
    ("volumes::every_kind_is_mounted", every_kind_is_mounted),
    ("volumes::changes_arrive_in_running_containers", changes_arrive_in_running_containers),
    ("volumes::labels_are_updated_in_running_containers", labels_are_updated_in_running_containers),
    ("volumes::tokens_are_renewed", tokens_are_renewed),
    ("volumes::missing_sources_are_waited_for", missing_sources_are_waited_for),
];

fn data(pairs: &[(&str, &str)]) -> Option<BTreeMap<String, Vec<u8>>> {
    Some(pairs.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec())).collect())
}

fn every_kind_is_mounted() {
    with_agent(|bench| async move {
        bench.objects.put(DataKind::Secret, "shop", "keys", data(&[("key", "hidden\n"), ("other", "x\n")]));
        bench.objects.put(DataKind::ConfigMap, "shop", "settings", data(&[("a.yaml", "a: 1\n")]));
        let mount = |name: &str, path: &str| json!({"name": name, "mountPath": path});
        let script = "cat /etc/of-the-pod/secret/renamed /opt/settings/a.yaml /var/run/secrets/tokens/istio-token; echo; \
            cat /projected/labels /projected/namespace; echo; ls /etc/of-the-pod/secret; \
            cat /var/run/secrets/kubernetes.io/serviceaccount/ca.crt; echo; \
            cat /etc/resolv.conf; grep $HOSTNAME /etc/hosts; cat /etc/hostname; \
            cat /etc/of-the-pod/one-file; touch /etc/of-the-pod/one-file 2>&1 | grep -c Read-only; \
            stat -c %a /projected/labels -L; isthmus hello";
        bench.agent.apply(pod("full", json!({
            "restartPolicy": "Never", "serviceAccountName": "shopkeeper",
            "volumes": [
                {"name": "secret", "secret": {"secretName": "keys", "items": [{"key": "key", "path": "renamed"}]}},
                {"name": "settings", "configMap": {"name": "settings"}},
                {"name": "optional", "configMap": {"name": "none", "optional": true}},
                {"name": "token", "projected": {"sources": [
                    {"serviceAccountToken": {"path": "istio-token", "audience": "istio-ca", "expirationSeconds": 43200}}]}},
                {"name": "projected", "projected": {"defaultMode": 256, "sources": [
                    {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
                    {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}}]}},
            ],
            "containers": [{"name": "main", "command": ["sh", "-c", script], "volumeMounts": [
                mount("secret", "/etc/of-the-pod/secret"), mount("settings", "/opt/settings"), mount("optional", "/optional"),
                mount("token", "/var/run/secrets/tokens"), mount("projected", "/projected"),
                {"name": "settings", "mountPath": "/etc/of-the-pod/one-file", "subPath": "a.yaml", "readOnly": true},
            ]}]})));
        let done = bench.status_when("full", "done", |status| status["phase"] == "Succeeded").await;
        let log = bench.log("full", "main", 0);
        let address = done["podIP"].as_str().unwrap();
        let expected = [
            "hidden",
            "a: 1",
            "token-0-shopkeeper-istio-ca",
            "app=\"full\"shop",
            "renamed",
            "certificate",
            "search shop.svc.cluster.local svc.cluster.local cluster.local",
            "nameserver 10.96.0.10",
            "options ndots:5",
            &format!("{address}\tfull"),
            "full",
            "a: 1",
            "1",
            "400",
            "hello of the test program",
        ];
        assert_eq!(log.lines().collect::<Vec<_>>(), expected, "{log}");
        assert!(!std::path::Path::new("/etc/of-the-pod").exists(), "the host is untouched");
    });
}

fn changes_arrive_in_running_containers() {
    with_agent(|bench| async move {
        bench.objects.put(DataKind::ConfigMap, "shop", "settings", data(&[("a", "1"), ("b", "1")]));
        let script = "last=; while :; do now=$(cat /settings/a /settings/b /settings/c 2>/dev/null); \
            [ \"$now\" = \"$last\" ] || echo \"saw $now\"; last=$now; sleep 0.02; done";
        bench.agent.apply(pod(
            "watcher",
            json!({
            "volumes": [{"name": "settings", "configMap": {"name": "settings"}}],
            "containers": [{"name": "main", "command": ["sh", "-c", script],
                "volumeMounts": [{"name": "settings", "mountPath": "/settings"}]}]}),
        ));
        bench.until("the first content", || bench.log("watcher", "main", 0).contains("saw 11\n")).await;
        bench.objects.put(DataKind::ConfigMap, "shop", "settings", data(&[("a", "2"), ("c", "3")]));
        bench.until("the second content", || bench.log("watcher", "main", 0).contains("saw 23\n")).await;
    });
}

fn labels_are_updated_in_running_containers() {
    with_agent(|bench| async move {
        let spec = json!({
            "volumes": [{"name": "about", "downwardAPI": {"items": [
                {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}],
            "containers": [{"name": "main", "volumeMounts": [{"name": "about", "mountPath": "/about"}],
                "command": ["sh", "-c", "while ! grep -q new /about/labels; do sleep 0.02; done; echo updated; sleep 60"]}]});
        bench.agent.apply(pod("about", spec.clone()));
        bench.ready("about").await;
        let mut labelled = pod("about", spec);
        labelled.metadata.labels.get_or_insert_default().insert("new".into(), "label".into());
        bench.agent.apply(labelled);
        bench.until("the container sees it", || bench.log("about", "main", 0) == "updated\n").await;
    });
}

fn tokens_are_renewed() {
    with_agent(|bench| async move {
        bench.agent.apply(pod(
            "token",
            json!({
            "automountServiceAccountToken": false,
            "volumes": [{"name": "token", "projected": {"sources": [
                {"serviceAccountToken": {"path": "token", "audience": "istio-ca", "expirationSeconds": 1}}]}}],
            "containers": [{"name": "main", "volumeMounts": [{"name": "token", "mountPath": "/token"}],
                "command": ["sh", "-c", "while :; do cat /token/token; echo; sleep 0.05; done"]}]}),
        ));
        let seen = |number: u32| bench.log("token", "main", 0).contains(&format!("token-{number}-default-istio-ca\n"));
        bench.until("the first token", || seen(0)).await;
        bench.until("the third token", || seen(2)).await;
        assert!(
            bench.cluster.tokens.load(std::sync::atomic::Ordering::Relaxed) < 5,
            "tokens are not requested all the time"
        );
    });
}

fn missing_sources_are_waited_for() {
    with_agent(|bench| async move {
        bench.agent.apply(pod(
            "waits",
            json!({
            "volumes": [{"name": "keys", "secret": {"secretName": "keys"}}],
            "containers": [{"name": "main", "command": ["sleep", "60"],
                "volumeMounts": [{"name": "keys", "mountPath": "/keys"}]}]}),
        ));
        bench
            .until("the event", || {
                bench.has_event(
                    "waits FailedMount: MountVolume.SetUp failed for volume \"keys\" : secret \"keys\" not found",
                )
            })
            .await;
        // The event may be reported before the status.
        let reason = || bench.status("waits")["containerStatuses"][0]["state"]["waiting"]["reason"].clone();
        bench.until("the status", || reason() == "ContainerCreating").await;
        bench.objects.put(DataKind::Secret, "shop", "keys", data(&[("k", "v")]));
        bench.ready("waits").await;
    });
}
