//! Tests of injection: patches of pods, and requests as an API server sends them, over TLS.

use std::sync::Arc;

use base64::Engine as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use identity::{Authority, Constraints, Identity, SpiffeId, Trust, alpn};
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use telemetry::metrics::Registry;
use tokio::net::{TcpListener, TcpStream};

use super::template::{HomeCluster, Injector};
use super::{rules, validation, webhook};
use crate::ca::serve::{Clients, FAILED_HANDSHAKES, KnownClients, connections};
use crate::inventory::ProxyLayers;
use crate::objects::{Kind, Labels};

fn injector() -> Injector {
    Injector {
        image: "isthmus/sidecar".into(),
        proxy_container: "isthmus-proxy".into(),
        discovery_address: "isthmus-controller.isthmus-system.svc:15012".into(),
        controller_identity: "spiffe://cluster.local/ns/isthmus-system/sa/isthmus-controller".into(),
        trust_domain: "cluster.local".into(),
    }
}

fn east() -> HomeCluster {
    HomeCluster { cluster: "east".into(), network: "net-east".into() }
}

/// Returns a pod as a ReplicaSet controller creates it and an API server forwards it, shortened.
fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "generateName": "reviews-v1-5b7f-", "creationTimestamp": null,
            "labels": {"app": "reviews", "version": "v1", "pod-template-hash": "5b7f"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "reviews-v1-5b7f",
                                 "uid": "27c4", "controller": true, "blockOwnerDeletion": true}]
        },
        "spec": {
            "volumes": [{"name": "kube-api-access-x", "projected": {"sources": []}}],
            "containers": [{"name": "reviews", "image": "isthmus/testapp", "ports": [{"containerPort": 9080}],
                            "readinessProbe": {"httpGet": {"path": "/", "port": 9080}}}],
            "serviceAccountName": "reviews", "restartPolicy": "Always"
        },
        "status": {}
    })
}

/// Applies a patch of `add` and `replace` operations to a pod.
fn patched(mut pod: Value, operations: &[Value]) -> Value {
    for operation in operations {
        let replaces = operation["op"] == "replace";
        assert!(replaces || operation["op"] == "add", "{operation}");
        let (parent, field) = operation["path"].as_str().unwrap().rsplit_once('/').unwrap();
        let parent = pod.pointer_mut(parent).unwrap_or_else(|| panic!("no value at {parent}"));
        match parent {
            Value::Array(list) => {
                let at = field.parse().unwrap_or(list.len());
                assert!(!replaces);
                list.insert(at, operation["value"].clone());
            }
            parent if replaces => *parent.get_mut(field).expect("a value to replace") = operation["value"].clone(),
            parent => parent[field.replace("~1", "/").replace("~0", "~")] = operation["value"].clone(),
        }
    }
    pod
}

