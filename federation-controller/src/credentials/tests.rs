//! Tests of Secrets with an API server over TLS and the whole pipeline: from the Secret to what a router receives.

use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use identity::{Authority, KeyAndRequest, SpiffeId, certificates_to_pem};
use serde_json::json;
use telemetry::metrics::Registry;
use tokio::sync::oneshot;
use wire::delta::{Body, Found as _, Source as _};
use wire::discovery;
use wire::name::Role;

use super::*;
use crate::clusters::queue::queues;
use crate::clusters::{self, Config};
use crate::compile::resource::Viewer;
use crate::fake::Fake;
use crate::inventory::{Inventory, Settings};
use crate::metrics::Metrics;
use crate::pipeline;

const DAY: Duration = Duration::from_secs(86_400);
const PATIENCE: Duration = Duration::from_secs(15);
const SECRETS: &str = "/api/v1/secrets";

/// Returns a certificate for names and its key, as PEM, that is issued at a time and valid for a day.
pub(super) fn certificate(names: &[&str], at: SystemTime) -> (String, String) {
    let authority = Authority::self_signed_root("test", 400 * DAY).unwrap();
    let made = KeyAndRequest::generate().unwrap();
    let id = SpiffeId::new("cluster.local", "ingress", "gw").unwrap();
    let chain = authority.issue_at(&made.public_key().unwrap(), &id, names, DAY, at).unwrap();
    (certificates_to_pem(&chain), made.key.to_pem())
}

/// A controller with one API server, which has an ingress gateway.
struct Run {
    fake: Arc<Fake>,
    state: Arc<State>,
    _kubeconfig: tempfile::NamedTempFile,
}

impl Run {
    async fn new(prepare: impl FnOnce(&Fake)) -> Run {
        let fake = Fake::start("own").await;
        let kubeconfig = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(kubeconfig.path(), fake.kubeconfig("west", "own")).unwrap();
        let pod = json!({"metadata": {"name": "gw-1", "namespace": "ingress", "labels": {"app": "gw"}},
            "spec": {"serviceAccountName": "gw"}, "status": {"phase": "Running"}});
        fake.put("/api/v1/pods", pod);
        let tls = json!({"mode": "MUTUAL", "credentialName": "web"});
        fake.put(
            "/apis/networking.istio.io/v1beta1/gateways",
            json!({"metadata": {"name": "public", "namespace": "elsewhere"}, "spec": {"selector": {"app": "gw"}, "servers": [
                {"port": {"number": 443, "name": "https", "protocol": "HTTPS"}, "hosts": ["www.example.com"], "tls": tls}]}}),
        );
        prepare(&fake);
        let (sender, receiver) = queues();
        let settings = Settings {
            cluster: "west".into(),
            namespace: "isthmus-system".into(),
            root_namespace: "istio-system".into(),
            cluster_domain: "cluster.local".into(),
            trust_domain: "cluster.local".into(),
        };
        let state = State::new(Inventory::new(settings), Metrics::new(&Registry::new()));
        let config = Config {
            cluster: "west".into(),
            network: "".into(),
            root_namespace: "istio-system".into(),
            kubeconfig: Some(kubeconfig.path().to_owned()),
            heartbeat: Duration::from_millis(100),
            removal_grace: Duration::ZERO,
        };
        let clusters = clusters::start(config, sender.clone()).await.unwrap();
        tokio::spawn(pipeline::run(state.clone(), receiver, None));
        tokio::spawn(run(state.clone(), sender.clone(), clusters));
        let (published, _) = oneshot::channel();
        let pod = Key::new("ingress", "gw-1");
        let event = Event::ProxyConnected { cluster: "west".into(), pod, role: Role::Router, published };
        sender.send(Source::Proxies("west".into()), event).await.unwrap();
        Run { fake, state, _kubeconfig: kubeconfig }
    }

    fn put(&self, name: &str, entries: &[(&str, &str)]) {
        let data: serde_json::Map<_, _> =
            entries.iter().map(|(key, value)| ((*key).to_owned(), json!(STANDARD.encode(value)))).collect();
        self.fake.put(SECRETS, json!({"metadata": {"name": name, "namespace": "ingress"}, "data": data}));
    }

