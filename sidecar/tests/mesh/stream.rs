//! HTTP/2 streams of many small messages, such as gRPC's: at full speed, and with a peer that does not read.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use wire::discovery::Protocol;

use crate::app::App;
use crate::fixture::{Pod, Sidecar, TestMesh, until};

/// A gRPC message of 64 bytes with its prefix.
const MESSAGE: usize = 69;
/// The number of messages of a long stream. h2's budget for small frames ends the connection if a queue takes all of
/// them.
const MANY: usize = 60_000;

fn message() -> Bytes {
    Bytes::from_static(&[7; MESSAGE])
}

/// Sends one DATA frame as soon as there is flow-control credit for it.
async fn send_frame(stream: &mut SendStream<Bytes>, data: Bytes) -> Result<(), h2::Error> {
    stream.reserve_capacity(data.len());
    while stream.capacity() < data.len() {
        poll_fn(|cx| stream.poll_capacity(cx)).await.expect("an open stream")?;
    }
    stream.send_data(data, false)
}

/// Reads to the end and returns the number of bytes.
async fn count_bytes(stream: &mut RecvStream) -> Result<usize, h2::Error> {
    let mut bytes = 0;
    while let Some(data) = stream.data().await {
        let data = data?;
        stream.flow_control().release_capacity(data.len())?;
        bytes += data.len();
    }
    Ok(bytes)
}

/// Starts an application. `/echo` returns the body; `/late` reads it a second later and returns its size in a trailer;
/// `/flood` sends [`MANY`] messages, each in a frame of its own; `/` sends trailers only. Returns the address and the
/// number of open streams.
async fn application() -> (SocketAddr, Arc<AtomicUsize>) {
    let streams = Arc::<AtomicUsize>::default();
    let open_streams = streams.clone();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let streams = streams.clone();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    let streams = streams.clone();
                    tokio::spawn(async move {
                        streams.fetch_add(1, Relaxed);
                        // A client may reset a stream.
                        let _ = respond_to(request, respond).await;
                        streams.fetch_sub(1, Relaxed);
                    });
                }
            });
        }
    });
    (address, open_streams)
}

async fn respond_to(
    request: Request<RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let (head, mut body) = request.into_parts();
    let response = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    let mut sending = respond.send_response(response, false)?;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    match head.uri.path() {
        "/echo" => {
            while let Some(data) = body.data().await {
                let data = data?;
                body.flow_control().release_capacity(data.len())?;
                send_frame(&mut sending, data).await?;
            }
        }
        "/late" => {
            sleep(Duration::from_secs(1)).await;
            trailers.insert("x-bytes", HeaderValue::from(count_bytes(&mut body).await?));
        }
        "/flood" => {
            for _ in 0..MANY {
                send_frame(&mut sending, message()).await?;
            }
        }
        _ => {}
    }
    sending.send_trailers(trailers)
}

/// A pod with an application that serves streams, and a client.
struct StreamMesh {
    _mesh: Arc<TestMesh>,
    pod: Pod,
    frontend: Sidecar,
    /// The number of streams that are open at the application.
    open_streams: Arc<AtomicUsize>,
}

async fn stream_mesh() -> StreamMesh {
    let mesh = TestMesh::new().await;
    let (address, open_streams) = application().await;
    let app = App::external(address);
    let pod = mesh.pod_with_app("west", "us-west-1a", "reviews-a", "reviews", Protocol::Grpc, app).await;
    mesh.push_service("reviews", 1, Protocol::Grpc);
    mesh.push_endpoint("reviews", &pod, |_| {});
    let frontend = mesh.client("frontend").await;
    StreamMesh { _mesh: mesh, pod, frontend, open_streams }
}

async fn connect(sidecar: &Sidecar) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(sidecar.service_address(1)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (sender, connection) = h2::client::Builder::new().handshake(stream).await.unwrap();
    tokio::spawn(connection);
    sender.ready().await.unwrap()
}