#[test]
fn a_patch_adds_containers_volumes_labels_and_annotations() {
    let patch = injector().patch(&pod(), &east(), &ProxyLayers::default()).unwrap();
    assert_eq!(patch.warnings, Vec::<String>::new());
    let pod = patched(pod(), &patch.operations);
    let spec = &pod["spec"];
    assert_eq!(spec["initContainers"][0]["name"], "isthmus-init");
    assert_eq!(spec["initContainers"][0]["args"], json!(["init"]));
    assert_eq!(spec["initContainers"][0]["securityContext"]["capabilities"]["add"], json!(["NET_ADMIN", "NET_RAW"]));
    let proxy = &spec["initContainers"][1];
    assert_eq!((&proxy["name"], &proxy["image"]), (&json!("isthmus-proxy"), &json!("isthmus/sidecar")));
    assert_eq!(proxy["restartPolicy"], "Always");
    assert_eq!(spec["containers"].as_array().unwrap().len(), 1);
    let probe = json!({"httpGet": {"path": "/app-health/reviews/readyz", "port": 15020, "scheme": "HTTP"}});
    assert_eq!(spec["containers"][0]["readinessProbe"], probe);
    assert_eq!(proxy["securityContext"]["runAsUser"], 1337);
    assert_eq!(proxy["readinessProbe"]["httpGet"], json!({"path": "/healthz/ready", "port": 15021}));
    let env = |name: &str| proxy["env"].as_array().unwrap().iter().find(|e| e["name"] == name).unwrap().clone();
    assert_eq!(env("ISTIO_META_CLUSTER_ID")["value"], "east");
    assert_eq!(env("ISTIO_META_NETWORK")["value"], "net-east");
    assert_eq!(env("DISCOVERY_ADDRESS")["value"], "isthmus-controller.isthmus-system.svc:15012");
    assert_eq!(env("INSTANCE_IP")["valueFrom"]["fieldRef"]["fieldPath"], "status.podIP");
    assert_eq!(env("ISTIO_META_WORKLOAD_NAME")["value"], "reviews-v1");
    let probers = r#"{"/app-health/reviews/readyz":{"httpGet":{"path":"/","port":9080}}}"#;
    assert_eq!(env("ISTIO_KUBE_APP_PROBERS")["value"], probers);
    let volumes: Vec<_> = spec["volumes"].as_array().unwrap().iter().map(|v| v["name"].clone()).collect();
    assert_eq!(volumes, ["kube-api-access-x", "istio-token", "istiod-ca-cert"]);
    assert_eq!(spec["volumes"][1]["projected"]["sources"][0]["serviceAccountToken"]["audience"], "istio-ca");
    let labels = &pod["metadata"]["labels"];
    assert_eq!(labels["security.istio.io/tlsMode"], "istio");
    assert_eq!(labels["topology.istio.io/cluster"], "east");
    assert_eq!(labels["topology.istio.io/network"], "net-east");
    assert_eq!(labels["service.istio.io/canonical-name"], "reviews");
    assert_eq!(labels["service.istio.io/canonical-revision"], "v1");
    assert_eq!(pod["metadata"]["annotations"]["prometheus.io/port"], "15020");
    assert!(pod["metadata"]["annotations"]["sidecar.istio.io/status"].as_str().unwrap().contains("isthmus-proxy"));
}

