use super::*;

use futures_util::{SinkExt, StreamExt};
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

/// An application on free ports.
struct Running {
    http: SocketAddr,
    echo: SocketAddr,
    banner: SocketAddr,
    signal: drain::Signal,
    app: Arc<App>,
}

fn start(cluster: &str) -> Running {
    let who =
        Instance { cluster: cluster.into(), pod: "pod-1".into(), zone: "us-west-1a".into(), ..Instance::default() };
    let app = Arc::new(App { who, switches: FaultSwitches::default(), registry: telemetry::metrics::Registry::new() });
    let (signal, watch, _) = drain::channel();
    let bind = || {
        let listener = net::listen(([127, 0, 0, 1], 0).into(), &Listen::default()).unwrap();
        (listener.local_addr().unwrap(), Acceptor::new(listener).unwrap())
    };
    let ((http, http_port), (echo, echo_port), (banner, banner_port)) = (bind(), bind(), bind());
    tokio::spawn(serve::http(HttpPort::Application, http_port, Arc::clone(&app), watch.clone()));
    tokio::spawn(tcp::serve(echo_port, None, watch.clone()));
    tokio::spawn(tcp::serve(banner_port, Some(Arc::clone(&app)), watch));
    Running { http, echo, banner, signal, app }
}

/// Sends a request written by hand and returns the status and the body, as JSON or text.
async fn ask(address: SocketAddr, request: &str) -> (u16, serde_json::Value) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("{request}\r\nhost: ratings\r\nconnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let body = serde_json::from_str(body).unwrap_or_else(|_| body.into());
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body)
}

async fn run_plan(url: String, protocol: CallProtocol, count: usize) -> Timeline {
    let plan = CallPlan {
        target: url.parse().unwrap(),
        protocol,
        headers: Vec::new(),
        count,
        rate: 500.0,
        timeout: Duration::from_secs(5),
    };
    plan.check().unwrap();
    plan.run().await
}

#[tokio::test]
async fn responses_describe_the_instance_and_the_request() {
    let running = start("west");
    let request =
        "GET /reviews?x=1 HTTP/1.1\r\nx-request-id: 7\r\nx-forwarded-client-cert: By=a;URI=spiffe://b/ns/c/sa/d";
    let (status, answer) = ask(running.http, request).await;
    assert_eq!(status, 200);
    for (field, expected) in [
        ("cluster", "west"),
        ("pod", "pod-1"),
        ("zone", "us-west-1a"),
        ("identity", "spiffe://b/ns/c/sa/d"),
        ("protocol", "HTTP/1.1"),
        ("method", "GET"),
        ("path", "/reviews?x=1"),
    ] {
        assert_eq!(answer[field], expected, "{field}: {answer}");
    }
    assert_eq!(answer["headers"]["x-request-id"], "7");
    assert!(ask(running.http, "GET / HTTP/1.1").await.1["identity"].is_null());
}

#[tokio::test]
async fn one_port_serves_all_http_protocols() {
    let running = start("west");
    for protocol in [CallProtocol::Http1, CallProtocol::Http2, CallProtocol::Grpc] {
        let timeline = run_plan(format!("http://{}/x", running.http), protocol, 20).await;
        assert_eq!((timeline.ok, timeline.failed), (20, 0), "{protocol:?} {:?}", timeline.errors);
        assert_eq!(timeline.clusters["west"], 20);
    }
    let (_, metrics) = ask(running.http, "GET /metrics HTTP/1.1").await;
    let metrics = metrics.as_str().unwrap();
    for line in [
        r#"{protocol="HTTP/1.1",code="200"} 20"#,
        r#"{protocol="HTTP/2",code="200"} 20"#,
        r#"{protocol="gRPC",code="200"} 20"#,
    ] {
        assert!(metrics.contains(line), "{metrics}");
    }
}

