//! HTTP/2 streams of many small messages, such as gRPC's: at full speed, and where somebody does not read.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use wire::discovery::Protocol;

use crate::app::App;
use crate::fixture::{Pod, Sidecar, World};

/// A gRPC message of 64 bytes with its prefix.
const MESSAGE: usize = 69;
/// Enough of them that h2's own budget for small frames ends the connection where a queue takes all.
const MANY: usize = 60_000;

fn message() -> Bytes {
    Bytes::from_static(&[7; MESSAGE])
}

/// Sends one DATA frame once there is credit for it.
async fn put(stream: &mut SendStream<Bytes>, data: Bytes) -> Result<(), h2::Error> {
    stream.reserve_capacity(data.len());
    while stream.capacity() < data.len() {
        poll_fn(|cx| stream.poll_capacity(cx)).await.expect("an open stream")?;
    }
    stream.send_data(data, false)
}

/// Reads to the end, and says how many bytes came.
async fn count(stream: &mut RecvStream) -> Result<usize, h2::Error> {
    let mut bytes = 0;
    while let Some(data) = stream.data().await {
        let data = data?;
        stream.flow_control().release_capacity(data.len())?;
        bytes += data.len();
    }
    Ok(bytes)
}

/// An application: `/echo` sends back what comes; `/late` reads a second later, and says in a trailer how much it was;
/// `/flood` sends [`MANY`] messages, each in a frame of its own; `/` answers.
async fn application() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    tokio::spawn(async move {
                        // A client that goes away is the test's own affair.
                        let _ = answer(request, respond).await;
                    });
                }
            });
        }
    });
    address
}

async fn answer(request: Request<RecvStream>, mut respond: h2::server::SendResponse<Bytes>) -> Result<(), h2::Error> {
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
                put(&mut sending, data).await?;
            }
        }
        "/late" => {
            sleep(Duration::from_secs(1)).await;
            trailers.insert("x-bytes", HeaderValue::from(count(&mut body).await?));
        }
        "/flood" => {
            for _ in 0..MANY {
                put(&mut sending, message()).await?;
            }
        }
        _ => {}
    }
    sending.send_trailers(trailers)
}

/// A caller, and a pod with such an application.
async fn mesh() -> (std::sync::Arc<World>, Pod, Sidecar) {
    let world = World::new().await;
    let app = App::at(application().await);
    let pod = world.pod_of("west", "us-west-1a", "reviews-a", "reviews", Protocol::Grpc, app).await;
    world.service("reviews", 1, Protocol::Grpc, &[]);
    world.serve("reviews", &pod, |_| {});
    let frontend = world.client("frontend").await;
    (world, pod, frontend)
}

async fn client(sidecar: &Sidecar) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(sidecar.service(1)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (sender, connection) = h2::client::Builder::new().handshake(stream).await.unwrap();
    tokio::spawn(connection);
    sender.ready().await.unwrap()
}

fn call(path: &str) -> Request<()> {
    let request = Request::post(format!("http://reviews:9080{path}")).header("te", "trailers");
    request.header("content-type", "application/grpc").body(()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn small_messages_pass_at_full_speed_both_ways() {
    const LASTING: Duration = Duration::from_secs(10);
    let (_world, _pod, frontend) = mesh().await;
    let mut streams = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let mut sender = client(&frontend).await;
        streams.spawn(async move {
            let (response, mut sending) = sender.send_request(call("/echo"), false).unwrap();
            let sent = tokio::spawn(async move {
                let (begun, mut bytes) = (Instant::now(), 0);
                while begun.elapsed() < LASTING {
                    put(&mut sending, message()).await.expect("no reset");
                    bytes += MESSAGE;
                }
                sending.send_data(Bytes::new(), true).unwrap();
                bytes
            });
            let mut body = response.await.expect("an answer").into_body();
            let received = count(&mut body).await.expect("no reset");
            assert_eq!(received, sent.await.unwrap());
            let trailers = body.trailers().await.unwrap().expect("trailers");
            assert_eq!(trailers["grpc-status"], "0");
            received / MESSAGE
        });
    }
    for messages in streams.join_all().await {
        println!("{messages} messages in {LASTING:?}");
        assert!(messages > 10_000, "only {messages}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn small_messages_wait_for_an_application_that_does_not_read() {
    let (_world, pod, frontend) = mesh().await;
    let mut sender = client(&frontend).await;
    let (response, mut sending) = sender.send_request(call("/late"), false).unwrap();
    let sent = tokio::spawn(async move {
        for _ in 0..MANY {
            put(&mut sending, message()).await.expect("no reset");
        }
        sending.send_data(Bytes::new(), true).unwrap();
    });
    // Others get through meanwhile.
    sleep(Duration::from_millis(500)).await;
    let other = sender.send_request(call("/"), true).unwrap().0;
    assert_eq!(timeout(Duration::from_secs(1), other).await.expect("in time").unwrap().status(), 200);
    sent.await.unwrap();
    let mut body = response.await.unwrap().into_body();
    assert_eq!(count(&mut body).await.unwrap(), 0);
    assert_eq!(body.trailers().await.unwrap().unwrap()["x-bytes"], (MANY * MESSAGE).to_string());
    assert_eq!(pod.gate.connections(), 1, "one session all the time");
}

#[tokio::test(flavor = "multi_thread")]
async fn small_messages_wait_for_a_caller_that_does_not_read() {
    let (_world, pod, frontend) = mesh().await;
    let mut sender = client(&frontend).await;
    let flood = sender.send_request(call("/flood"), true).unwrap().0;
    let mut body = flood.await.unwrap().into_body();
    sleep(Duration::from_secs(1)).await;
    let other = sender.send_request(call("/"), true).unwrap().0;
    assert_eq!(timeout(Duration::from_secs(1), other).await.expect("in time").unwrap().status(), 200);
    assert_eq!(count(&mut body).await.expect("no reset"), MANY * MESSAGE);
    assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
    assert_eq!(pod.gate.connections(), 1, "one session all the time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_peer_gets_more_sessions() {
    let (_world, pod, frontend) = mesh().await;
    let mut sender = client(&frontend).await;
    let mut open = Vec::new();
    for _ in 0..250 {
        let (response, sending) = sender.send_request(call("/echo"), false).unwrap();
        open.push((response.await.unwrap(), sending));
    }
    assert_eq!(pod.gate.connections(), 3);
    // A stream that is reset by its client is reset at the application, and gives its place back.
    open.clear();
    sleep(Duration::from_millis(200)).await;
    for _ in 0..100 {
        sender.send_request(call("/"), true).unwrap().0.await.unwrap();
    }
    assert_eq!(pod.gate.connections(), 3);
}
