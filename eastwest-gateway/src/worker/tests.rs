//! A gateway on real sockets, between real TLS clients and servers.

use super::*;

use std::net::SocketAddr;
use std::sync::Mutex;

use identity::{Accept, Authority, ClientAuth, Identity, SpiffeId, Trust, alpn};
use rustls_pki_types::ServerName;
use telemetry::istio::{TCP_CLOSED, TCP_OPENED, TCP_RECEIVED, TCP_SENT};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use wire::client::Store as _;
use wire::delta::Body;
use wire::{Kind, discovery};

use crate::connection;
use crate::fixtures::{
    RATINGS, SNI, changed, endpoint, endpoint_name, push_endpoint, push_service, service, store, update,
};
use crate::metrics::CONNECTIONS;
use crate::store::RouteStore;

struct Mesh {
    client: Identity,
    server: Identity,
}

fn mesh() -> Mesh {
    let root = Authority::self_signed_root("mesh", Duration::from_secs(600)).unwrap();
    let identity = |account: &str| {
        let id = SpiffeId::new("cluster.local", "default", account).unwrap();
        let credential = root.credential(&id, &["controller.mesh.svc"], Duration::from_secs(300)).unwrap();
        Identity::new(credential, Trust::new("cluster.local", root.roots().to_vec(), []).unwrap())
    };
    Mesh { client: identity("frontend"), server: identity("ratings") }
}

impl Mesh {
    /// A server that greets with its name and the client's identity, then echoes until the client's end.
    async fn serve(&self, name: &'static str) -> SocketAddr {
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
                    let peer = peer.map_or("nobody".to_owned(), |peer| peer.id.to_string());
                    stream.write_all(format!("{name} {peer}\n").as_bytes()).await?;
                    let (mut reads, mut writes) = tokio::io::split(stream);
                    tokio::io::copy(&mut reads, &mut writes).await?;
                    writes.shutdown().await
                });
            }
        });
        address
    }

    async fn connect(
        &self,
        gateway: SocketAddr,
        name: &str,
        alpn: alpn::Alpn,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let config = self.client.client_config(&[self.server.id()], alpn);
        let stream = TcpStream::connect(gateway).await?;
        TlsConnector::from(config).connect(ServerName::try_from(name.to_owned()).unwrap(), stream).await
    }

    /// The first line that the server of a new connection says.
    async fn greeting(&self, gateway: SocketAddr) -> std::io::Result<String> {
        let mut stream = self.connect(gateway, SNI, alpn::CLIENT_TCP).await?;
        line(&mut stream).await
    }
}

async fn line(stream: &mut TlsStream<TcpStream>) -> std::io::Result<String> {
    let mut line = Vec::new();
    loop {
        match stream.read_u8().await? {
            b'\n' => return Ok(String::from_utf8(line).unwrap()),
            byte => line.push(byte),
        }
    }
}

struct Gateway {
    address: SocketAddr,
    registry: Registry,
    store: Mutex<RouteStore>,
    drain: runtime::drain::Signal,
    logs: AccessLogFiles,
    directory: tempfile::TempDir,
}

impl Gateway {
    fn start(settings: WorkerSettings, endpoints: &[SocketAddr]) -> Self {
        let (registry, store) = (Registry::new(), store());
        let logs = AccessLogFiles::new(registry.clone());
        let listener = net::listen(([127, 0, 0, 1], 0).into(), &net::Listen::default()).unwrap();
        let address = listener.local_addr().unwrap();
        let (drain, watch, _drained) = runtime::drain::channel();
        let (of_worker, log_files, routes) = (registry.clone(), logs.clone(), store.routes());
        let listener = Arc::new(Mutex::new(Some(listener)));
        runtime::workers::spawn(1, move |_| {
            let (settings, registry) = (settings.clone(), of_worker.clone());
            let (routes, logs, watch) = (routes.clone(), log_files.clone(), watch.clone());
            let listener = listener.lock().unwrap().take().unwrap();
            async move {
                crate::run::work(vec![listener], GatewayWorker::new(settings, routes, logs, &registry), watch).await
            }
        })
        .unwrap();
        let directory = tempfile::tempdir().unwrap();
        let gateway = Self { address, registry, store: Mutex::new(store), drain, logs, directory };
        gateway.configure();
        gateway.publish(endpoints);
        gateway
    }

    fn log_path(&self) -> std::path::PathBuf {
        self.directory.path().join("access.log")
    }