#[tokio::test]
async fn tcp_is_echoed_and_banners_are_sent_first() {
    let running = start("east");
    assert_eq!(run_plan(format!("tcp://{}", running.echo), CallProtocol::Http1, 3).await.ok, 3);
    assert_eq!(run_plan(format!("tcp://{}/3000000", running.echo), CallProtocol::Http1, 1).await.ok, 1);
    assert_eq!(run_plan(format!("tcp://{}/many", running.echo), CallProtocol::Http1, 1).await.failed, 1);
    let timeline = run_plan(format!("banner://{}", running.banner), CallProtocol::Http1, 3).await;
    assert_eq!(timeline.clusters["east"], 3, "{:?}", timeline.errors);
}

#[tokio::test]
async fn websocket_messages_are_echoed() {
    let running = start("west");
    let stream = TcpStream::connect(running.http).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let request = Request::get("/socket")
        .header("host", "ratings")
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .body(http_body_util::Empty::<bytes::Bytes>::new())
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 101);
    // The example of RFC 6455 §1.3.
    assert_eq!(response.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    let upgraded = hyper_util::rt::TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    let mut socket = WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await;
    let greeting = socket.next().await.unwrap().unwrap().into_text().unwrap();
    assert!(greeting.contains("\"cluster\":\"west\""), "{greeting}");
    for text in ["one", "two"] {
        socket.send(text.into()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap().into_text().unwrap(), text);
    }
}

#[tokio::test]
async fn grpc_replies_are_streamed_with_trailers() {
    use http_body_util::BodyExt;
    let running = start("west");
    let io = hyper_util::rt::TokioIo::new(TcpStream::connect(running.http).await.unwrap());
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    for (path, messages, status) in [("Stream", 7, "0"), ("Unary", 1, "0"), ("Nothing", 0, "12")] {
        let request = Request::post(format!("http://ratings/isthmus.testapp.Echo/{path}"))
            .header("content-type", "application/grpc")
            .header("x-count", "7")
            .body(http_body_util::Full::new(grpc::framed(b"payload")))
            .unwrap();
        let collected = sender.send_request(request).await.unwrap().into_body().collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()["grpc-status"], status, "{path}");
        let mut body = collected.to_bytes();
        let mut seen = 0;
        while !body.is_empty() {
            let message = grpc::message(&body);
            let reply = <grpc::EchoReply as prost::Message>::decode(message.clone()).unwrap();
            assert!(reply.echo == b"payload"[..] && reply.answer.contains("gRPC"));
            body = body.slice(5 + message.len()..);
            seen += 1;
        }
        assert_eq!(seen, messages, "{path}");
    }
}

#[tokio::test]
async fn delays_and_failures_are_switched_on_and_off() {
    let running = start("west");
    let begun = std::time::Instant::now();
    assert_eq!(ask(running.http, "GET /delay/120 HTTP/1.1").await.0, 200);
    assert_eq!(ask(running.http, "GET /?delay=120 HTTP/1.1").await.0, 200);
    assert!(begun.elapsed() >= Duration::from_millis(240));
    assert_eq!(ask(running.http, "GET /status/418 HTTP/1.1").await.0, 418);
    assert_eq!(ask(running.http, "GET /status/100 HTTP/1.1").await.0, 200);

    assert_eq!(ask(running.http, "GET /fail?percent=50 HTTP/1.1").await.0, 405);
    assert_eq!(ask(running.http, "POST /fail?percent=500 HTTP/1.1").await.0, 400);
    assert_eq!(ask(running.http, "POST /fail?percent=50&status=500 HTTP/1.1").await.0, 200);
    for protocol in [CallProtocol::Http1, CallProtocol::Grpc] {
        let timeline = run_plan(format!("http://{}", running.http), protocol, 100).await;
        assert_eq!((timeline.ok, timeline.failed), (50, 50), "{protocol:?}");
        let error = if protocol == CallProtocol::Grpc { "gRPC status 14" } else { "HTTP status 500" };
        assert_eq!(timeline.errors[error], 50, "{:?}", timeline.errors);
    }
    assert_eq!(ask(running.http, "POST /heal HTTP/1.1").await.0, 200);
    assert_eq!(ask(running.http, "GET / HTTP/1.1").await.0, 200);

    assert_eq!(ask(running.http, "GET /ready HTTP/1.1").await.0, 200);
    assert_eq!(ask(running.http, "POST /unready HTTP/1.1").await.0, 200);
    assert_eq!(ask(running.http, "GET /ready HTTP/1.1").await.0, 503);
    assert_eq!(ask(running.http, "GET /healthz HTTP/1.1").await.0, 200);
}

