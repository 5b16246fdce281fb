//! The gateway as a process: it enrols, receives routes, forwards, survives the loss of its controller, and drains.

mod controller;
mod drain;

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use controller::{Controller, GATEWAY_NETWORK, SNI, TOKEN};
use identity::alpn;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

struct Gateway {
    process: Child,
    listen: SocketAddr,
    admin: SocketAddr,
    health: SocketAddr,
    metrics: SocketAddr,
}

impl Gateway {
    /// Waits until the gateway is ready.
    async fn ready(&self) {
        until("the gateway is ready", async || matches!(get(self.health, "/healthz/ready").await, Some((200, _))))
            .await;
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Returns a loopback address with a port that was free at the time of the call.
fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Starts a gateway that may open `files` file descriptors.
fn start_gateway(controller: &Controller, directory: &std::path::Path, files: u32) -> Gateway {
    let (token, root) = (directory.join("token"), directory.join("root.pem"));
    std::fs::write(&token, TOKEN).unwrap();
    std::fs::write(&root, controller.roots_pem()).unwrap();
    let (listen, admin, health, metrics) = (free_address(), free_address(), free_address(), free_address());
    let process = Command::new("sh")
        .args(["-c", &format!("ulimit -n {files}; exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_isthmus-eastwest-gateway")])
        .args(["--cluster", "east", "--network", GATEWAY_NETWORK, "--pod", "gateway-1", "--workers", "2"])
        .args(["--discovery-address", &format!("localhost:{}", controller.address().port())])
        .args(["--listen", &listen.to_string(), "--admin-address", &admin.to_string()])
        .args(["--health-address", &health.to_string(), "--metrics-address", &metrics.to_string()])
        .args(["--token-path", token.to_str().unwrap(), "--root-path", root.to_str().unwrap()])
        .args(["--drain-delay", "0.3", "--drain-deadline", "10"])
        .stderr(if std::env::var_os("SHOW_GATEWAY").is_some() { Stdio::inherit() } else { Stdio::null() })
        .spawn()
        .unwrap();
    Gateway { process, listen, admin, health, metrics }
}

/// Returns the status and the body of a response, or `None` if there is no response.
async fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await.ok()?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await.ok()?;
    let (head, body) = response.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// Waits until `condition` holds. Panics with `what` after 20 seconds.
async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !condition().await {
        assert!(begun.elapsed() < Duration::from_secs(20), "timed out waiting until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn connect(
    controller: &Controller,
    gateway: &Gateway,
    server_name: &'static str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let config = controller.client().client_config(&[controller.server().id()], alpn::CLIENT_TCP);
    let stream = TcpStream::connect(gateway.listen).await?;
    TlsConnector::from(config).connect(ServerName::try_from(server_name).unwrap(), stream).await
}

async fn echo(stream: &mut TlsStream<TcpStream>, text: &[u8]) {
    stream.write_all(text).await.unwrap();
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(back, text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn enrols_receives_routes_forwards_without_the_controller_and_drains() {
    let directory = tempfile::tempdir().unwrap();
    let controller = Controller::start().await;
    let mut gateway = start_gateway(&controller, directory.path(), 1024);
    gateway.ready().await;

    let mut stream = connect(&controller, &gateway, SNI).await.unwrap();
    echo(&mut stream, b"through the gateway").await;
    let refused = connect(&controller, &gateway, "outbound_.9080_._.unknown.default.svc.cluster.local").await;
    assert!(refused.unwrap_err().to_string().contains("UnrecognisedName"));

    let (_, certs) = get(gateway.admin, "/certs").await.unwrap();
    assert!(certs.contains("spiffe://cluster.local/ns/isthmus-system/sa/gateway"), "{certs}");
    let (_, clusters) = get(gateway.admin, "/clusters").await.unwrap();
    assert!(clusters.contains(SNI), "{clusters}");
    let (_, metrics) = get(gateway.metrics, "/stats/prometheus").await.unwrap();
    assert!(
        metrics.contains(
            r#"isthmus_gateway_connections_total{destination_service="unknown",outcome="unknown_server_name"} 1"#
        ),
        "{metrics}"
    );
    let resident = metrics.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes ")).unwrap();
    let mebibytes = resident.parse::<f64>().unwrap() / f64::from(1 << 20);
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.process.id())).unwrap();
    let parts: Vec<_> = status.lines().filter(|line| line.starts_with("Rss") || line.starts_with("Threads")).collect();
    println!("resident memory: {mebibytes:.1} MiB, {parts:?}");
    // The bound for a shipped build is 10; a debug build is larger by its code.
    assert!(mebibytes < if cfg!(debug_assertions) { 40.0 } else { 10.0 }, "{mebibytes:.1} MiB");

    // The routes stay in use without the controller.
    controller.stop();
    until("the controller has stopped", async || TcpStream::connect(controller.address()).await.is_err()).await;
    let mut without = connect(&controller, &gateway, SNI).await.unwrap();
    echo(&mut without, b"without the controller").await;
    drop(without);

    // Drain: the gateway is not ready, then refuses new connections, and lets the open one finish.
    let pid = rustix::process::Pid::from_raw(gateway.process.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    until("the gateway is not ready", async || matches!(get(gateway.health, "/healthz/ready").await, Some((503, _))))
        .await;
    until("the gateway refuses connections", async || TcpStream::connect(gateway.listen).await.is_err()).await;
    echo(&mut stream, b"during the drain").await;
    assert!(gateway.process.try_wait().unwrap().is_none(), "the drain waits for the connection");
    drop(stream);
    until("the gateway has ended", async || gateway.process.try_wait().unwrap().is_some()).await;
    assert!(gateway.process.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serves_open_connections_without_spinning_when_file_descriptors_run_out() {
    let directory = tempfile::tempdir().unwrap();
    let controller = Controller::start().await;
    let gateway = start_gateway(&controller, directory.path(), 60);
    gateway.ready().await;
    let mut open = connect(&controller, &gateway, SNI).await.unwrap();
    echo(&mut open, b"before").await;
    let mut flood = Vec::new();
    for _ in 0..150 {
        flood.push(TcpStream::connect(gateway.listen).await.unwrap());
    }
    let processor_time = |gateway: &Gateway| {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", gateway.process.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let before = processor_time(&gateway);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let ticks = processor_time(&gateway) - before;
    assert!(ticks < 50, "the gateway used {ticks} of 100 clock ticks");
    echo(&mut open, b"during").await;
    drop(flood);
    let mut again = None;
    until("the gateway serves new connections", async || {
        again = connect(&controller, &gateway, SNI).await.ok();
        again.is_some()
    })
    .await;
    echo(&mut again.unwrap(), b"after").await;
}

#[test]
fn reports_invalid_options() {
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_isthmus-eastwest-gateway")).args(args).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, stderr) = run(&["--pod", "a", "--network", ""]);
    assert!(code == Some(1) && stderr.contains("--network"), "{code:?} {stderr}");
    let (code, stderr) = run(&["--pod", "a", "--network", "n", "--log", "loud"]);
    assert!(code == Some(2) && stderr.contains("loud"), "{code:?} {stderr}");
    let (code, stderr) = run(&["--pod", "a", "--network", "n", "--discovery-address", "nowhere"]);
    assert!(code == Some(2) && stderr.contains("host:port"), "{code:?} {stderr}");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (code, stderr) = run(&["--pod", "a", "--network", "n", "--listen", &address]);
    assert!(code == Some(1) && stderr.contains(&address), "{code:?} {stderr}");
}
