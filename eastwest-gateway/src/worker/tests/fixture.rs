//! A client and a server with mutual TLS, and a gateway between them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use identity::{Accept, Authority, ClientAuth, Identity, SpiffeId, Trust, alpn};
use proxy::report::AccessLogFiles;
use rustls_pki_types::ServerName;
use telemetry::metrics::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use wire::client::Store as _;
use wire::delta::Body;
use wire::{Kind, discovery};

use crate::fixtures::{SNI, changed, endpoint, endpoint_name, push_endpoint, push_service, service, store, update};
use crate::metrics::CONNECTIONS;
use crate::store::RouteStore;
use crate::worker::{GatewayWorker, WorkerSettings};

/// The connect timeout of the clients' sidecars.
pub(super) const CLIENTS_TIMEOUT: Duration = Duration::from_secs(1);

/// The identities of a client and a server of one mesh.
pub(super) struct Peers {
    client: Identity,
    server: Identity,
}

impl Peers {
    pub(super) fn new() -> Self {
        let root = Authority::self_signed_root("mesh", Duration::from_secs(600)).unwrap();
        let identity = |account: &str| {
            let id = SpiffeId::new("cluster.local", "default", account).unwrap();
            let credential = root.credential(&id, &["controller.mesh.svc"], Duration::from_secs(300)).unwrap();
            Identity::new(credential, Trust::new("cluster.local", root.roots().to_vec(), []).unwrap())
        };
        Self { client: identity("frontend"), server: identity("ratings") }
    }

    /// Starts a server that sends its name and the client's identity in a line, and then echoes.
    pub(super) async fn serve(&self, name: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accept = Accept { client: ClientAuth::Optional, alpn: alpn::SERVER };
        let (acceptor, trust) = (TlsAcceptor::from(self.server.server_config(accept)), self.server.trust());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, trust) = (acceptor.clone(), trust.clone());
                tokio::spawn(async move {
                    let mut stream = acceptor.accept(stream).await?;
                    let peer =
                        stream.get_ref().1.peer_certificates().and_then(|chain| identity::peer_of(chain, &trust));
                    let peer = peer.map_or("anonymous".to_owned(), |peer| peer.id.to_string());
                    stream.write_all(format!("{name} {peer}\n").as_bytes()).await?;
                    let (mut reads, mut writes) = tokio::io::split(stream);
                    tokio::io::copy(&mut reads, &mut writes).await?;
                    writes.shutdown().await
                });
            }
        });
        address
    }

    /// Connects to the gateway and performs a TLS handshake with the server behind it.
    pub(super) async fn connect(
        &self,
        gateway: SocketAddr,
        server_name: &str,
        alpn: alpn::Alpn,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let config = self.client.client_config(&[self.server.id()], alpn);
        let stream = TcpStream::connect(gateway).await?;
        TlsConnector::from(config).connect(ServerName::try_from(server_name.to_owned()).unwrap(), stream).await
    }

    /// Returns the line that the server sends on a new connection.
    pub(super) async fn greeting(&self, gateway: SocketAddr) -> std::io::Result<String> {
        let mut stream = self.connect(gateway, SNI, alpn::CLIENT_TCP).await?;
        read_line(&mut stream).await
    }
}

pub(super) async fn read_line(stream: &mut TlsStream<TcpStream>) -> std::io::Result<String> {
    let mut line = Vec::new();
    loop {
        match stream.read_u8().await? {
            b'\n' => return Ok(String::from_utf8(line).unwrap()),
            byte => line.push(byte),
        }
    }
}

/// A gateway with one worker.
pub(super) struct Gateway {
    pub(super) address: SocketAddr,
    pub(super) registry: Registry,
    store: Mutex<RouteStore>,
    pub(super) drain: runtime::drain::Signal,
    logs: AccessLogFiles,
    directory: tempfile::TempDir,
}

