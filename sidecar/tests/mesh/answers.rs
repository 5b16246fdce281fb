//! Answers of applications: invalid ones, early ones, none, and `100 Continue`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use proxy::report::FAILED;
use telemetry::istio::{REQUESTS, TCP_CLOSED, TCP_OPENED};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use wire::discovery::Protocol;

use crate::app::App;
use crate::fixture::{Pod, Sidecar, TestMesh, until};
use crate::raw::{self, header, status};

/// Starts the service `reviews`, whose only application is at `address`.
async fn reviews(address: SocketAddr, protocol: Protocol) -> (Arc<TestMesh>, Pod, Sidecar) {
    let mesh = TestMesh::new().await;
    let app = App::external(address);
    let pod = mesh.pod_with_app("west", "us-west-1a", "reviews-a", "reviews", protocol, app).await;
    mesh.push_service("reviews", 1, protocol);
    mesh.push_endpoint("reviews", &pod, |_| {});
    let frontend = mesh.client("frontend").await;
    (mesh, pod, frontend)
}

const GET: &str = "GET / HTTP/1.1\r\nhost: reviews\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_answer_of_the_application_is_a_bad_gateway() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\na\r\n0123456789\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\na\r\n0123456789\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n1\r\n0\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ncontent-length: five\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nin valid: 1\r\n\r\n",
        "HTTP/1.1 abc OK\r\n\r\n",
        "HELLO\r\n\r\n",
    ] {
        let (_mesh, pod, frontend) = reviews(raw::start_answering(answer).await, Protocol::Http).await;
        for address in [frontend.service_address(1), pod.gate.address] {
            let response = raw::send(address, GET).await;
            assert_eq!(status(&response), 502, "{answer:?} became {response:?}");
        }
        let flagged = [("response_code", "502"), ("response_flags", "UPE")];
        until("the flag is counted", async || pod.sidecar.total(&REQUESTS, &flagged) == 2).await;
    }
}

/// As without a mesh: the answer is read although the rest of the request cannot be sent.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_before_the_end_of_the_upload_arrives() {
    const ANSWER: &[u8] = b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 9\r\nconnection: close\r\n\r\ntoo large";
    let app = raw::start(|mut stream| async move {
        let mut buffer = [0; 4096];
        if stream.read(&mut buffer).await.unwrap_or_default() > 0 {
            stream.write_all(ANSWER).await.unwrap();
            stream.shutdown().await.unwrap();
            // Dropped with unread data: reset.
        }
    })
    .await;
    let (_mesh, pod, frontend) = reviews(app, Protocol::Http).await;
    for address in [frontend.service_address(1), pod.gate.address] {
        for round in 0..20 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let (mut reader, mut writer) = stream.split();
            let sending = async {
                writer
                    .write_all(b"POST / HTTP/1.1\r\nhost: reviews\r\ncontent-length: 10485760\r\n\r\n")
                    .await
                    .unwrap();
                let chunk = vec![b'x'; 64 * 1024];
                for _ in 0..160 {
                    if writer.write_all(&chunk).await.is_err() {
                        return;
                    }
                }
            };
            let receiving = async {
                let mut all = Vec::new();
                while !all.ends_with(b"too large") && reader.read_buf(&mut all).await.unwrap_or_default() > 0 {}
                String::from_utf8_lossy(&all).into_owned()
            };
            let both = async { tokio::join!(sending, receiving).1 };
            let response = tokio::time::timeout(Duration::from_secs(20), both).await.expect("an answer in time");
            assert_eq!(status(&response), 413, "round {round}: {response:?}");
            assert!(response.ends_with("too large"), "{response:?}");
        }
    }
}

/// The application closes each connection instead of answering the second request on it.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_on_a_kept_connection_that_the_application_closes_is_sent_again_if_idempotent() {
    let app = raw::start(|mut stream| async move {
        if raw::read_until(&mut stream, "\r\n\r\n").await.is_some() {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            raw::read_until(&mut stream, "\r\n\r\n").await;
        }
    })
    .await;
    let (_mesh, pod, frontend) = reviews(app, Protocol::Http).await;
    for address in [frontend.service_address(1), pod.gate.address] {
        for round in 0..20 {
            assert_eq!(status(&raw::send(address, GET).await), 200, "round {round}");
        }
    }
    // Whether the application acted on a POST is not known.
    let post = "POST / HTTP/1.1\r\nhost: reviews\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(status(&raw::send(pod.gate.address, post).await), 503);
}

