use super::client::REQUESTS;
use super::*;

use std::sync::{Arc, Mutex};

use identity::{Authority, ClientAuth, SpiffeId, alpn};
use telemetry::metrics::Registry;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use wire::ca::istio_certificate_service_server::{IstioCertificateService, IstioCertificateServiceServer};
use wire::ca::{IstioCertificateRequest, IstioCertificateResponse};

const NAME: &str = "controller.mesh.svc";

/// A certificate service on loopback that accepts the token "good" and client certificates.
struct CertificateService {
    address: std::net::SocketAddr,
    roots: String,
    requests: Arc<Mutex<Vec<String>>>,
    directory: tempfile::TempDir,
}

struct Handler {
    authority: Authority,
    validity: Duration,
    refuse_first: Mutex<usize>,
    requests: Arc<Mutex<Vec<String>>>,
}

#[tonic::async_trait]
impl IstioCertificateService for Handler {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let text = |key| request.metadata().get(key).and_then(|value| value.to_str().ok()).unwrap_or("-").to_owned();
        let received = format!("{} {}", text("authorization"), text("clusterid"));
        self.requests.lock().unwrap().push(received.clone());
        {
            let mut refuse = self.refuse_first.lock().unwrap();
            if *refuse > 0 {
                *refuse -= 1;
                return Err(Status::unavailable("starting"));
            }
        }
        if received.starts_with("Bearer") && received != "Bearer good west" {
            return Err(Status::unauthenticated("unknown token"));
        }
        let key = identity::PublicKey::from_request_pem(&request.get_ref().csr)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let id = SpiffeId::new("cluster.local", "default", "frontend").unwrap();
        let chain =
            self.authority.issue(&key, &id, self.validity).map_err(|error| Status::internal(error.to_string()))?;
        let mut pem = identity::certificates_to_pem(&chain);
        pem.push_str(&self.authority.roots_pem());
        Ok(Response::new(IstioCertificateResponse { cert_chain: vec![pem] }))
    }
}

async fn start_ca(validity: Duration, refuse_first: usize) -> CertificateService {
    let root = Authority::self_signed_root("isthmus", Duration::from_secs(3600)).unwrap();
    let id = SpiffeId::new("cluster.local", "isthmus-system", "isthmus-controller").unwrap();
    let own = root.credential(&id, &[NAME], Duration::from_secs(3600)).unwrap();
    let trust = Trust::new("cluster.local", root.roots().to_vec(), []).unwrap();
    let accept = identity::Accept { client: ClientAuth::Optional, alpn: alpn::DISCOVERY };
    let tls = TlsAcceptor::from(Identity::new(own, trust).server_config(accept));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let requests = Arc::new(Mutex::new(Vec::new()));
    let directory = tempfile::tempdir().unwrap();
    let roots = root.roots_pem();
    let service =
        Handler { authority: root, validity, refuse_first: Mutex::new(refuse_first), requests: Arc::clone(&requests) };
    let (accepted, incoming) = tokio::sync::mpsc::channel(16);
    let seen = Arc::clone(&requests);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            if let Ok(stream) = tls.accept(stream).await {
                if stream.get_ref().1.peer_certificates().is_some() {
                    seen.lock().unwrap().push("mutual TLS".to_owned());
                }
                let _ = accepted.send(Ok::<_, std::io::Error>(stream)).await;
            }
        }
    });
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(IstioCertificateServiceServer::new(service))
            .serve_with_incoming(ReceiverStream::new(incoming)),
    );
    CertificateService { address, roots, requests, directory }
}

impl CertificateService {
    fn options(&self, token: &str) -> Options {
        let (token_path, root_path) = (self.directory.path().join("token"), self.directory.path().join("root"));
        std::fs::write(&token_path, format!("{token}\n")).unwrap();
        std::fs::write(&root_path, &self.roots).unwrap();
        let controller = self.address.to_string().parse::<Controller>().unwrap().named(NAME).unwrap();
        let (first_wait, longest_wait) = (Duration::from_millis(20), Duration::from_millis(500));
        Options { token_path, root_path, first_wait, longest_wait, ..Options::new(controller, "west") }
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

#[tokio::test]
async fn enrolment_retries_with_the_token() {
    let ca = start_ca(Duration::from_secs(600), 2).await;
    let registry = Registry::new();
    let enrolled = start(ca.options("good"), &registry).await;
    assert_eq!(enrolled.identity.id().as_str(), "spiffe://cluster.local/ns/default/sa/frontend");
    assert_eq!(ca.requests(), ["Bearer good west"; 3]);
    assert_eq!(registry.total(&REQUESTS, |labels| labels.contains(&("outcome", "unreachable"))), 2);
    assert_eq!(registry.total(&REQUESTS, |labels| labels.contains(&("outcome", "success"))), 1);
}

#[tokio::test]
async fn the_token_is_read_for_each_request() {
    let ca = start_ca(Duration::from_secs(600), 0).await;
    let registry = Registry::new();
    let options = ca.options("bad");
    let token_path = options.token_path.clone();
    let starting = tokio::spawn({
        let registry = registry.clone();
        async move { start(options, &registry).await }
    });
    let refused = || registry.total(&REQUESTS, |labels| labels.contains(&("outcome", "refused")));
    let two_refused = async {
        while refused() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), two_refused).await.unwrap();
    assert!(!starting.is_finished());
    std::fs::write(token_path, "good").unwrap();
    tokio::time::timeout(Duration::from_secs(10), starting).await.unwrap().unwrap();
}

#[tokio::test]
async fn certificates_are_renewed_at_half_of_their_lifetime() {
    // A certificate is valid from before its issue, to allow for clock skew: half of this one's lifetime has passed
    // when it is issued.
    let ca = start_ca(Duration::from_secs(60), 0).await;
    let enrolled = start(ca.options("good"), &Registry::new()).await;
    let first = enrolled.identity.credential();
    let renewed = async {
        while enrolled.identity.credential().serial() == first.serial() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), renewed).await.unwrap();
    assert_eq!(ca.requests()[..3], ["Bearer good west", "mutual TLS", "- west"]);
}