    fn configure(&self) {
        let settings = discovery::MeshConfig {
            access_log_file: self.log_path().display().to_string(),
            access_log_format: "%RESPONSE_FLAGS% %REQUESTED_SERVER_NAME% %UPSTREAM_CLUSTER%".into(),
            connect_timeout_ms: 500,
            ..Default::default()
        };
        let update = update(Kind::MeshConfig, vec![changed("mesh", Body::MeshConfig(settings))], &[]);
        self.store.lock().unwrap().apply(update).unwrap();
    }

    /// Pushes the service with these pods, and a port whose server name has TLS of its own.
    fn publish(&self, endpoints: &[SocketAddr]) {
        let mut message = service(&[("east", "net-east")]);
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

    fn ended(&self, service: &str, outcome: &str) -> u64 {
        self.registry.total(&CONNECTIONS, |labels| {
            labels.contains(&("destination_service", service)) && labels.contains(&("outcome", outcome))
        })
    }

    async fn until_ended(&self, service: &str, outcome: &str, count: u64) {
        let wait = async {
            while self.ended(service, outcome) < count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(10), wait).await.is_err() {
            panic!("no {count} connections to {service} ended as {outcome}:\n{}", self.registry.render());
        }
        assert_eq!(self.ended(service, outcome), count);
    }

    fn logged(&self) -> String {
        self.logs.flush(Duration::from_secs(5));
        std::fs::read_to_string(self.log_path()).unwrap()
    }
}

#[tokio::test]
async fn forwards_by_server_name_without_opening() {
    let mesh = mesh();
    let gateway = Gateway::start(WorkerSettings::default(), &[mesh.serve("a").await]);
    let mut stream = mesh.connect(gateway.address, SNI, alpn::CLIENT_TCP).await.unwrap();
    assert_eq!(line(&mut stream).await.unwrap(), "a spiffe://cluster.local/ns/default/sa/frontend");
    stream.write_all(b"hello").await.unwrap();
    let mut echo = [0; 5];
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"hello");
    stream.shutdown().await.unwrap();
    assert_eq!(stream.read(&mut echo).await.unwrap(), 0);
    drop(stream);
    gateway.until_ended(RATINGS, "success", 1).await;
    let total =
        |family| gateway.registry.total(family, |labels| labels.contains(&("destination_workload", "ratings-v1")));
    assert_eq!((total(&TCP_OPENED), total(&TCP_CLOSED)), (1, 1));
    assert!(total(&TCP_SENT) > 500 && total(&TCP_RECEIVED) > 1500, "{}", gateway.registry.render());
    assert_eq!(gateway.logged(), format!("- {SNI} {SNI}\n"));
}

#[tokio::test]
async fn carries_much_and_passes_half_closes_on() {
    let mesh = mesh();
    let gateway = Gateway::start(WorkerSettings::default(), &[mesh.serve("a").await]);
    let mut stream = mesh.connect(gateway.address, SNI, alpn::CLIENT_TCP).await.unwrap();
    line(&mut stream).await.unwrap();
    let sent: Vec<u8> = (0..8_u32 << 20).map(|number| (number % 251) as u8).collect();
    let (mut reads, mut writes) = tokio::io::split(stream);
    let expected = sent.clone();
    let writing = tokio::spawn(async move {
        writes.write_all(&sent).await.unwrap();
        writes.shutdown().await.unwrap();
    });
    let mut received = Vec::new();
    reads.read_to_end(&mut received).await.unwrap();
    writing.await.unwrap();
    assert!(received == expected, "{} of {} bytes came back", received.len(), expected.len());
    gateway.until_ended(RATINGS, "success", 1).await;
}

#[tokio::test]
async fn spreads_over_endpoints_and_leaves_dead_ones_out() {
    let mesh = mesh();
    let (a, b) = (mesh.serve("a").await, mesh.serve("b").await);
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let gateway = Gateway::start(WorkerSettings::default(), &[a, b, dead]);
    let mut seen = std::collections::BTreeMap::<String, usize>::new();
    for _ in 0..60 {
        let greeting = mesh.greeting(gateway.address).await.expect("no connection fails for a dead endpoint");
        *seen.entry(greeting[..1].to_owned()).or_default() += 1;
    }
    assert!(seen["a"] > 10 && seen["b"] > 10, "{seen:?}");
    assert_eq!(gateway.ended(RATINGS, "connect_failed"), 0);
}

