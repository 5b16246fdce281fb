//! Tests of enrolment, renewal and the distribution of roots, with fake API servers over real sockets.

use std::sync::Arc;
use std::time::{Duration, Instant};

use api::names::{INJECTION_WEBHOOK, WARNING_WEBHOOK};
use hyper_util::rt::TokioIo;
use identity::{
    Accept, Authority, ClientAuth, Constraints, Credential, Identity, KeyAndRequest, SpiffeId, alpn, peer_of,
};
use rustls_pki_types::ServerName;
use serde_json::json;
use telemetry::metrics::Registry;
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Status};
use wire::ca::IstioCertificateRequest;
use wire::ca::istio_certificate_service_client::IstioCertificateServiceClient;

use super::authorities;
use super::own::{self, Names};
use super::serve::{Clients, connections};
use super::service::{CertificateService, ISSUED, REFUSED, Validity};
use super::{Authorities, roots};
use crate::clusters::{self, Clusters, Config};
use crate::fake::Fake;
use crate::inventory::Inventory;
use crate::pipeline::State;

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
const PATIENCE: Duration = Duration::from_secs(15);
const NAME: &str = "isthmus-controller.isthmus-system.svc";
const ACCOUNTS: &str = "/api/v1/serviceaccounts";
const REVIEWS: &str = "system:serviceaccount:default:reviews";

/// The clusters west (the own one), east (with a signing certificate) and north (without), and a controller that serves
/// certificates.
struct Mesh {
    west: Arc<Fake>,
    east: Arc<Fake>,
    north: Arc<Fake>,
    clusters: Clusters,
    authorities: Authorities,
    metrics: Registry,
    port: u16,
    _kubeconfig: tempfile::NamedTempFile,
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

impl Mesh {
    async fn new() -> Mesh {
        let (west, east, north) = (Fake::start("own").await, Fake::start("reader").await, Fake::start("reader").await);
        let kubeconfig = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(kubeconfig.path(), west.kubeconfig("west", "own")).unwrap();
        west.put_secret("east", &[("east", &east.kubeconfig("east", "reader"))]);
        west.put_secret("north", &[("north", &north.kubeconfig("north", "reader"))]);
        let (events, mut receiver) = clusters::queue::queues();
        tokio::spawn(async move {
            let mut batch = Vec::new();
            loop {
                receiver.receive(&mut batch).await;
                batch.clear();
            }
        });
        let config = Config {
            cluster: "west".into(),
            network: "net-west".into(),
            root_namespace: "istio-system".into(),
            kubeconfig: Some(kubeconfig.path().to_owned()),
            heartbeat: Duration::from_millis(200),
            removal_grace: Duration::ZERO,
        };
        let clusters = clusters::start(config, events).await.unwrap();
        let root = Authority::self_signed_root("mesh", YEAR).unwrap();
        let of = |cluster: &str| root.intermediate_for(cluster, &Constraints::default(), YEAR).unwrap();
        let authorities = Authorities::fixed("west", "cluster.local", vec![("west", of("west")), ("east", of("east"))]);
        let names = Names {
            namespace: "isthmus-system".into(),
            service_account: "isthmus-controller".into(),
            cluster_domain: "cluster.local".into(),
        };
        let identity = own::start(&authorities, names).unwrap();
        let metrics = Registry::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let accept = Clients::OfTheMesh(
            Accept { client: ClientAuth::Optional, alpn: alpn::DISCOVERY },
            super::serve::Admission::unlimited(),
        );
        let incoming = connections(listener, identity, accept, &metrics);
        let settings = crate::inventory::Settings {
            cluster: "west".into(),
            namespace: "isthmus-system".into(),
            root_namespace: "istio-system".into(),
            cluster_domain: "cluster.local".into(),
            trust_domain: "cluster.local".into(),
        };
        let state = State::new(Inventory::new(settings), crate::metrics::Metrics::new(&Registry::new()));
        let validity = Validity::default();
        let service = CertificateService::new(clusters.clone(), authorities.clone(), state, validity, &metrics);
        for fake in [&west, &east, &north] {
            fake.put(ACCOUNTS, json!({"metadata": {"name": "reviews", "namespace": "default"}}));
        }
        let server = Server::builder().add_service(service.service());
        tokio::spawn(server.serve_with_incoming(incoming));
        let mesh = Mesh { west, east, north, clusters, authorities, metrics, port, _kubeconfig: kubeconfig };
        let known = mesh.clusters.clone();
        eventually("all clusters", || known.names().len() == 3).await;
        mesh
    }