impl Gateway {
    pub(super) fn start(settings: WorkerSettings, endpoints: &[SocketAddr]) -> Self {
        let (registry, store) = (Registry::new(), store());
        let logs = AccessLogFiles::new(registry.clone());
        let listener = net::listen(([127, 0, 0, 1], 0).into(), &net::Listen::default()).unwrap();
        let address = listener.local_addr().unwrap();
        let (drain, watch, _drained) = runtime::drain::channel();
        let (worker_registry, worker_logs, routes) = (registry.clone(), logs.clone(), store.routes());
        let listener = Arc::new(Mutex::new(Some(listener)));
        runtime::workers::spawn(1, move |_| {
            let (settings, registry) = (settings.clone(), worker_registry.clone());
            let (routes, logs, watch) = (routes.clone(), worker_logs.clone(), watch.clone());
            let listener = listener.lock().unwrap().take().unwrap();
            async move {
                crate::run::work(vec![listener], GatewayWorker::new(settings, routes, logs, &registry), watch).await
            }
        })
        .unwrap();
        let directory = tempfile::tempdir().unwrap();
        let gateway = Self { address, registry, store: Mutex::new(store), drain, logs, directory };
        gateway.push_settings();
        gateway.publish(endpoints);
        gateway
    }

    fn log_path(&self) -> std::path::PathBuf {
        self.directory.path().join("access.log")
    }

    fn push_settings(&self) {
        let settings = discovery::MeshConfig {
            access_log_file: self.log_path().display().to_string(),
            access_log_format: "%RESPONSE_FLAGS% %REQUESTED_SERVER_NAME% %UPSTREAM_CLUSTER%".into(),
            connect_timeout_ms: CLIENTS_TIMEOUT.as_millis() as u32,
            ..Default::default()
        };
        let update = update(Kind::MeshConfig, vec![changed("mesh", Body::MeshConfig(settings))], &[]);
        self.store.lock().unwrap().apply(update).unwrap();
    }

    /// Pushes the service `ratings` with these pods as its only endpoints, and a port whose server name is the
    /// controller's.
    pub(super) fn publish(&self, endpoints: &[SocketAddr]) {
        self.publish_to(endpoints, None);
    }

    /// Publishes the service with these endpoints, to which clients at some addresses may connect.
    pub(super) fn publish_to(&self, endpoints: &[SocketAddr], sources: Option<discovery::SourceAddresses>) {
        let mut message = service(&[("east", "net-east")]);
        message.exports[0].sources = sources;
        message.ports.push(discovery::Port {
            number: 15012,
            server_names: vec!["controller.mesh.svc".into()],
            ..Default::default()
        });
        let mut store = self.store.lock().unwrap();
        let current: Vec<String> = store
            .routes()
            .load()
            .find(SNI)
            .map(|route| route.service.endpoints().iter().map(|endpoint| endpoint.id.to_string()).collect())
            .unwrap_or_default();
        let removed: Vec<&str> = current.iter().map(String::as_str).collect();
        store.apply(update(Kind::Endpoint, vec![], &removed)).unwrap();
        push_service(&mut store, message);
        for address in endpoints {
            let mut endpoint = endpoint("east", "net-east", [127, 0, 0, 1], address.port());
            if let Some(discovery::endpoint::Kind::Direct(direct)) = &mut endpoint.kind {
                direct.ports.insert(15012, address.port().into());
            }
            push_endpoint(&mut store, &endpoint_name(&address.to_string()), endpoint);
        }
    }

    /// Returns the number of connections to a service that ended with an outcome.
    pub(super) fn ended(&self, service: &str, outcome: &str) -> u64 {
        self.registry.total(&CONNECTIONS, |labels| {
            labels.contains(&("destination_service", service)) && labels.contains(&("outcome", outcome))
        })
    }

    /// Waits until `count` connections to a service have ended with an outcome.
    pub(super) async fn wait_for_ended(&self, service: &str, outcome: &str, count: u64) {
        let wait = async {
            while self.ended(service, outcome) < count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(10), wait).await.is_err() {
            panic!("fewer than {count} connections to {service} ended with {outcome}:\n{}", self.registry.render());
        }
        assert_eq!(self.ended(service, outcome), count);
    }

    /// Returns the access log.
    pub(super) fn access_log(&self) -> String {
        self.logs.flush(Duration::from_secs(5));
        std::fs::read_to_string(self.log_path()).unwrap()
    }
}
