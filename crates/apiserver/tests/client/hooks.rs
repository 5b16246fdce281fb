//! Admission webhooks over TLS.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use isthmus_apiserver::certificates::ClusterCa;
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::Api;
use kube::api::PostParams;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::cluster::{Cluster, config_map, rejection};

/// A webhook whose response is computed by a function.
struct TestWebhook {
    url: String,
    ca: String,
    calls: Arc<AtomicUsize>,
}

impl TestWebhook {
    async fn start(answer: fn(&Value) -> Value) -> Self {
        let ca = ClusterCa::generate("hooks").expect("makes a CA");
        let pair = ca.serving(&["127.0.0.1".to_owned()]).expect("signs");
        let chain = vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes()).expect("is PEM")];
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("is PEM");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.expect("has versions").with_no_client_auth().with_single_cert(chain, key).expect("fits");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let url = format!("https://{}/hook", listener.local_addr().expect("bound"));
        let calls = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&calls);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, counter) = (acceptor.clone(), Arc::clone(&counter));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request: http::Request<Incoming>| {
                        counter.fetch_add(1, Ordering::Relaxed);
                        async move {
                            let body = request.into_body().collect().await.expect("is whole").to_bytes();
                            let review: Value = serde_json::from_slice(&body).expect("is JSON");
                            let mut response = answer(&review["request"]);
                            response["uid"] = review["request"]["uid"].clone();
                            let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
                            Ok::<_, Infallible>(http::Response::new(Full::new(Bytes::from(review.to_string()))))
                        }
                    });
                    let connection = hyper::server::conn::http1::Builder::new();
                    drop(connection.serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        Self { url, ca: ca.certificate().to_owned(), calls }
    }

    /// A webhook entry for creations of a core resource.
    fn entry(&self, resource: &str, more: Value) -> Value {
        let mut entry = json!({
            "name": "hook.x.io", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "clientConfig": {"url": self.url, "caBundle": STANDARD.encode(&self.ca)},
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": [resource]}],
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            entry[key] = value.clone();
        }
        entry
    }
}

async fn mutating(cluster: &Cluster, entry: Value) {
    let config: MutatingWebhookConfiguration =
        serde_json::from_value(json!({"metadata": {"name": "hook"}, "webhooks": [entry]})).expect("is one");
    Api::all(cluster.client.clone()).create(&PostParams::default(), &config).await.expect("creates");
}

async fn validating(cluster: &Cluster, entry: Value) {
    let config: ValidatingWebhookConfiguration =
        serde_json::from_value(json!({"metadata": {"name": "hook"}, "webhooks": [entry]})).expect("is one");
    Api::all(cluster.client.clone()).create(&PostParams::default(), &config).await.expect("creates");
}

fn patched(patch: Value) -> Value {
    json!({"allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(patch.to_string()), "warnings": ["patched"]})
}

#[tokio::test]
async fn an_injected_container_mounts_the_token() {
    let cluster = Cluster::start().await;
    cluster.account("default").await;
    let hook = TestWebhook::start(|request| {
        assert_eq!(request["namespace"], "default");
        assert_eq!(request["operation"], "CREATE");
        // The service account is set before webhooks receive the pod.
        assert_eq!(request["object"]["spec"]["serviceAccountName"], "default");
        patched(json!([{"op": "add", "path": "/spec/containers/-", "value": {"name": "proxy", "image": "proxy"}}]))
    });
    let hook = hook.await;
    let selector = json!({"objectSelector": {"matchLabels": {"inject": "yes"}}});
    mutating(&cluster, hook.entry("pods", selector)).await;
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), "default");
    let pod = |name: &str, inject: &str| -> Pod {
        let spec = json!({"containers": [{"name": "app", "image": "x"}]});
        serde_json::from_value(json!({"metadata": {"name": name, "labels": {"inject": inject}}, "spec": spec}))
            .expect("is a Pod")
    };
    let injected = pods.create(&PostParams::default(), &pod("a", "yes")).await.expect("creates").spec.expect("has one");
    assert_eq!(injected.containers.len(), 2);
    for container in &injected.containers {
        assert_eq!(container.volume_mounts.as_ref().map(Vec::len), Some(1), "{}", container.name);
    }
    // Defaults are applied to the changes of a webhook.
    assert_eq!(injected.containers[1].image_pull_policy.as_deref(), Some("Always"));
    let plain = pods.create(&PostParams::default(), &pod("b", "no")).await.expect("creates").spec.expect("has one");
    assert_eq!(plain.containers.len(), 1);
    assert_eq!(hook.calls.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_denial_is_returned_to_the_client() {
    let cluster = Cluster::start().await;
    let hook = TestWebhook::start(
        |_| json!({"allowed": false, "status": {"code": 403, "reason": "Forbidden", "message": "not today"}}),
    )
    .await;
    validating(&cluster, hook.entry("configmaps", json!({}))).await;
    let (code, _, message) =
        rejection(cluster.config_maps().create(&PostParams::default(), &config_map("a", "1")).await);
    assert_eq!((code, message.as_str()), (403, "admission webhook \"hook.x.io\" denied the request: not today"));
}

#[tokio::test]
async fn namespace_selectors_choose_webhooks() {
    let cluster = Cluster::start().await;
    let hook = TestWebhook::start(|_| json!({"allowed": false})).await;
    cluster.namespace("guarded").await;
    let selector = json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "guarded"}}});
    validating(&cluster, hook.entry("configmaps", selector)).await;
    cluster.config_maps().create(&PostParams::default(), &config_map("a", "1")).await.expect("not guarded");
    let guarded: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "guarded");
    assert_eq!(rejection(guarded.create(&PostParams::default(), &config_map("a", "1")).await).0, 400);
}

#[tokio::test]
async fn the_failure_policy_decides_on_failed_webhooks() {
    for (policy, created) in [("Fail", false), ("Ignore", true)] {
        let cluster = Cluster::start().await;
        let hook = TestWebhook::start(|_| json!({"allowed": true})).await;
        let mut entry = hook.entry("configmaps", json!({"failurePolicy": policy, "timeoutSeconds": 1}));
        // Signed by an authority that is not in the configuration.
        let other = ClusterCa::generate("other").expect("makes a CA");
        entry["clientConfig"]["caBundle"] = json!(STANDARD.encode(other.certificate()));
        validating(&cluster, entry).await;
        let result = cluster.config_maps().create(&PostParams::default(), &config_map("a", "1")).await;
        assert_eq!(result.is_ok(), created, "{policy}: {result:?}");
        if !created {
            let (code, reason, message) = rejection(result);
            assert_eq!((code, reason.as_str()), (500, "InternalError"));
            assert!(message.contains("failed calling webhook \"hook.x.io\""), "{message}");
        }
    }
}