#[test]
fn annotations_change_the_patch() {
    let mut annotated = pod();
    annotated["metadata"]["annotations"] = json!({
        "traffic.sidecar.istio.io/excludeOutboundPorts": "3306,5432",
        "traffic.sidecar.istio.io/excludeInboundPorts": "22",
        "proxy.istio.io/config": "proxyMetadata: {DISCOVERY_ADDRESS: \"elsewhere:1\"}\n",
        "prometheus.io/scrape": "true", "prometheus.io/port": "8080",
        "sidecar.istio.io/bootstrapOverride": "x",
    });
    annotated["metadata"]["labels"]["topology.istio.io/network"] = json!("net-of-my-own");
    annotated["spec"]["initContainers"] = json!([{"name": "migrate"}]);
    let patch = injector().patch(&annotated, &east(), &ProxyLayers::default()).unwrap();
    assert_eq!(patch.warnings.len(), 1);
    let pod = patched(annotated, &patch.operations);
    let init = &pod["spec"]["initContainers"];
    assert_eq!(init[0]["args"], json!(["init", "--exclude-inbound-ports=22", "--exclude-outbound-ports=3306,5432"]));
    assert_eq!((&init[1]["name"], &init[2]["name"]), (&json!("isthmus-proxy"), &json!("migrate")));
    let env: Vec<_> = init[1]["env"].as_array().unwrap().iter().filter(|e| e["name"] == "DISCOVERY_ADDRESS").collect();
    assert_eq!(env, [&json!({"name": "DISCOVERY_ADDRESS", "value": "elsewhere:1"})]);
    let own = init[1]["env"].as_array().unwrap().iter().find(|e| e["name"] == "ISTIO_PROMETHEUS_ANNOTATIONS").unwrap();
    assert_eq!(own["value"], r#"{"port":"8080","scrape":"true"}"#);
    assert_eq!(pod["metadata"]["labels"]["topology.istio.io/network"], "net-of-my-own");
    assert_eq!(pod["metadata"]["annotations"]["prometheus.io/port"], "15020");
}

#[test]
fn the_container_has_istios_name_for_tools_that_look_for_it() {
    let injector = Injector { proxy_container: "istio-proxy".into(), ..injector() };
    let patch = injector.patch(&pod(), &east(), &ProxyLayers::default()).unwrap();
    let pod = patched(pod(), &patch.operations);
    assert_eq!(pod["spec"]["initContainers"][1]["name"], "istio-proxy");
    let status = pod["metadata"]["annotations"]["sidecar.istio.io/status"].as_str().unwrap();
    assert!(status.contains("istio-proxy") && !status.contains("isthmus-proxy"), "{status}");
    let again = rules::decide(&pod, "default", rules::NamespaceLabel::Enabled);
    assert!(matches!(again, rules::Decision::Skip(_)), "it is not injected twice");
}

#[test]
fn a_sidecar_is_an_ordinary_container_where_its_author_wants_it() {
    let mut annotated = pod();
    annotated["metadata"]["annotations"] =
        json!({"sidecar.istio.io/nativeSidecar": "false", "sidecar.istio.io/rewriteAppHTTPProbers": "false"});
    annotated["spec"]["initContainers"] = json!([{"name": "migrate"}]);
    let patch = injector().patch(&annotated, &east(), &ProxyLayers::default()).unwrap();
    assert_eq!(patch.warnings, Vec::<String>::new());
    let pod = patched(annotated.clone(), &patch.operations);
    let names = |list: &str| -> Vec<Value> {
        pod["spec"][list].as_array().unwrap().iter().map(|container| container["name"].clone()).collect()
    };
    assert_eq!(names("initContainers"), ["migrate", "isthmus-init"]);
    assert_eq!(names("containers"), ["reviews", "isthmus-proxy"]);
    assert_eq!(pod["spec"]["containers"][0], annotated["spec"]["containers"][0]);
    let env = pod["spec"]["containers"][1]["env"].as_array().unwrap();
    assert!(env.iter().all(|entry| entry["name"] != "ISTIO_KUBE_APP_PROBERS"));
}

fn lookups() -> webhook::Lookups {
    webhook::Lookups { denied: Arc::new(denied), layers: Arc::new(|_: &str, _: &Labels| ProxyLayers::default()) }
}

/// Cluster north denies the controller to read policies.
fn denied(cluster: &str, kind: Kind) -> bool {
    (cluster, kind) == ("north", Kind::AuthorizationPolicy)
}

struct Caller {
    port: u16,
    roots: Vec<rustls_pki_types::CertificateDer<'static>>,
    metrics: Registry,
}

impl Caller {
    async fn new() -> Caller {
        Caller::of(Clients::Anyone(alpn::WEBHOOK)).await
    }

    async fn of(clients: Clients) -> Caller {
        let year = std::time::Duration::from_secs(365 * 24 * 3600);
        let root = Authority::self_signed_root("mesh", year).unwrap();
        let west = root.intermediate_for("west", &Constraints::default(), year).unwrap();
        let id = SpiffeId::new("cluster.local", "isthmus-system", "isthmus-controller").unwrap();
        let credential = west.credential(&id, &["isthmus-webhooks.isthmus-system.svc"], year).unwrap();
        let identity = Identity::new(credential, Trust::new("cluster.local", root.roots().to_vec(), []).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let metrics = Registry::new();
        let incoming = connections(listener, identity, clients, &metrics);
        let own = HomeCluster { cluster: "west".into(), network: "net-west".into() };
        tokio::spawn(webhook::serve(incoming, injector(), own, lookups(), metrics.clone()));
        Caller { port, roots: root.roots().to_vec(), metrics }
    }

    async fn call(&self, method: &str, path: &str, body: impl Into<Bytes>) -> (u16, String) {
        let config = identity::server_only_client(&self.roots, &[b"http/1.1"]).unwrap();
        let socket = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let name = ServerName::try_from("isthmus-webhooks.isthmus-system.svc").unwrap();
        let stream = tokio_rustls::TlsConnector::from(Arc::clone(&config)).connect(name, socket).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::builder().method(method).uri(path).header("host", "x");
        let response = sender.send_request(request.body(Full::new(body.into())).unwrap()).await.unwrap();
        let code = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (code, String::from_utf8(body.to_vec()).unwrap())
    }
}

fn review(object: &Value) -> String {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": "default", "operation": "CREATE", "object": object, "oldObject": null, "dryRun": false,
            "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller"}
        }
    })
    .to_string()
}

