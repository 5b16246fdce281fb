//! gRPC streams of small messages at full speed through both sidecars, both ways: none may be reset, however long it
//! takes. Each message is a DATA frame of its own, which is what an implementation of HTTP/2 may take for an attack.

use std::cell::Cell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::Request;
use tokio::sync::Notify;

use crate::finding::{Finding, Metric, Recorder};
use crate::load::http2::{CONNECTION_WINDOW, FRAME_BUDGET, PREFIX, STREAM_WINDOW};
use crate::load::{self, Protocol};
use crate::mesh::Mesh;
use crate::rig::Rig;
use crate::sidecar::{self, AUTHORITY};

/// What a message carries.
const MESSAGE: usize = 64;
/// Streams, each on a connection of its own from the client to its sidecar; the sidecars share one between them.
const STREAMS: usize = 2;
/// Bytes on their way, per stream. The server sends back what comes without asking whether anybody reads it.
const UNDER_WAY: u64 = 512 * 1024;
/// Without a message for so long, a stream hangs.
const HANGS: Duration = Duration::from_secs(10);

/// How long.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Options {
    /// Minutes.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
}

/// Streams for so long, and fails where a stream was reset, hung or lost something.
pub fn run(options: &Options, rig: &Rig) -> Result<Vec<Finding>> {
    let minutes = if rig.quick { 0.03 } else { options.minutes.clamp(0.01, 24.0 * 60.0) };
    let lasting = Duration::from_secs_f64(minutes * 60.0);
    let _server = sidecar::server(rig)?;
    let mesh = Mesh::start(rig.directory())?;
    let mut chain = sidecar::isthmus::start(&mesh, rig)?;
    let (entry, before) = (chain.entry(Protocol::GrpcStream), chain.usage()?);
    let resident = chain.resident()?;
    let generator = thread::spawn(move || -> Result<u64> {
        load::runtime()?.block_on(async {
            let streams: Vec<_> = (0..STREAMS).map(|_| tokio::task::spawn_local(stream(entry, lasting))).collect();
            let mut messages = 0;
            for stream in streams {
                messages += stream.await??;
            }
            Ok(messages)
        })
    });
    let messages = generator.join().map_err(|_| anyhow!("the generator panicked"))??;
    chain.lives(rig)?;
    let cpu: Duration = chain.usage()?.into_iter().zip(before).map(|(end, begin)| (end - begin).cpu).sum();
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let load = format!("gRPC, {STREAMS} streams of {MESSAGE} B at full speed, {minutes} minutes");
    let mut recorder = Recorder::new("stream");
    let mut add = |metric, value| recorder.add(&load, chain.name, metric, value);
    add(Metric::gain("messages there and back", "/s"), messages as f64 / lasting.as_secs_f64());
    add(Metric::cost("CPU per message there and back", "µs"), cpu.as_secs_f64() * 1e6 / messages as f64);
    add(Metric::cost("streams reset", ""), 0.0);
    add(Metric::cost("resident memory before", "MiB"), mebibytes(resident));
    add(Metric::cost("resident memory after", "MiB"), mebibytes(chain.resident()?));
    Ok(recorder.findings())
}

/// Bytes of a stream that were sent and have not come back.
#[derive(Debug, Default)]
struct UnderWay {
    sent: Cell<u64>,
    back: Cell<u64>,
    changed: Notify,
}

/// One stream for so long. Returns how many messages came back.
async fn stream(entry: SocketAddr, lasting: Duration) -> Result<u64> {
    let socket = tokio::net::TcpStream::connect(entry).await?;
    socket.set_nodelay(true)?;
    let mut client = h2::client::Builder::new();
    client.initial_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
    client.data_frame_budget(FRAME_BUDGET).enable_push(false);
    let (sender, connection) = client.handshake::<_, Bytes>(socket).await?;
    let connection = tokio::task::spawn_local(connection);
    let request = Request::post(format!("http://{AUTHORITY}/bench.Echo/Stream"));
    let request = request.header("content-type", "application/grpc").header("te", "trailers").body(())?;
    let (response, sending) = sender.ready().await?.send_request(request, false)?;
    let under_way = Rc::<UnderWay>::default();
    let sending = tokio::task::spawn_local(send(sending, under_way.clone(), lasting));
    let mut body = response.await.context("no answer")?.into_body();
    receive(&mut body, &under_way).await?;
    sending.await??;
    let status = body.trailers().await.context("no trailers")?.context("no trailers")?;
    ensure!(status.get("grpc-status").is_some_and(|status| status == "0"), "ended with {status:?}");
    let (sent, back) = (under_way.sent.get(), under_way.back.get());
    ensure!(sent == back, "{sent} bytes were sent, {back} came back");
    connection.abort();
    Ok(back / (PREFIX + MESSAGE) as u64)
}

async fn send(mut stream: SendStream<Bytes>, under_way: Rc<UnderWay>, lasting: Duration) -> Result<()> {
    let mut message = vec![0; PREFIX + MESSAGE];
    message[PREFIX - 1] = MESSAGE as u8;
    let (message, end) = (Bytes::from(message), Instant::now() + lasting);
    while Instant::now() < end {
        while under_way.sent.get() - under_way.back.get() > UNDER_WAY {
            under_way.changed.notified().await;
        }
        stream.reserve_capacity(message.len());
        while stream.capacity() < message.len() {
            let granted = poll_fn(|context| stream.poll_capacity(context)).await;
            granted.context("the stream was closed")?.context("the stream was reset")?;
        }
        stream.send_data(message.clone(), false).context("the stream was reset")?;
        under_way.sent.set(under_way.sent.get() + message.len() as u64);
        // Others run as well: this one has nothing to wait for as long as there is credit.
        tokio::task::consume_budget().await;
    }
    stream.send_data(Bytes::new(), true).context("the stream was reset at its end")
}

async fn receive(body: &mut RecvStream, under_way: &UnderWay) -> Result<()> {
    loop {
        let data = tokio::time::timeout(HANGS, body.data()).await.context("the stream hangs")?;
        let Some(data) = data else { return Ok(()) };
        let data = data.context("the stream was reset")?;
        body.flow_control().release_capacity(data.len())?;
        under_way.back.set(under_way.back.get() + data.len() as u64);
        under_way.changed.notify_one();
    }
}
