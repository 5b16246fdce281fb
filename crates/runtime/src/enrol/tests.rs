use super::*;

use std::sync::Mutex;

use identity::{Authority, ClientAuth, SpiffeId};
use telemetry::metrics::Registry;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use wire::ca::IstioCertificateResponse;
use wire::ca::istio_certificate_service_server::{IstioCertificateService, IstioCertificateServiceServer};

const NAME: &str = "controller.mesh.svc";

/// A certificate authority on loopback that takes the token "good" and client certificates.
struct Ca {
    address: std::net::SocketAddr,
    roots: String,
    asked: Arc<Mutex<Vec<String>>>,
    directory: tempfile::TempDir,
}

struct Service {
    authority: Authority,
    validity: Duration,
    refuse_first: Mutex<usize>,
    asked: Arc<Mutex<Vec<String>>>,
}

#[tonic::async_trait]
impl IstioCertificateService for Service {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let text = |key| request.metadata().get(key).and_then(|value| value.to_str().ok()).unwrap_or("-").to_owned();
        let asked = format!("{} {}", text("authorization"), text("clusterid"));
        self.asked.lock().unwrap().push(asked.clone());
        {
            let mut refuse = self.refuse_first.lock().unwrap();
            if *refuse > 0 {
                *refuse -= 1;
                return Err(Status::unavailable("starting"));
            }
        }
        if asked.starts_with("Bearer") && asked != "Bearer good west" {
            return Err(Status::unauthenticated("the token is not known"));
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

async fn start_ca(validity: Duration, refuse_first: usize) -> Ca {
    let root = Authority::self_signed_root("isthmus", Duration::from_secs(3600)).unwrap();
    let id = SpiffeId::new("cluster.local", "isthmus-system", "isthmus-controller").unwrap();
    let own = root.credential(&id, &[NAME], Duration::from_secs(3600)).unwrap();
    let trust = Trust::new("cluster.local", root.roots().to_vec(), []).unwrap();
    let accept = identity::Accept { client: ClientAuth::Optional, alpn: alpn::DISCOVERY };
    let tls = TlsAcceptor::from(Identity::new(own, trust).server_config(accept));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let directory = tempfile::tempdir().unwrap();
    let roots = root.roots_pem();
    let service =
        Service { authority: root, validity, refuse_first: Mutex::new(refuse_first), asked: Arc::clone(&asked) };
    let (accepted, incoming) = tokio::sync::mpsc::channel(16);
    let seen = Arc::clone(&asked);
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
    Ca { address, roots, asked, directory }
}

impl Ca {
    fn options(&self, token: &str) -> Options {
        let (token_path, root_path) = (self.directory.path().join("token"), self.directory.path().join("root"));
        std::fs::write(&token_path, format!("{token}\n")).unwrap();
        std::fs::write(&root_path, &self.roots).unwrap();
        let controller = self.address.to_string().parse::<Controller>().unwrap().named(NAME).unwrap();
        let (first_wait, longest_wait) = (Duration::from_millis(20), Duration::from_millis(500));
        Options { token_path, root_path, first_wait, longest_wait, ..Options::new(controller, "west") }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

#[tokio::test]
async fn enrols_with_the_token_after_failures() {
    let ca = start_ca(Duration::from_secs(600), 2).await;
    let registry = Registry::new();
    let enrolled = start(ca.options("good"), &registry).await;
    assert_eq!(enrolled.identity.id().as_str(), "spiffe://cluster.local/ns/default/sa/frontend");
    assert_eq!(ca.asked(), ["Bearer good west"; 3]);
    assert_eq!(registry.total(&REQUESTS, |labels| labels.contains(&("outcome", "unreachable"))), 2);
    assert_eq!(registry.total(&REQUESTS, |labels| labels.contains(&("outcome", "success"))), 1);
}

#[tokio::test]
async fn a_refused_token_is_read_again_each_time() {
    let ca = start_ca(Duration::from_secs(600), 0).await;
    let registry = Registry::new();
    let options = ca.options("bad");
    let token_path = options.token_path.clone();
    let starting = tokio::spawn({
        let registry = registry.clone();
        async move { start(options, &registry).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!starting.is_finished());
    assert!(registry.total(&REQUESTS, |labels| labels.contains(&("outcome", "refused"))) > 0);
    std::fs::write(token_path, "good").unwrap();
    tokio::time::timeout(Duration::from_secs(10), starting).await.unwrap().unwrap();
}

#[tokio::test]
async fn renews_with_its_certificate_at_half_life() {
    // A certificate begins to be valid before it is issued, by the allowance for skewed clocks: half of this one's life is
    // past at once.
    let ca = start_ca(Duration::from_secs(60), 0).await;
    let enrolled = start(ca.options("good"), &Registry::new()).await;
    let first = enrolled.identity.credential();
    let renewed = async {
        while enrolled.identity.credential().serial() == first.serial() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), renewed).await.unwrap();
    assert_eq!(ca.asked()[..3], ["Bearer good west", "mutual TLS", "- west"]);
}

#[tokio::test]
async fn another_mesh_is_not_believed() {
    let ca = start_ca(Duration::from_secs(600), 0).await;
    let mut options = ca.options("good");
    let foreign = Authority::self_signed_root("elsewhere", Duration::from_secs(3600)).unwrap();
    options.root_path = ca.directory.path().join("foreign");
    std::fs::write(&options.root_path, foreign.roots_pem()).unwrap();
    let registry = Registry::new();
    let started = tokio::time::timeout(Duration::from_millis(300), start(options, &registry)).await;
    assert!(started.is_err());
    assert!(ca.asked().is_empty(), "the token was sent to a server of another mesh");
}

#[test]
fn addresses_of_the_controller() {
    let controller: Controller = "isthmus-controller.isthmus-system.svc:15012".parse().unwrap();
    assert_eq!(controller.to_string(), "isthmus-controller.isthmus-system.svc:15012");
    assert!("[2001:db8::1]:15012".parse::<Controller>().is_ok());
    for wrong in ["", "controller", "controller:", "controller:x", "controller:70000", "a b:1"] {
        assert!(wrong.parse::<Controller>().is_err(), "{wrong}");
    }
}

#[test]
fn trust_is_read_from_the_wire() {
    let root = Authority::self_signed_root("isthmus", Duration::from_secs(3600)).unwrap();
    let issuer = wire::discovery::Issuer { cluster: "west".into(), public_key_sha256: vec![7; 32].into() };
    let mut told = wire::discovery::Trust {
        trust_domain: "cluster.local".into(),
        roots: vec![root.roots()[0].to_vec().into()],
        issuers: vec![issuer],
    };
    assert_eq!(&*trust_of(&told).unwrap().issuers()[0].cluster, "west");
    told.issuers[0].public_key_sha256 = vec![7; 31].into();
    assert!(trust_of(&told).unwrap_err().contains("west"));
}