    async fn channel(&self, config: Arc<rustls::ClientConfig>) -> Result<Channel, tonic::transport::Error> {
        let port = self.port;
        let connect = tower::service_fn(move |_| {
            let config = Arc::clone(&config);
            async move {
                let socket = TcpStream::connect(("127.0.0.1", port)).await?;
                let name = ServerName::try_from(NAME).unwrap();
                let stream = tokio_rustls::TlsConnector::from(config).connect(name, socket).await?;
                Ok::<_, std::io::Error>(TokioIo::new(stream))
            }
        });
        Endpoint::from_static("http://controller").connect_with_connector(connect).await
    }

    /// Requests a certificate with a token.
    async fn enrol(&self, token: Option<&str>, cluster: Option<&str>, csr: &str) -> Result<Vec<String>, Status> {
        let roots = self.authorities.now().trust.roots().to_vec();
        let channel = self.channel(identity::server_only_client(&roots, alpn::DISCOVERY).unwrap()).await.unwrap();
        self.request(channel, token, cluster, csr).await
    }

    async fn request(
        &self,
        channel: Channel,
        token: Option<&str>,
        cluster: Option<&str>,
        csr: &str,
    ) -> Result<Vec<String>, Status> {
        let message = IstioCertificateRequest { csr: csr.to_owned(), validity_duration: 3600, metadata: None };
        let mut request = Request::new(message);
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        if let Some(cluster) = cluster {
            request.metadata_mut().insert("clusterid", cluster.parse().unwrap());
        }
        let answer = IstioCertificateServiceClient::new(channel).create_certificate(request).await?;
        Ok(answer.into_inner().cert_chain)
    }