#[tokio::test]
async fn a_review_is_answered_with_a_patch() {
    let caller = Caller::new().await;
    let (code, answer) = caller.call("POST", "/inject/cluster/east/net/net-east?timeout=10s", review(&pod())).await;
    assert_eq!(code, 200, "{answer}");
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let response = &answer["response"];
    assert_eq!(response["uid"], "705ab4f5-6393-11e8-b7cc-42010a800002");
    assert_eq!((&response["allowed"], &response["patchType"]), (&json!(true), &json!("JSONPatch")));
    let patch = base64::engine::general_purpose::STANDARD.decode(response["patch"].as_str().unwrap()).unwrap();
    let operations: Vec<Value> = serde_json::from_slice(&patch).unwrap();
    let injected = patched(pod(), &operations);
    assert_eq!(injected["metadata"]["labels"]["topology.istio.io/cluster"], "east");

    // An injected pod is not injected again.
    let (_, again) = caller.call("POST", "/inject/cluster/east/net/net-east", review(&injected)).await;
    let again: Value = serde_json::from_str(&again).unwrap();
    assert!(again["response"]["patch"].is_null() && again["response"]["allowed"] == true);
    assert_eq!(caller.metrics.total(&webhook::SKIPPED, |_| true), 1);
    assert_eq!(caller.metrics.total(&webhook::SUCCESS, |_| true), 1);
}

#[tokio::test]
async fn invalid_requests_are_answered_with_errors() {
    let caller = Caller::new().await;
    let mut broken = pod();
    broken["metadata"]["annotations"] = json!({"traffic.sidecar.istio.io/excludeInboundPorts": "all"});
    let (code, answer) = caller.call("POST", "/inject", review(&broken)).await;
    assert_eq!(code, 200);
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["response"]["allowed"], false);
    assert!(answer["response"]["status"]["message"].as_str().unwrap().contains("excludeInboundPorts"));

    for (method, path, body, expected) in [
        ("POST", "/inject", "nonsense".to_owned(), 400),
        ("POST", "/inject", String::new(), 400),
        ("POST", "/inject", r#"{"apiVersion":"v1","kind":"Pod"}"#.to_owned(), 400),
        ("GET", "/inject", String::new(), 405),
        ("POST", "/mutate", review(&pod()), 404),
        ("POST", "/inject/cluster", review(&pod()), 404),
        ("POST", "/inject", review(&json!({"metadata": {}})), 400),
        ("POST", "/inject", " ".repeat(4 * 1024 * 1024), 413),
    ] {
        let (code, message) = caller.call(method, path, body).await;
        assert_eq!(code, expected, "{method} {path}: {message}");
        assert!(!message.is_empty());
    }
    assert_eq!(caller.metrics.total(&webhook::FAILED, |_| true), 9);
}

/// Returns the response to a review of an object of the mesh's configuration.
async fn validated(caller: &Caller, group: &str, kind: &str, object: Value) -> Value {
    let response = reviewed(caller, group, kind, object, Value::Null).await;
    assert_eq!(response["allowed"], true, "{response}");
    response
}