    /// Returns what a proxy of a namespace receives as the credential.
    fn seen_by(&self, namespace: &str, router: bool) -> Option<discovery::Credential> {
        let viewer = Viewer { cluster: "west".into(), namespace: namespace.into(), router, ..Viewer::default() };
        let store = self.state.store();
        let body = store.view(&viewer).get(wire::Kind::Credential, "west/ingress/web")?.body();
        match Body::decode(wire::Kind::Credential, wire::Kind::Credential.url(), body).unwrap() {
            Body::Credential(credential) => Some(credential),
            other => panic!("{other:?}"),
        }
    }

    /// Waits until the notices about the Gateway contain a text; empty: until there are none.
    async fn until(&self, text: &str) {
        let began = Instant::now();
        loop {
            let notices = self.state.inventory().notices();
            let of_gateway = notices.iter().filter(|line| line.contains("elsewhere/public")).collect::<Vec<_>>();
            let is =
                if text.is_empty() { of_gateway.is_empty() } else { of_gateway.iter().any(|of| of.contains(text)) };
            if is {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "no notice with {text:?}: {notices:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until routers receive a certificate; empty: none.
    async fn until_served(&self, chain: &str) {
        let began = Instant::now();
        while self.seen_by("ingress", true).unwrap_or_default().certificate_chain != chain.as_bytes() {
            assert!(began.elapsed() < PATIENCE, "{:?}", self.state.inventory().notices());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn routers_of_the_namespace_receive_the_last_usable_content_of_a_secret() {
    let now = SystemTime::now();
    let (first, key) = certificate(&["www.example.com"], now);
    let run = Run::new(|_| {}).await;
    run.until("Secret ingress/web of cluster west does not exist: connections are refused").await;
    assert_eq!(run.seen_by("ingress", true), None);

    run.put("unrelated", &[("tls.crt", &first), ("tls.key", &key)]);
    run.put("web", &[("tls.crt", &first), ("tls.key", &key)]);
    run.until("has no ca.crt, and there is no web-cacert: connections are refused").await;
    run.put("web", &[("tls.crt", &first), ("tls.key", &key), ("ca.crt", &first)]);
    run.until_served(&first).await;
    run.until("").await;
    // The certificate was served before there were roots of clients.
    let began = Instant::now();
    while run.seen_by("ingress", true).unwrap().ca_certificates != first.as_bytes() {
        assert!(began.elapsed() < PATIENCE, "the roots of clients are not served");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(run.seen_by("ingress", true).unwrap().private_key, key.as_bytes());
    assert_eq!(run.seen_by("ingress", false), None, "a sidecar");
    assert_eq!(run.seen_by("elsewhere", true), None, "a router of the namespace of the Gateway");
    assert_eq!(run.state.store().all(wire::Kind::Credential).count(), 1, "the other Secret is not kept");

    // Half-written, and with the key of another certificate.
    let (second, second_key) = certificate(&["www.example.com"], now);
    run.put("web", &[("tls.crt", &second)]);
    run.until("the last usable content stays in force: tls.crt is there without tls.key").await;
    run.put("web", &[("tls.crt", &second), ("tls.key", &key)]);
    run.until("the private key is not that of the certificate").await;
    run.until_served(&first).await;
    let (expired, expired_key) = certificate(&["www.example.com"], now - 10 * DAY);
    run.put("web", &[("tls.crt", &expired), ("tls.key", &expired_key)]);
    run.until("its new certificate has expired").await;
    run.until_served(&first).await;

    // Roots of a Secret of their own take precedence.
    run.put("web", &[("tls.crt", &second), ("tls.key", &second_key), ("ca.crt", &first)]);
    run.put("web-cacert", &[("cacert", &second)]);
    run.until_served(&second).await;
    run.until("").await;
    let began = Instant::now();
    while run.seen_by("ingress", true).unwrap().ca_certificates != second.as_bytes() {
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    let (other, other_key) = certificate(&["other.example.com"], now);
    run.put("web", &[("cert", &other), ("key", &other_key)]);
    run.until("no certificate is for host www.example.com").await;
    run.until_served(&other).await;

    run.fake.delete(SECRETS, "ingress", "web");
    run.until("does not exist any longer: gateways keep its last content").await;
    run.until_served("").await;
}

#[tokio::test]
async fn a_cluster_that_does_not_permit_reading_secrets_is_a_notice() {
    let run = Run::new(|fake| fake.forbid(SECRETS)).await;
    run.until("is not usable, and connections are refused: the cluster does not permit").await;
    run.until("apply a Role").await;
    assert_eq!(run.seen_by("ingress", true), None);
}