#[tokio::test]
async fn a_service_with_no_endpoint_left_is_refused() {
    let mesh = mesh();
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let gateway = Gateway::start(WorkerSettings::default(), &[dead]);
    let error = mesh.greeting(gateway.address).await.unwrap_err();
    assert!(error.to_string().contains("InternalError"), "{error}");
    gateway.until_ended(RATINGS, "connect_failed", 1).await;
    gateway.publish(&[]);
    mesh.greeting(gateway.address).await.unwrap_err();
    gateway.until_ended(RATINGS, "no_endpoint", 1).await;
    assert_eq!(gateway.logged(), format!("UF {SNI} {SNI}\nUH {SNI} {SNI}\n"));
}

#[tokio::test]
async fn what_is_not_exported_is_refused_and_its_name_is_no_label() {
    let mesh = mesh();
    let gateway = Gateway::start(WorkerSettings::default(), &[mesh.serve("a").await]);
    for name in ["outbound_.9080_._.secrets.default.svc.cluster.local", RATINGS, "outbound_.9081_._.x.y"] {
        let error = mesh.connect(gateway.address, name, alpn::CLIENT_TCP).await.unwrap_err();
        assert!(error.to_string().contains("UnrecognisedName"), "{error}");
    }
    gateway.until_ended("unknown", "unknown_server_name", 3).await;
    assert!(!gateway.registry.render().contains("secrets"));
    assert!(gateway.logged().starts_with("NR outbound_.9080_._.secrets.default.svc.cluster.local -\n"));
    // The same by an address, which TLS sends no server name for.
    mesh.connect(gateway.address, "192.0.2.1", alpn::CLIENT_TCP).await.unwrap_err();
    gateway.until_ended("unknown", "no_server_name", 1).await;
}

#[tokio::test]
async fn only_proxies_of_the_mesh_are_let_through() {
    let mesh = mesh();
    let gateway = Gateway::start(WorkerSettings::default(), &[mesh.serve("a").await]);
    let error = mesh.connect(gateway.address, SNI, &[b"h2", b"http/1.1"]).await.unwrap_err();
    assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
    gateway.until_ended(RATINGS, "protocol_not_offered", 1).await;
    // The controller's own name needs none of it.
    let mut stream = mesh.connect(gateway.address, "controller.mesh.svc", alpn::DISCOVERY).await.unwrap();
    assert!(line(&mut stream).await.unwrap().starts_with("a "));
    // Case does not matter in names.
    let mut stream = mesh
        .connect(gateway.address, &SNI.to_ascii_uppercase().replace("OUTBOUND", "outbound"), alpn::CLIENT_HTTP2)
        .await
        .unwrap();
    assert!(line(&mut stream).await.unwrap().starts_with("a "));
}

/// Sends bytes, and returns what came back until the gateway closed.
async fn send(gateway: SocketAddr, bytes: &[u8], close: bool) -> Vec<u8> {
    let mut stream = TcpStream::connect(gateway).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    if close {
        stream.shutdown().await.unwrap();
    }
    let mut answer = Vec::new();
    // A reset is an answer, too.
    let _ = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await.expect("it closes");
    answer
}

/// A hello with a server name of this length.
fn hello(name_length: usize) -> Vec<u8> {
    let name = vec![b'a'; name_length];
    let u16 = |length: usize| (length as u16).to_be_bytes();
    let list = [&[0][..], &u16(name.len()), &name].concat();
    let value = [&u16(list.len())[..], &list].concat();
    let extension = [&[0, 0][..], &u16(value.len()), &value].concat();
    let body = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 1, 1, 0], &u16(extension.len()), &extension].concat();
    let message = [&[1, 0][..], &u16(body.len()), &body].concat();
    [&[22, 3, 1][..], &u16(message.len()), &message].concat()
}