    fn refused(&self, reason: &str) -> u64 {
        self.metrics.total(&REFUSED, |labels| labels.contains(&("reason", reason)))
    }
}

#[tokio::test]
async fn a_workload_enrols_in_its_cluster_and_renews_with_its_certificate() {
    let mesh = Mesh::new().await;
    mesh.east.review("good", REVIEWS, &["istio-ca"]);
    let created = KeyAndRequest::generate().unwrap();
    let chain = mesh.enrol(Some("good"), Some("east"), &created.request_pem).await.unwrap();
    assert_eq!(chain.len(), 3, "leaf, intermediate, root");
    let credential = Credential::from_pem(&chain, &created.key).unwrap();
    assert_eq!(credential.id().as_str(), "spiffe://cluster.local/ns/default/sa/reviews");
    let trust = mesh.authorities.now().trust.clone();
    assert_eq!(peer_of(credential.chain(), &trust).unwrap().cluster.as_deref(), Some("east"));
    let lifetime = credential.not_after().duration_since(std::time::SystemTime::now()).unwrap();
    assert!(lifetime <= Duration::from_secs(3600) && lifetime > Duration::from_secs(3500));

    // Renewal, with the certificate instead of a token.
    let identity = Identity::new(credential, trust.clone());
    let channel = mesh.channel(identity.controller_config(alpn::DISCOVERY).unwrap()).await.unwrap();
    let next = KeyAndRequest::generate().unwrap();
    let chain = mesh.request(channel.clone(), None, Some("east"), &next.request_pem).await.unwrap();
    let renewed = Credential::from_pem(&chain, &next.key).unwrap();
    assert_eq!(renewed.id(), &identity.id());
    assert_eq!(peer_of(renewed.chain(), &trust).unwrap().cluster.as_deref(), Some("east"));
    // Renewal for another cluster is refused.
    let refused = mesh.request(channel, None, Some("west"), &next.request_pem).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert_eq!(mesh.refused("client_certificate"), 1);
    assert_eq!(mesh.metrics.total(&ISSUED, |_| true), 2);
}

#[tokio::test]
async fn a_renewal_needs_an_account_a_joined_cluster_and_a_valid_certificate() {
    let mesh = Mesh::new().await;
    let id = SpiffeId::new("cluster.local", "default", "reviews").unwrap();
    let trust = mesh.authorities.now().trust.clone();
    let connected = async |validity| {
        let credential = mesh.authorities.now().of("east").unwrap().credential(&id, &[], validity).unwrap();
        let identity = Identity::new(credential, trust.clone());
        mesh.channel(identity.controller_config(alpn::DISCOVERY).unwrap()).await.unwrap()
    };
    let csr = KeyAndRequest::generate().unwrap().request_pem;
    let channel = connected(YEAR).await;
    let renew = async |channel: &Channel| mesh.request(channel.clone(), None, Some("east"), &csr).await.map(drop);
    renew(&channel).await.unwrap();

    // The connection outlives the certificate, which the handshake accepted.
    let short = connected(Duration::from_secs(2)).await;
    renew(&short).await.unwrap();
    let began = Instant::now();
    let status = loop {
        match renew(&short).await {
            Ok(()) => assert!(began.elapsed() < PATIENCE, "an expired certificate is renewed"),
            Err(status) => break status,
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    assert!(status.message().contains("expired"), "{status}");

    mesh.east.delete(ACCOUNTS, "default", "reviews");
    let status = renew(&channel).await.unwrap_err();
    assert_eq!((status.code(), mesh.refused("account_gone")), (Code::Unauthenticated, 1), "{status}");
    mesh.east.put(ACCOUNTS, json!({"metadata": {"name": "reviews", "namespace": "default"}}));
    renew(&channel).await.unwrap();

    // Where the API server does not tell, the last known state decides, which here excludes nothing.
    mesh.east.forbid(ACCOUNTS);
    renew(&channel).await.unwrap();
    mesh.east.stop().await;
    renew(&channel).await.unwrap();

    mesh.west.delete("/api/v1/secrets", "istio-system", "east");
    let clusters = mesh.clusters.clone();
    eventually("east leaves", || clusters.is_joined("east") == Some(false)).await;
    let status = renew(&channel).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    assert!(status.message().contains("not part of this mesh"), "{status}");
    assert_eq!(mesh.refused("unknown_cluster"), 1);
}

/// Opens connections to the port and waits until the controller has accepted them.
async fn half_open(port: u16, count: usize) -> Vec<TcpStream> {
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count {
        sockets.push(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
    }
    sockets
}

#[tokio::test]
async fn a_proxy_enrols_while_thousands_of_connections_are_half_open() {
    let mesh = Mesh::new().await;
    mesh.east.review("good", REVIEWS, &["istio-ca"]);
    let csr = KeyAndRequest::generate().unwrap().request_pem;
    let held = half_open(mesh.port, 2000).await;
    let began = Instant::now();
    mesh.enrol(Some("good"), Some("east"), &csr).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    // A client that finishes its handshake and then sends nothing holds a place as well, and no more.
    let evicted = || mesh.metrics.total(&crate::ports::gate::EVICTED, |_| true);
    eventually("the places are bounded", || evicted() >= 2000 - 512).await;
    drop(held);
}

#[tokio::test]
async fn refusals_have_a_reason_and_are_counted() {
    let mesh = Mesh::new().await;
    mesh.west.review("wests", REVIEWS, &["istio-ca"]);
    mesh.east.review("good", REVIEWS, &["istio-ca"]);
    mesh.east.review("other-audience", REVIEWS, &["https://kubernetes.default.svc"]);
    mesh.east.review("node", "system:node:n1", &["istio-ca"]);
    mesh.north.review("good", REVIEWS, &["istio-ca"]);
    let csr = KeyAndRequest::generate().unwrap().request_pem;
    let table = [
        (None, Some("east"), Code::Unauthenticated, "no_credentials", "neither"),
        (Some("expired"), Some("east"), Code::Unauthenticated, "token_rejected", "rejects the token"),
        (Some("wests"), Some("east"), Code::Unauthenticated, "token_rejected", "rejects the token"),
        (Some("other-audience"), Some("east"), Code::Unauthenticated, "token_rejected", "audiences"),
        (Some("node"), Some("east"), Code::Unauthenticated, "not_a_service_account", "system:node"),
        (Some("good"), Some("south"), Code::Unauthenticated, "unknown_cluster", "remote secret"),
        (Some("good"), None, Code::Unauthenticated, "token_rejected", "cluster west"),
        (Some("good"), Some("north"), Code::FailedPrecondition, "no_authority", "cacerts-north"),
    ];
    for (token, cluster, code, reason, message) in table {
        let before = mesh.refused(reason);
        let status = mesh.enrol(token, cluster, &csr).await.expect_err("a certificate is issued");
        assert_eq!(status.code(), code, "{token:?} {cluster:?}: {status}");
        assert!(status.message().contains(message), "{status}");
        assert_eq!(mesh.refused(reason), before + 1, "{reason}");
    }
    for broken in ["", "nonsense", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"] {
        let status = mesh.enrol(Some("good"), Some("east"), broken).await.expect_err("a certificate is issued");
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
    assert_eq!(mesh.refused("bad_request"), 3);
    assert!(mesh.enrol(Some("good"), Some("east"), &csr).await.is_ok(), "valid requests succeed");

    // An API server without an answer is a temporary error.
    mesh.east.stop().await;
    let status = mesh.enrol(Some("good"), Some("east"), &csr).await.expect_err("a certificate is issued");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    mesh.west.review("good", REVIEWS, &["istio-ca"]);
    assert!(mesh.enrol(Some("good"), Some("west"), &csr).await.is_ok(), "west is not affected");
}

#[tokio::test]
async fn a_client_of_another_root_is_refused_in_the_handshake() {
    let mesh = Mesh::new().await;
    let stranger = Authority::self_signed_root("mesh", YEAR).unwrap();
    let id = SpiffeId::new("cluster.local", "default", "reviews").unwrap();
    let trust = mesh.authorities.now().trust.clone();
    let identity = Identity::new(stranger.credential(&id, &[], YEAR).unwrap(), trust);
    let csr = KeyAndRequest::generate().unwrap().request_pem;
    let outcome = match mesh.channel(identity.controller_config(alpn::DISCOVERY).unwrap()).await {
        Ok(channel) => mesh.request(channel, None, Some("east"), &csr).await.map_err(|e| e.to_string()),
        Err(error) => Err(error.to_string()),
    };
    assert!(outcome.is_err());
    let metrics = mesh.metrics.clone();
    let counted =
        move || metrics.total(&super::serve::FAILED_HANDSHAKES, |l| l.contains(&("reason", "unknown_issuer"))) == 1;
    eventually("counted", counted).await;
}

#[tokio::test]
async fn the_roots_are_written_to_every_namespace_of_signed_clusters() {
    let mesh = Mesh::new().await;
    let namespace = |name: &str| json!({"metadata": {"name": name}});
    for fake in [&mesh.west, &mesh.east, &mesh.north] {
        fake.put("/api/v1/namespaces", namespace("default"));
    }
    const WEBHOOKS: [(&str, &str); 2] = [
        ("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations", INJECTION_WEBHOOK),
        ("/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", WARNING_WEBHOOK),
    ];
    for (collection, name) in WEBHOOKS {
        let webhook = json!({"metadata": {"name": name}, "webhooks": [
            {"name": "a.isthmus.dev", "admissionReviewVersions": ["v1"], "sideEffects": "None",
             "clientConfig": {"service": {"name": "isthmus-webhooks", "namespace": "isthmus-system"}}}]});
        mesh.east.put(collection, webhook);
    }
    tokio::spawn(roots::keep(mesh.clusters.clone(), mesh.authorities.clone()));
    let roots = mesh.authorities.now().roots_pem();
    let has = |fake: &Fake, namespace: &str| {
        let map = fake.get("/api/v1/configmaps", namespace, "istio-ca-root-cert");
        map.is_some_and(|map| map["data"]["root-cert.pem"] == json!(roots))
    };
    eventually("west and east", || has(&mesh.west, "default") && has(&mesh.east, "default")).await;
    mesh.east.put("/api/v1/namespaces", namespace("late"));
    eventually("a new namespace", || has(&mesh.east, "late")).await;
    use base64::Engine as _;
    for (collection, name) in WEBHOOKS {
        let bundle = || mesh.east.get(collection, "", name).unwrap()["webhooks"][0]["clientConfig"]["caBundle"].clone();
        eventually("the webhook", || bundle().is_string()).await;
        let written = base64::engine::general_purpose::STANDARD.decode(bundle().as_str().unwrap()).unwrap();
        assert_eq!(written, roots.as_bytes());
    }
    assert_eq!(mesh.north.writes(), Vec::<String>::new(), "a cluster without a signing certificate receives no roots");
}

#[tokio::test]
async fn a_self_signed_root_is_created_once() {
    let west = Fake::start("own").await;
    let client = west.client("own").await;
    let first = authorities::start(client.clone(), "istio-system", "west".into(), "cluster.local").await.unwrap();
    assert_eq!(west.writes().len(), 2, "root and intermediate");
    assert!(!first.now().own().is_root());
    let second = authorities::start(client.clone(), "istio-system", "west".into(), "cluster.local").await.unwrap();
    assert_eq!(west.writes().len(), 2, "the second start uses the stored ones");
    assert_eq!(first.now().trust, second.now().trust);

    // The intermediate of a remote cluster is read at run time.
    let root = west.get("/api/v1/secrets", "istio-system", "istio-ca-secret").unwrap();
    let entries = root["data"].as_object().unwrap().iter().map(|(key, value)| {
        use base64::Engine as _;
        (key.clone(), base64::engine::general_purpose::STANDARD.decode(value.as_str().unwrap()).unwrap())
    });
    let root = Authority::from_cacerts(&identity::CaCerts::from_entries(&entries.collect()).unwrap()).unwrap();
    let east = root.intermediate_for("east", &Constraints::default(), YEAR).unwrap().to_cacerts().to_entries();
    let data: serde_json::Map<_, _> = east
        .into_iter()
        .map(|(key, value)| {
            use base64::Engine as _;
            (key, json!(base64::engine::general_purpose::STANDARD.encode(value)))
        })
        .collect();
    west.put(
        "/api/v1/secrets",
        json!({"metadata": {"name": "cacerts-east", "namespace": "istio-system"}, "data": data}),
    );
    eventually("east", || first.now().of("east").is_some()).await;
    west.delete("/api/v1/secrets", "istio-system", "cacerts-east");
    eventually("east removed", || first.now().of("east").is_none()).await;

    let broken = Fake::start("own").await;
    broken.put("/api/v1/secrets", json!({"metadata": {"name": "cacerts", "namespace": "istio-system"}, "data": {}}));
    let client = broken.client("own").await;
    let error = authorities::start(client, "istio-system", "west".into(), "cluster.local").await.err().unwrap();
    assert!(error.to_string().contains("ca-cert.pem is missing"), "{error}");
}

#[tokio::test]
async fn two_primaries_exchange_their_intermediates() {
    let mesh = Mesh::new().await;
    let root = Authority::self_signed_root("common", YEAR).unwrap();
    let [own, other] = ["west", "east"].map(|c| root.intermediate_for(c, &Constraints::default(), YEAR).unwrap());
    let data = |authority: &Authority| {
        use base64::Engine as _;
        let encode =
            |(key, value): (String, String)| (key, json!(base64::engine::general_purpose::STANDARD.encode(value)));
        authority.to_cacerts().to_entries().into_iter().map(encode).collect::<serde_json::Map<_, _>>()
    };
    let cacerts = json!({"metadata": {"name": "cacerts", "namespace": "istio-system"}, "data": data(&own)});
    mesh.west.put("/api/v1/secrets", cacerts);
    let client = mesh.clusters.own_client().clone();
    let authorities = authorities::start(client, "istio-system", "west".into(), "cluster.local").await.unwrap();
    for fake in [&mesh.west, &mesh.east] {
        fake.put("/api/v1/namespaces", json!({"metadata": {"name": "istio-system"}}));
    }
    let publish = |certificate: &rustls_pki_types::CertificateDer<'static>| {
        let pem = identity::certificates_to_pem([certificate]);
        let map = json!({"metadata": {"name": "istio-ca-root-cert", "namespace": "istio-system"},
                         "data": {"issuer-cert.pem": pem}});
        mesh.east.put("/api/v1/configmaps", map);
    };
    publish(other.certificate());
    tokio::spawn(roots::keep(mesh.clusters.clone(), authorities.clone()));
    eventually("east's issuer", || authorities.now().trust.issuers().contains(&other.issuer_of("east"))).await;
    eventually("west's intermediate is published", || {
        let map = mesh.west.get("/api/v1/configmaps", "istio-system", "istio-ca-root-cert");
        map.is_some_and(|map| map["data"]["issuer-cert.pem"].is_string())
    })
    .await;
    assert!(!mesh.east.writes().iter().any(|w| w.contains("configmaps")), "only east's own controller writes there");
}

#[tokio::test]
async fn a_published_intermediate_stays_with_its_first_cluster_when_the_controller_restarts() {
    let mesh = Mesh::new().await;
    let root = Authority::self_signed_root("common", YEAR).unwrap();
    let [own, other] = ["west", "east"].map(|c| root.intermediate_for(c, &Constraints::default(), YEAR).unwrap());
    let data = |authority: &Authority| {
        use base64::Engine as _;
        let encode =
            |(key, value): (String, String)| (key, json!(base64::engine::general_purpose::STANDARD.encode(value)));
        authority.to_cacerts().to_entries().into_iter().map(encode).collect::<serde_json::Map<_, _>>()
    };
    let cacerts = json!({"metadata": {"name": "cacerts", "namespace": "istio-system"}, "data": data(&own)});
    mesh.west.put("/api/v1/secrets", cacerts);
    let start = async || {
        let client = mesh.clusters.own_client().clone();
        authorities::start(client, "istio-system", "west".into(), "cluster.local").await.unwrap()
    };
    let publish = |fake: &Fake| {
        let pem = identity::certificates_to_pem([other.certificate()]);
        let map = json!({"metadata": {"name": "istio-ca-root-cert", "namespace": "istio-system"},
                         "data": {"issuer-cert.pem": pem}});
        fake.put("/api/v1/configmaps", map);
    };
    publish(&mesh.east);
    let first = start().await;
    let keeping = tokio::spawn(roots::keep(mesh.clusters.clone(), first.clone()));
    eventually("east's intermediate", || first.now().trust.issuers().contains(&other.issuer_of("east"))).await;
    keeping.abort();

    // A cluster whose name sorts first publishes the same one, and the controller forgets what it had in memory.
    publish(&mesh.north);
    mesh.west.put_secret("rogue", &[("aachen", &mesh.north.kubeconfig("aachen", "reader"))]);
    let clusters = mesh.clusters.clone();
    eventually("aachen", || clusters.names().iter().any(|name| &**name == "aachen")).await;
    let second = start().await;
    tokio::spawn(roots::keep(mesh.clusters.clone(), second.clone()));
    eventually("east's intermediate again", || {
        let now = second.now();
        assert!(!now.trust.issuers().iter().any(|issuer| &*issuer.cluster == "aachen"));
        let shown = now.problems.iter().any(|of| of.secret.contains("aachen") && of.why.contains("cluster east"));
        now.trust.issuers().contains(&other.issuer_of("east")) && shown
    })
    .await;
}