/// The same for an update, whatever the decision.
async fn reviewed(caller: &Caller, group: &str, kind: &str, object: Value, old: Value) -> Value {
    reviewed_at(caller, "/validate?timeout=5s", group, kind, object, old).await
}

/// The same at a path.
async fn reviewed_at(caller: &Caller, path: &str, group: &str, kind: &str, object: Value, old: Value) -> Value {
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "1f2c", "kind": {"group": group, "version": "v1", "kind": kind}, "namespace": "shop",
            "operation": if old.is_null() { "CREATE" } else { "UPDATE" }, "object": object, "oldObject": old, "dryRun": false,
        }
    });
    let (code, answer) = caller.call("POST", path, review.to_string()).await;
    assert_eq!(code, 200, "{answer}");
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["response"]["uid"], "1f2c");
    answer["response"].clone()
}

#[tokio::test]
async fn an_object_without_effect_is_admitted_with_a_warning() {
    let caller = Caller::new().await;
    let named = |name: &str| json!({"metadata": {"name": name, "namespace": "shop"}});
    let policy = validated(&caller, "telemetry.istio.io", "Telemetry", named("external")).await;
    let warning = policy["warnings"][0].as_str().unwrap();
    assert!(warning.starts_with("Telemetry shop/external has no effect"), "{warning}");

    let mut rule = named("reviews");
    rule["spec"] = json!({"host": "reviews", "trafficPolicy": {"outlierDetection": {"minRequestVolume": 10}}});
    let rule = validated(&caller, "networking.istio.io", "DestinationRule", rule).await;
    let warnings = rule["warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].as_str().unwrap().contains("spec.trafficPolicy.outlierDetection.minRequestVolume"));

    let export = validated(&caller, "multicluster.x-k8s.io", "ServiceExport", named("reviews")).await;
    assert!(export["warnings"].is_null());
    assert_eq!(caller.metrics.total(&validation::WARNED, |_| true), 2);

    let (code, _) = caller.call("POST", "/validate", "nonsense").await;
    assert_eq!(code, 400);
    for of_injection in [&webhook::REQUESTS, &webhook::FAILED] {
        assert_eq!(caller.metrics.total(of_injection, |_| true), 0);
    }
}

/// Configuration is read from the primary cluster; what protects or describes the own cluster is read from each.
#[tokio::test]
async fn configuration_in_a_cluster_from_which_it_is_not_read_is_admitted_with_a_warning() {
    let caller = Caller::new().await;
    let spec = |kind: &str| match kind {
        "VirtualService" => json!({"hosts": ["reviews"], "tcp": [{"route": [{"destination": {"host": "reviews"}}]}]}),
        "DestinationRule" => json!({"host": "reviews"}),
        _ => json!({}),
    };
    let warnings = async |path: &str, kind: &str| {
        let object = json!({"metadata": {"name": "reviews"}, "spec": spec(kind)});
        let response = reviewed_at(&caller, path, "networking.istio.io", kind, object, Value::Null).await;
        assert_eq!(response["allowed"], true, "{response}");
        response["warnings"].clone()
    };
    for kind in ["VirtualService", "DestinationRule"] {
        let said = warnings("/validate/cluster/east?timeout=5s", kind).await;
        let expected = format!(
            "{kind} shop/reviews has no effect in cluster east: configuration is read in its primary cluster; apply it in west"
        );
        assert_eq!(said, json!([expected]));
        // A configuration of an earlier version does not name the cluster.
        for path in ["/validate", "/validate/cluster/west?timeout=5s"] {
            assert_eq!(warnings(path, kind).await, Value::Null, "{path}");
        }
    }
    assert_eq!(warnings("/validate/cluster/east", "Gateway").await, Value::Null);
    let said = warnings("/validate/cluster/east", "EnvoyFilter").await;
    assert_eq!(said.as_array().expect("a warning").len(), 1, "what has no effect anywhere is said once: {said}");
    let (code, _) = caller.call("POST", "/validate/cluster", "{}").await;
    assert_eq!(code, 404);
    let long = format!("/validate/cluster/{}", "x".repeat(5000));
    assert!(warnings(&long, "DestinationRule").await.to_string().len() < 256);
}

#[tokio::test]
async fn a_policy_in_a_cluster_that_denies_the_controller_to_read_it_is_admitted_with_a_warning() {
    let caller = Caller::new().await;
    let policy = || json!({"metadata": {"name": "deny-all"}, "spec": {}});
    for (path, warned) in [("/validate/cluster/north", true), ("/validate/cluster/east", false), ("/validate", false)] {
        let answer =
            reviewed_at(&caller, path, "security.istio.io", "AuthorizationPolicy", policy(), Value::Null).await;
        assert_eq!(answer["allowed"], true, "{answer}");
        let said = answer["warnings"].to_string();
        assert_eq!(said.contains("shop/deny-all has no effect in cluster north"), warned, "{path}: {said}");
        assert_eq!(said.contains("not permitted to read this kind"), warned, "{path}: {said}");
    }
}

#[tokio::test]
async fn an_invalid_object_is_denied_with_everything_that_is_wrong() {
    let caller = Caller::new().await;
    let service = |weight: i32, name: &str| {
        json!({"metadata": {"name": name, "namespace": "shop"}, "spec": {
            "hosts": ["reviews"],
            "http": [{"route": [{"destination": {"host": "reviews"}, "weight": weight}], "retries": {"attempts": 1, "retryOn": "oops"}}],
        }})
    };
    let group = "networking.istio.io";
    let denied = reviewed(&caller, group, "VirtualService", service(-1, "a"), Value::Null).await;
    assert_eq!((&denied["allowed"], &denied["status"]["code"]), (&json!(false), &json!(422)), "{denied}");
    let message = denied["status"]["message"].as_str().unwrap();
    assert!(
        message.starts_with("VirtualService shop/a is invalid:\n  spec.http[0].route[0].weight: is -1; "),
        "{message}"
    );
    assert!(message.contains("\n  spec.http[0].retries.retryOn: has \"oops\""), "{message}");
    assert_eq!(denied["status"]["details"]["causes"][0]["field"], "spec.http[0].route[0].weight");
    assert_eq!(caller.metrics.total(&validation::DENIED, |_| true), 1);

    // A stored object that is invalid can still be labelled, but not changed to another invalid one.
    let labelled = reviewed(&caller, group, "VirtualService", service(-1, "a"), service(-1, "a")).await;
    assert_eq!(labelled["allowed"], true, "{labelled}");
    let changed = reviewed(&caller, group, "VirtualService", service(-2, "a"), service(-1, "a")).await;
    assert_eq!(changed["allowed"], false, "{changed}");

    let routes = vec![json!({}); 5000];
    let many = json!({"metadata": {"name": "b"}, "spec": {"hosts": ["reviews"], "http": routes}});
    let many = reviewed(&caller, group, "VirtualService", many, Value::Null).await;
    let message = many["status"]["message"].as_str().unwrap();
    assert!(message.ends_with("and 90 further problems"), "{message}");

    // Of a valid object, what Istio warns of.
    let mut mirrored = service(1, "c");
    mirrored["spec"]["http"][0]["retries"] = Value::Null;
    mirrored["spec"]["http"][0]["mirror"] = json!({"host": "b"});
    mirrored["spec"]["http"][0]["mirrorPercent"] = json!(5);
    let mirrored = validated(&caller, group, "VirtualService", mirrored).await;
    let warnings = mirrored["warnings"].to_string();
    assert!(warnings.contains("VirtualService shop/c: spec.http[0].mirrorPercent: is deprecated"), "{warnings}");
}

/// A client without patience for its own end of the calls.
async fn open_call(caller: &Caller, length: usize) -> tokio_rustls::client::TlsStream<TcpStream> {
    use tokio::io::AsyncWriteExt as _;
    let config = identity::server_only_client(&caller.roots, &[b"http/1.1"]).unwrap();
    let socket = TcpStream::connect(("127.0.0.1", caller.port)).await.unwrap();
    let name = ServerName::try_from("isthmus-webhooks.isthmus-system.svc").unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(config).connect(name, socket).await.unwrap();
    let head = format!("POST /inject HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n[");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn large_reviews_that_do_not_arrive_delay_no_small_one() {
    let caller = Caller::new().await;
    let mut held = Vec::new();
    for _ in 0..50 {
        held.push(open_call(&caller, 3 * 1024 * 1024 - 1).await);
    }
    let began = std::time::Instant::now();
    let (code, _) = caller.call("POST", "/inject/cluster/east/net/net-east", review(&pod())).await;
    assert_eq!(code, 200);
    assert!(began.elapsed() < std::time::Duration::from_secs(2), "{:?}", began.elapsed());
    // The first in turn is given its time, and the others none.
    use tokio::io::AsyncReadExt as _;
    let mut answers = Vec::new();
    for stream in &mut held {
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        answers.push(String::from_utf8_lossy(&answer[9..]).into_owned());
    }
    assert!(answers.iter().all(|code| ["408", "429"].contains(&&**code)), "{answers:?}");
    assert!(began.elapsed() < std::time::Duration::from_secs(12), "{:?}", began.elapsed());
}

#[tokio::test]
async fn only_the_known_api_servers_may_call_if_their_certificates_are_known() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let year = std::time::Duration::from_secs(365 * 24 * 3600);
    let [own, foreign] = ["a", "b"].map(|name| Authority::self_signed_root(name, year).unwrap());
    let roots = identity::ClientRoots::new(own.roots()).unwrap();
    let known = KnownClients { roots, names: ["apiserver.west.svc".to_owned()].into() };
    let caller = Caller::of(Clients::Known(alpn::WEBHOOK, known)).await;
    let id = SpiffeId::new("kubernetes", "kube-system", "apiserver").unwrap();
    let status = async |authority: &Authority, name: &str| {
        let credential = authority.credential(&id, &[name], year).unwrap();
        let trust = Trust::new("kubernetes", caller.roots.clone(), []).unwrap();
        let config = Identity::new(credential, trust).controller_config(&[b"http/1.1"]).unwrap();
        let socket = TcpStream::connect(("127.0.0.1", caller.port)).await.unwrap();
        let server = ServerName::try_from("isthmus-webhooks.isthmus-system.svc").unwrap();
        let mut stream = tokio_rustls::TlsConnector::from(config).connect(server, socket).await.ok()?;
        stream.write_all(b"GET /inject HTTP/1.1\r\nHost: x\r\n\r\n").await.ok()?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.ok()?;
        Some(String::from_utf8_lossy(&answer[9..]).into_owned())
    };
    assert_eq!(status(&own, "apiserver.west.svc").await.as_deref(), Some("405"));
    assert_eq!(status(&own, "kubelet.west.svc").await, None);
    assert_eq!(status(&foreign, "apiserver.west.svc").await, None);
    assert!(caller.metrics.total(&FAILED_HANDSHAKES, |labels| labels.contains(&("reason", "unknown_client"))) >= 1);
    let config = identity::server_only_client(&caller.roots, &[b"http/1.1"]).unwrap();
    let socket = TcpStream::connect(("127.0.0.1", caller.port)).await.unwrap();
    let server = ServerName::try_from("isthmus-webhooks.isthmus-system.svc").unwrap();
    let mut byte = [0; 1];
    let read = match tokio_rustls::TlsConnector::from(config).connect(server, socket).await {
        Ok(mut stream) => stream.read(&mut byte).await,
        Err(error) => Err(error),
    };
    assert!(read.is_err(), "a client without a certificate is refused");
}
