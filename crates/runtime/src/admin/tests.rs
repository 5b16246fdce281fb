use super::*;

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

fn local() -> Option<SocketAddr> {
    Some((Ipv4Addr::LOCALHOST, 0).into())
}

/// Sends a request; returns status and body.
async fn request(address: SocketAddr, method: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let body = if head.contains("transfer-encoding: chunked") { dechunked(body) } else { body.to_owned() };
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body)
}

/// Returns the content of a chunked body.
fn dechunked(mut body: &str) -> String {
    let mut content = String::new();
    loop {
        let (size, rest) = body.split_once("\r\n").unwrap();
        match usize::from_str_radix(size, 16).unwrap() {
            0 => return content,
            size => {
                content.push_str(&rest[..size]);
                body = &rest[size + 2..];
            }
        }
    }
}

struct Rig {
    addresses: [SocketAddr; 4],
    admin: Arc<Admin>,
    readiness: Readiness,
    drain: Signal,
}

fn rig(application: Option<Application>) -> Rig {
    let (readiness, (drain, _, _)) = (Readiness::new(), crate::drain::channel());
    let admin = Admin::new("gateway", Registry::new(), readiness.clone(), drain.clone())
        .section("routes", || serde_json::json!(["a"]))
        .section("mesh", || serde_json::json!({"id": 1}))
        .page("/clusters", "services", |query| Reply::text(format!("clusters {:?}", query.get("x"))))
        .application(application);
    let admin = Arc::new(admin);
    let addresses = Addresses { admin: local(), health: local(), metrics: local(), merged_metrics: local() };
    let addresses = Arc::clone(&admin).serve(addresses).unwrap().map(Option::unwrap);
    Rig { addresses, admin, readiness, drain }
}

#[tokio::test]
async fn health_follows_readiness() {
    let rig = rig(None);
    let identity = rig.readiness.needs("identity");
    let health = rig.addresses[1];
    assert_eq!(request(health, "GET", "/healthz/ready").await, (503, "waiting for: identity\n".into()));
    assert!(request(rig.addresses[0], "GET", "/server_info").await.1.contains("PRE_INITIALIZING"));
    identity.done();
    assert_eq!(request(health, "GET", "/healthz/ready").await, (200, "ready\n".into()));
    assert_eq!(request(health, "GET", "/config_dump").await.0, 404);
    assert_eq!(request(rig.addresses[0], "GET", "/drain").await.0, 405);
    assert_eq!(request(rig.addresses[0], "POST", "/drain").await.0, 200);
    assert_eq!(request(health, "GET", "/healthz/ready").await.0, 503);
    assert!(!rig.drain.is_requested());
    assert_eq!(request(rig.addresses[0], "POST", "/quitquitquit").await.0, 200);
    assert!(rig.drain.is_requested());
}

#[tokio::test]
async fn components_can_add_pages_and_sections() {
    let address = rig(None).addresses[0];
    assert_eq!(request(address, "GET", "/clusters?x=1").await, (200, "clusters Some(\"1\")".into()));
    let (_, dump) = request(address, "GET", "/config_dump").await;
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&dump).unwrap(),
        serde_json::json!({"routes": ["a"], "mesh": {"id": 1}})
    );
    assert!(!request(address, "GET", "/config_dump?section=mesh").await.1.contains("routes"));
    assert_eq!(request(address, "GET", "/config_dump?section=none").await.0, 404);
    let (_, help) = request(address, "GET", "/help").await;
    assert!(help.contains("/clusters") && help.contains("/quitquitquit"), "{help}");
    assert_eq!(request(address, "GET", "/nothing").await.0, 404);
    assert_eq!(request(address, "DELETE", "/help").await.0, 405);
    assert_eq!(request(address, "GET", "/logging?level=debug").await.0, 405);
}