#[tokio::test]
async fn calls_are_recorded_in_a_timeline() {
    let (caller, target) = (start("west"), start("east"));
    let url = format!("http%3A%2F%2F{}%2Fx", target.http);
    let (status, timeline) = ask(caller.http, &format!("GET /fetch?url={url}&count=40&rate=200 HTTP/1.1")).await;
    assert_eq!(status, 200, "{timeline}");
    let timeline: Timeline = serde_json::from_value(timeline).unwrap();
    assert_eq!((timeline.ok, timeline.failed, timeline.requests.len()), (40, 0, 40));
    assert_eq!(timeline.phases.len(), 1);
    assert_eq!(timeline.phases[0].cluster, "east");
    // The rate does not depend on latency.
    assert!((timeline.requests[39].at_ms - 195.0).abs() < 1.0, "{:?}", timeline.requests[39]);
    for wrong in
        ["", "url=ftp%3A%2F%2Fx", "url=http%3A%2F%2Fx&count=0", "url=http%3A%2F%2Fx&rate=9999", "url=tcp%3A%2F%2Fx"]
    {
        assert_eq!(ask(caller.http, &format!("GET /fetch?{wrong} HTTP/1.1")).await.0, 400, "{wrong}");
    }
}

#[tokio::test]
async fn a_target_that_stops_shows_in_the_timeline() {
    let running = start("west");
    let plan = CallPlan {
        target: format!("http://{}", running.http).parse().unwrap(),
        protocol: CallProtocol::Http1,
        // Two seconds, so that calls are left after the stop on a busy machine too.
        headers: Vec::new(),
        count: 400,
        rate: 200.0,
        timeout: Duration::from_secs(1),
    };
    let calling = tokio::spawn(plan.run());
    let answered = || -> u32 {
        let metrics = running.app.registry.render();
        let counts = metrics.lines().filter_map(|line| line.split_once(r#"{protocol="HTTP/1.1",code="200"} "#));
        counts.filter_map(|(_, count)| count.parse().ok()).max().unwrap_or(0)
    };
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    while answered() < 10 {
        assert!(std::time::Instant::now() < deadline, "ten calls are not answered: {}", running.app.registry.render());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    running.signal.begin();
    let timeline = calling.await.unwrap();
    assert!(timeline.ok > 5 && timeline.failed > 5, "{}", timeline.text());
    assert!(timeline.phases[0].ok && !timeline.phases.last().unwrap().ok, "{}", timeline.text());
    assert!(timeline.text().contains("FAILED"), "{}", timeline.text());
}

#[tokio::test]
async fn drain_finishes_the_current_request() {
    let running = start("west");
    let mut stream = TcpStream::connect(running.http).await.unwrap();
    let head = "POST / HTTP/1.1\r\nhost: ratings\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    // The application reads the body: the request is in progress.
    let mut interim = [0; "HTTP/1.1 100 Continue\r\n\r\n".len()];
    stream.read_exact(&mut interim).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    running.app.switches.leave();
    running.signal.begin();
    stream.write_all(b"body").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("\"body_bytes\": 4"), "{answer}");
}

#[test]
fn options_are_parsed() {
    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        options: TestappOptions,
    }
    let parse = |args: &[&str]| <Command as clap::Parser>::try_parse_from(args).map(|command| command.options);
    let options =
        parse(&["testapp", "--call", "http://ratings:9080/", "--rate", "200", "--duration", "5s", "-o", "json"]);
    let options = options.unwrap();
    assert_eq!((options.rate, options.duration, options.output), (200.0, Duration::from_secs(5), TimelineFormat::Json));
    assert!(parse(&["testapp", "--call", "ratings"]).is_err());
    assert_eq!(parse(&["testapp", "--port", "80,81"]).unwrap().port, [80, 81]);
    assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
    assert_eq!(duration("2"), Ok(Duration::from_secs(2)));
    assert!(duration("2h").is_err() && duration("-1s").is_err() && duration("").is_err());
}