#[tokio::test]
async fn bad_hellos_are_refused_and_counted_and_disturb_nobody() {
    let mesh = mesh();
    let limits = Limits { deadline: Duration::from_millis(300), ..Limits::default() };
    let gateway =
        Gateway::start(WorkerSettings { hello: limits, ..WorkerSettings::default() }, &[mesh.serve("a").await]);
    let mut good = mesh.connect(gateway.address, SNI, alpn::CLIENT_TCP).await.unwrap();
    line(&mut good).await.unwrap();

    let whole = hello(20);
    let endless = [&[22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff][..], &[0; 600]].concat();
    let cases: [(&str, &[u8], bool, &[u8]); 8] = [
        ("not_tls", b"GET / HTTP/1.1\r\n\r\n", false, &[]),
        ("empty", b"", true, &[]),
        ("hello_unfinished", &whole[..40], true, &[]),
        ("hello_slow", &whole[..40], false, &[]),
        ("hello_too_large", &endless, false, &[40]),
        ("server_name_invalid", &hello(300), false, &[112]),
        ("hello_malformed", &[22, 3, 1, 0, 5, 2, 0, 0, 1, 0], false, &[50]),
        ("unknown_server_name", &whole, false, &[112]),
    ];
    for (outcome, bytes, close, alert) in cases {
        let answer = send(gateway.address, bytes, close).await;
        gateway.until_ended("unknown", outcome, 1).await;
        match alert {
            [] => assert!(answer.is_empty(), "{outcome}: {answer:?}"),
            // What the gateway left unread makes the kernel reset the connection, which may overtake the alert.
            _ if answer.is_empty() => {}
            [alert] => assert_eq!(answer, [21, 3, 3, 0, 2, 2, *alert], "{outcome}"),
            _ => unreachable!("one alert at most"),
        }
    }
    good.write_all(b"still").await.unwrap();
    let mut echo = [0; 5];
    good.read_exact(&mut echo).await.unwrap();
    assert!(mesh.greeting(gateway.address).await.unwrap().starts_with("a "));
}

#[tokio::test]
async fn connections_without_a_hello_are_bounded() {
    let mesh = mesh();
    let gateway =
        Gateway::start(WorkerSettings { max_pending: 4, ..WorkerSettings::default() }, &[mesh.serve("a").await]);
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(TcpStream::connect(gateway.address).await.unwrap());
    }
    // Accepted in order, so these four are being waited for when the fifth comes.
    assert!(mesh.greeting(gateway.address).await.is_err());
    gateway.until_ended("unknown", "overload", 1).await;
    drop(silent);
    gateway.until_ended("unknown", "empty", 4).await;
    assert!(mesh.greeting(gateway.address).await.is_ok());
}

#[tokio::test]
async fn drain_lets_connections_finish() {
    let mesh = mesh();
    let gateway = Gateway::start(WorkerSettings::default(), &[mesh.serve("a").await]);
    let mut stream = mesh.connect(gateway.address, SNI, alpn::CLIENT_TCP).await.unwrap();
    line(&mut stream).await.unwrap();
    gateway.drain.begin();
    let refused = async {
        while TcpStream::connect(gateway.address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), refused).await.expect("it stops accepting");
    stream.write_all(b"alive").await.unwrap();
    let mut echo = [0; 5];
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"alive");
}

#[tokio::test]
async fn new_routes_leave_old_connections_alone() {
    let mesh = mesh();
    let (a, b) = (mesh.serve("a").await, mesh.serve("b").await);
    let gateway = Gateway::start(WorkerSettings::default(), &[a]);
    let mut old = mesh.connect(gateway.address, SNI, alpn::CLIENT_TCP).await.unwrap();
    assert!(line(&mut old).await.unwrap().starts_with("a "));
    gateway.publish(&[b]);
    assert!(mesh.greeting(gateway.address).await.unwrap().starts_with("b "));
    old.write_all(b"alive").await.unwrap();
    let mut echo = [0; 5];
    old.read_exact(&mut echo).await.unwrap();
}

#[tokio::test]
async fn a_reset_client_is_told_from_a_reset_endpoint() {
    let mesh = mesh();
    let gateway = Gateway::start(WorkerSettings::default(), &[mesh.serve("a").await]);
    let mut stream = mesh.connect(gateway.address, SNI, alpn::CLIENT_TCP).await.unwrap();
    line(&mut stream).await.unwrap();
    stream.get_ref().0.set_zero_linger().unwrap();
    drop(stream);
    gateway.until_ended(RATINGS, "client_reset", 1).await;
}

#[test]
fn a_connection_takes_little_memory() {
    // One future per connection is most of what an idle one costs beside its two sockets.
    let settings = WorkerSettings::default();
    let registry = Registry::new();
    let worker = GatewayWorker::new(settings, Arc::default(), AccessLogFiles::new(registry.clone()), &registry);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let future = connection::serve(client, "127.0.0.1:1".parse().unwrap(), &worker);
        let size = std::mem::size_of_val(&future);
        assert!((500..4096).contains(&size), "{size} bytes");
    });
}