#[tokio::test]
async fn certificates_are_shown_without_keys() {
    let rig = rig(None);
    assert_eq!(request(rig.addresses[0], "GET", "/certs").await.0, 503);
    let root = identity::Authority::self_signed_root("isthmus", Duration::from_secs(600)).unwrap();
    let id = identity::SpiffeId::new("cluster.local", "default", "frontend").unwrap();
    let credential = root.credential(&id, &[], Duration::from_secs(300)).unwrap();
    let trust = identity::Trust::new("cluster.local", root.roots().to_vec(), []).unwrap();
    rig.admin.identify(Identity::new(credential, trust));
    let (status, shown) = request(rig.addresses[0], "GET", "/certs").await;
    assert!(status == 200 && shown.contains("spiffe://cluster.local/ns/default/sa/frontend"), "{shown}");
    assert!(!shown.contains("PRIVATE"), "{shown}");
}

#[tokio::test]
async fn metrics_are_merged_with_the_applications() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let length = stream.read(&mut request).await.unwrap();
            assert!(request[..length].starts_with(b"GET /own HTTP/1.1\r\n"));
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\napp 1\n").await.unwrap();
        }
    });
    let annotations = format!(r#"{{"scrape":"true","path":"own","port":"{port}"}}"#);
    let application = Application::from_annotations(&annotations, None);
    assert!(application.is_some());
    let rig = rig(application);
    let (_, own) = request(rig.addresses[2], "GET", "/stats/prometheus").await;
    assert!(own.contains("process_resident_memory_bytes") && !own.contains("app 1"), "{own}");
    let (_, merged) = request(rig.addresses[3], "GET", "/stats/prometheus").await;
    assert!(merged.contains("process_resident_memory_bytes") && merged.ends_with("app 1\n"), "{merged}");
}

#[tokio::test]
async fn own_metrics_do_not_need_the_application() {
    let closed = net::socket::bind((Ipv4Addr::LOCALHOST, 0).into(), false).unwrap();
    let closed = closed.local_addr().unwrap().port();
    let rig = rig(Application::from_annotations(&format!(r#"{{"scrape":"true","port":"{closed}"}}"#), None));
    let (status, merged) = request(rig.addresses[3], "GET", "/stats/prometheus").await;
    assert!(status == 200 && merged.contains("process_open_fds"), "{merged}");
}

#[test]
fn annotations_can_disable_scraping() {
    for json in [r#"{"scrape":"false","port":"1"}"#, "{}", "nonsense", r#"{"scrape":"true","port":"x"}"#] {
        assert_eq!(Application::from_annotations(json, None), None, "{json}");
    }
}

#[tokio::test]
async fn an_address_in_use_is_an_error_that_names_it() {
    let rig = rig(None);
    let taken = Addresses { admin: Some(rig.addresses[0]), health: None, metrics: None, merged_metrics: None };
    let error = rig.admin.serve(taken).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&rig.addresses[0].to_string()), "{error}");
}

/// Whoever opens connections and says nothing holds no more than a few, and loses the oldest of them.
#[tokio::test]
async fn health_is_answered_beside_200_silent_connections() {
    let rig = rig(None);
    for port in 0..4 {
        let mut silent = Vec::new();
        for _ in 0..200 {
            let mut stream = TcpStream::connect(rig.addresses[port]).await.unwrap();
            if silent.len() % 2 == 0 {
                stream.write_all(b"GET /healthz/re").await.unwrap();
            }
            silent.push(stream);
        }
        let path = ["/ready", "/healthz/ready", "/metrics", "/healthz/ready"][port];
        let answer = tokio::time::timeout(Duration::from_secs(2), request(rig.addresses[port], "GET", path)).await;
        assert_eq!(answer.expect("an answer in time").0, 200);
        // The oldest are closed; the latest are open.
        assert!(matches!(silent[0].read(&mut [0; 1]).await, Ok(0) | Err(_)));
    }
}

#[tokio::test]
async fn health_is_answered_beside_connections_that_were_used_and_stay_open() {
    let rig = rig(None);
    let mut used = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(rig.addresses[1]).await.unwrap();
        stream.write_all(b"GET /healthz/ready HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        used.push(stream);
    }
    assert_eq!(request(rig.addresses[1], "GET", "/healthz/ready").await.0, 200);
}