#[tokio::test]
async fn the_controller_is_known_by_its_identity_under_its_own_intermediate() {
    let ca = start_ca(Duration::from_secs(600), 0).await;
    let mut options = ca.options("good");
    let signers = ca.directory.path().join("controller-issuer.pem");
    let id: SpiffeId = "spiffe://cluster.local/ns/isthmus-system/sa/isthmus-controller".parse().unwrap();
    // Another cluster's intermediate may sign any name, but not for the controller.
    let other = Authority::self_signed_root("isthmus", Duration::from_secs(3600)).unwrap();
    std::fs::write(&signers, other.roots_pem()).unwrap();
    options.controller = options.controller.known_as(id.clone(), signers.clone());
    let registry = Registry::new();
    let starting = tokio::spawn({
        let (registry, options) = (registry.clone(), options.clone());
        async move { start(options, &registry).await }
    });
    let failed = |registry: &Registry| registry.total(&REQUESTS, |labels| labels.contains(&("by", "token")));
    let two_failed = async {
        while failed(&registry) < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), two_failed).await.unwrap();
    assert!(!starting.is_finished() && ca.requests().is_empty(), "no token reaches it");
    // The file is read for each connection: a rotation, or a controller that writes it late.
    std::fs::write(&signers, &ca.roots).unwrap();
    tokio::time::timeout(Duration::from_secs(10), starting).await.unwrap().unwrap();

    let stranger = "spiffe://cluster.local/ns/default/sa/isthmus-controller".parse().unwrap();
    options.controller = options.controller.known_as(stranger, signers);
    let registry = Registry::new();
    let client = CertificateClient::new(options, &registry);
    let error = client.request_with_token().await.map(drop).expect_err("refused").to_string();
    assert!(error.contains("is not an expected identity"), "{error}");
}

#[tokio::test]
async fn a_controller_of_another_mesh_is_refused() {
    let ca = start_ca(Duration::from_secs(600), 0).await;
    let mut options = ca.options("good");
    let foreign = Authority::self_signed_root("elsewhere", Duration::from_secs(3600)).unwrap();
    options.root_path = ca.directory.path().join("foreign");
    std::fs::write(&options.root_path, foreign.roots_pem()).unwrap();
    let registry = Registry::new();
    let starting = tokio::spawn({
        let registry = registry.clone();
        async move { start(options, &registry).await }
    });
    let two_failed = async {
        while registry.total(&REQUESTS, |labels| labels.contains(&("outcome", "unreachable"))) < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), two_failed).await.unwrap();
    assert!(!starting.is_finished());
    assert!(ca.requests().is_empty(), "the token was sent to another mesh");
}

#[test]
fn controller_addresses_are_parsed() {
    let controller: Controller = "isthmus-controller.isthmus-system.svc:15012".parse().unwrap();
    assert_eq!(controller.to_string(), "isthmus-controller.isthmus-system.svc:15012");
    assert!("[2001:db8::1]:15012".parse::<Controller>().is_ok());
    for invalid in ["", "controller", "controller:", "controller:x", "controller:70000", "a b:1"] {
        assert!(invalid.parse::<Controller>().is_err(), "{invalid}");
    }
}

#[test]
fn trust_bundles_are_converted() {
    let root = Authority::self_signed_root("isthmus", Duration::from_secs(3600)).unwrap();
    let issuer = wire::discovery::Issuer { cluster: "west".into(), public_key_sha256: vec![7; 32].into() };
    let mut message = wire::discovery::Trust {
        trust_domain: "cluster.local".into(),
        roots: vec![root.roots()[0].to_vec().into()],
        issuers: vec![issuer],
    };
    assert_eq!(&*trust_of(&message).unwrap().issuers()[0].cluster, "west");
    message.issuers[0].public_key_sha256 = vec![7; 31].into();
    assert!(trust_of(&message).unwrap_err().contains("west"));
}