const EXPECTING: &str = "POST / HTTP/1.1\r\nhost: reviews\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn the_application_decides_whether_an_expected_body_is_sent() {
    let asked = Arc::new(Notify::new());
    let waiting = asked.clone();
    let app = raw::start(move |mut stream| {
        let asked = asked.clone();
        async move {
            raw::read_until(&mut stream, "\r\n\r\n").await.unwrap();
            asked.notified().await;
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
            raw::read_until(&mut stream, "hello").await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        }
    })
    .await;
    let (_mesh, pod, frontend) = reviews(app, Protocol::Http).await;
    for address in [frontend.service_address(1), pod.gate.address] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(EXPECTING.as_bytes()).await.unwrap();
        let early = tokio::time::timeout(Duration::from_millis(300), stream.read(&mut [0; 1])).await;
        assert!(early.is_err(), "no sidecar asks for the body itself: {early:?}");
        waiting.notify_one();
        assert_eq!(raw::read_until(&mut stream, "\r\n\r\n").await.unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
        stream.write_all(b"hello").await.unwrap();
        assert_eq!(status(&raw::read_response(&mut stream).await.unwrap()), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_expectation_ends_the_connection_without_the_body() {
    let refusal = "HTTP/1.1 417 Expectation Failed\r\ncontent-length: 2\r\n\r\nno";
    let (_mesh, pod, frontend) = reviews(raw::start_answering(refusal).await, Protocol::Http).await;
    for address in [frontend.service_address(1), pod.gate.address] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(EXPECTING.as_bytes()).await.unwrap();
        let response = raw::read_response(&mut stream).await.unwrap();
        assert!(status(&response) == 417 && response.ends_with("no"), "{response:?}");
        // Whether the next bytes are a body or a request is not known.
        let rest = stream.read(&mut [0; 1]).await.unwrap_or_default();
        assert_eq!(rest, 0, "the connection is closed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_ignores_the_expectation_receives_the_body() {
    let app = raw::start(|mut stream| async move {
        raw::read_until(&mut stream, "hello").await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
    })
    .await;
    let (_mesh, _pod, frontend) = reviews(app, Protocol::Http).await;
    let mut stream = TcpStream::connect(frontend.service_address(1)).await.unwrap();
    stream.write_all(EXPECTING.as_bytes()).await.unwrap();
    assert_eq!(raw::read_until(&mut stream, "\r\n\r\n").await.unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").await.unwrap();
    let response = raw::read_response(&mut stream).await.unwrap();
    assert_eq!((status(&response), header(&response, "content-length")), (200, Some("2")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expectation_of_http2_is_answered_when_the_body_is_wanted() {
    let mesh = TestMesh::new().await;
    let pod = mesh.pod("west", "us-west-1a", "reviews-a", "reviews", Protocol::Http2).await;
    mesh.push_service("reviews", 1, Protocol::Http2);
    mesh.push_endpoint("reviews", &pod, |_| {});
    let frontend = mesh.client("frontend").await;
    let stream = TcpStream::connect(frontend.service_address(1)).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    let request = http::Request::post("http://reviews/").header("expect", "100-continue").body(()).unwrap();
    let (mut response, mut body) = sender.send_request(request, false).unwrap();
    let interim = std::future::poll_fn(|cx| response.poll_informational(cx)).await;
    assert_eq!(interim.unwrap().unwrap().status(), 100);
    body.send_data("hello".into(), true).unwrap();
    assert_eq!(response.await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_in_an_opaque_stream_stays_a_reset() {
    let reset = |stream: &TcpStream| stream.set_zero_linger().unwrap();
    // From the client to the application.
    let (ended, end) = tokio::sync::mpsc::unbounded_channel();
    let mut end = end;
    let app = raw::start(move |mut stream| {
        let ended = ended.clone();
        async move {
            let mut all = Vec::new();
            let read = stream.read_to_end(&mut all).await;
            ended.send(read.map(|_| all).map_err(|error| error.kind())).unwrap();
        }
    })
    .await;
    let (_mesh, pod, frontend) = reviews(app, Protocol::Tcp).await;
    let mut stream = TcpStream::connect(frontend.service_address(1)).await.unwrap();
    stream.write_all(b"half of a record").await.unwrap();
    until("the bytes are relayed", async || pod.sidecar.total(&TCP_OPENED, &[]) > 0).await;
    reset(&stream);
    drop(stream);
    assert_eq!(end.recv().await.unwrap(), Err(std::io::ErrorKind::ConnectionReset));
    // An orderly end stays one.
    let mut stream = TcpStream::connect(frontend.service_address(1)).await.unwrap();
    stream.write_all(b"whole").await.unwrap();
    drop(stream);
    assert_eq!(end.recv().await.unwrap(), Ok(b"whole".to_vec()));

    // From the application to the client.
    let app = raw::start(move |mut stream| async move {
        stream.read_exact(&mut [0; 5]).await.unwrap();
        stream.set_zero_linger().unwrap();
    })
    .await;
    let (_mesh, _pod, frontend) = reviews(app, Protocol::Tcp).await;
    let mut stream = TcpStream::connect(frontend.service_address(1)).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    let error = stream.read(&mut [0; 1]).await.expect_err("the stream is cut");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let flags = [("response_flags", "UC")];
    until("the flag is counted", async || frontend.total(&TCP_CLOSED, &flags) == 1).await;
    assert_eq!(frontend.total(&FAILED, &[]), 0);
}