fn request(path: &str) -> Request<()> {
    let request = Request::post(format!("http://reviews:9080{path}")).header("te", "trailers");
    request.header("content-type", "application/grpc").body(()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn small_messages_pass_at_full_speed_in_both_directions() {
    const DURATION: Duration = Duration::from_secs(10);
    let StreamMesh { frontend, .. } = &stream_mesh().await;
    let mut streams = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let mut sender = connect(frontend).await;
        streams.spawn(async move {
            let (response, mut sending) = sender.send_request(request("/echo"), false).unwrap();
            let sent = tokio::spawn(async move {
                let (begun, mut bytes) = (Instant::now(), 0);
                while begun.elapsed() < DURATION {
                    send_frame(&mut sending, message()).await.expect("no reset");
                    bytes += MESSAGE;
                }
                sending.send_data(Bytes::new(), true).unwrap();
                bytes
            });
            let mut body = response.await.expect("a response").into_body();
            let received = count_bytes(&mut body).await.expect("no reset");
            assert_eq!(received, sent.await.unwrap());
            let trailers = body.trailers().await.unwrap().expect("trailers");
            assert_eq!(trailers["grpc-status"], "0");
            received / MESSAGE
        });
    }
    for messages in streams.join_all().await {
        println!("{messages} messages in {DURATION:?}");
        assert!(messages > 10_000, "only {messages}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn flow_control_holds_small_messages_to_an_application_that_does_not_read() {
    let StreamMesh { pod, frontend, .. } = &stream_mesh().await;
    let mut sender = connect(frontend).await;
    let (response, mut sending) = sender.send_request(request("/late"), false).unwrap();
    let sent = tokio::spawn(async move {
        for _ in 0..MANY {
            send_frame(&mut sending, message()).await.expect("no reset");
        }
        sending.send_data(Bytes::new(), true).unwrap();
    });
    // Other streams are served meanwhile.
    sleep(Duration::from_millis(500)).await;
    let other = sender.send_request(request("/"), true).unwrap().0;
    assert_eq!(timeout(Duration::from_secs(1), other).await.expect("in time").unwrap().status(), 200);
    sent.await.unwrap();
    let mut body = response.await.unwrap().into_body();
    assert_eq!(count_bytes(&mut body).await.unwrap(), 0);
    assert_eq!(body.trailers().await.unwrap().unwrap()["x-bytes"], (MANY * MESSAGE).to_string());
    assert_eq!(pod.gate.connections(), 1, "one session carries all streams");
}

#[tokio::test(flavor = "multi_thread")]
async fn flow_control_holds_small_messages_to_a_client_that_does_not_read() {
    let StreamMesh { pod, frontend, .. } = &stream_mesh().await;
    let mut sender = connect(frontend).await;
    let flood = sender.send_request(request("/flood"), true).unwrap().0;
    let mut body = flood.await.unwrap().into_body();
    sleep(Duration::from_secs(1)).await;
    let other = sender.send_request(request("/"), true).unwrap().0;
    assert_eq!(timeout(Duration::from_secs(1), other).await.expect("in time").unwrap().status(), 200);
    assert_eq!(count_bytes(&mut body).await.expect("no reset"), MANY * MESSAGE);
    assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
    assert_eq!(pod.gate.connections(), 1, "one session carries all streams");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_beyond_the_limit_of_a_session_open_another() {
    let StreamMesh { pod, frontend, open_streams, .. } = &stream_mesh().await;
    let mut sender = connect(frontend).await;
    let mut open = Vec::new();
    for _ in 0..250 {
        let (response, sending) = sender.send_request(request("/echo"), false).unwrap();
        open.push((response.await.unwrap(), sending));
    }
    assert_eq!(pod.gate.connections(), 3);
    assert_eq!(open_streams.load(Relaxed), 250);
    // A stream that its client resets is reset at the application, and is free for another request.
    open.clear();
    until("the streams are reset", async || open_streams.load(Relaxed) == 0).await;
    for _ in 0..100 {
        sender.send_request(request("/"), true).unwrap().0.await.unwrap();
    }
    assert_eq!(pod.gate.connections(), 3);
}
