//! gRPC streams of small messages at full speed through both sidecars, in both directions. No stream may be reset. Each message
//! is a DATA frame of its own, which an HTTP/2 implementation may take for an attack.

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

/// The length of a message.
const MESSAGE: usize = 64;
/// The number of streams, each on a connection of its own from the client to its sidecar. The sidecars share one connection.
const STREAMS: usize = 2;
/// The limit on bytes in flight per stream. The server echoes messages without flow control.
const MAX_IN_FLIGHT: u64 = 512 * 1024;
/// A stream without a message for this long counts as stalled.
const STALLED: Duration = Duration::from_secs(10);

/// Options of `stream`.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Options {
    /// Duration in minutes
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
}

/// Runs the scenario. Returns an error if a stream is reset, stalls or loses bytes.
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
    chain.ensure_running(rig)?;
    let cpu: Duration = chain.usage()?.into_iter().zip(before).map(|(end, begin)| (end - begin).cpu).sum();
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let load = format!("gRPC, {STREAMS} streams of {MESSAGE} B at full speed, {minutes} minutes");
    let mut recorder = Recorder::new("stream");
    let mut add = |metric, value| recorder.add(&load, chain.name, metric, value);
    add(Metric::gain("echoed messages", "/s"), messages as f64 / lasting.as_secs_f64());
    add(Metric::cost("CPU per echoed message", "µs"), cpu.as_secs_f64() * 1e6 / messages as f64);
    add(Metric::cost("streams reset", ""), 0.0);
    add(Metric::cost("resident memory before", "MiB"), mebibytes(resident));
    add(Metric::cost("resident memory after", "MiB"), mebibytes(chain.resident()?));
    Ok(recorder.findings())
}

/// The bytes of a stream that were sent, and those that were echoed.
#[derive(Debug, Default)]
struct InFlight {
    sent: Cell<u64>,
    back: Cell<u64>,
    changed: Notify,
}

/// Runs one stream. Returns the number of echoed messages.
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
    let in_flight = Rc::<InFlight>::default();
    let sending = tokio::task::spawn_local(send(sending, in_flight.clone(), lasting));
    let mut body = response.await.context("no response")?.into_body();
    receive(&mut body, &in_flight).await?;
    sending.await??;
    let status = body.trailers().await.context("no trailers")?.context("no trailers")?;
    ensure!(status.get("grpc-status").is_some_and(|status| status == "0"), "ended with {status:?}");
    let (sent, back) = (in_flight.sent.get(), in_flight.back.get());
    ensure!(sent == back, "{sent} bytes were sent, but {back} were echoed");
    connection.abort();
    Ok(back / (PREFIX + MESSAGE) as u64)
}

async fn send(mut stream: SendStream<Bytes>, in_flight: Rc<InFlight>, lasting: Duration) -> Result<()> {
    let mut message = vec![0; PREFIX + MESSAGE];
    message[PREFIX - 1] = MESSAGE as u8;
    let (message, end) = (Bytes::from(message), Instant::now() + lasting);
    while Instant::now() < end {
        while in_flight.sent.get() - in_flight.back.get() > MAX_IN_FLIGHT {
            in_flight.changed.notified().await;
        }
        stream.reserve_capacity(message.len());
        while stream.capacity() < message.len() {
            let granted = poll_fn(|context| stream.poll_capacity(context)).await;
            granted.context("the stream was closed")?.context("the stream was reset")?;
        }
        stream.send_data(message.clone(), false).context("the stream was reset")?;
        in_flight.sent.set(in_flight.sent.get() + message.len() as u64);
        // Other tasks must run too: this one does not wait while there is credit.
        tokio::task::consume_budget().await;
    }
    stream.send_data(Bytes::new(), true).context("the stream was reset at its end")
}

async fn receive(body: &mut RecvStream, in_flight: &InFlight) -> Result<()> {
    loop {
        let data = tokio::time::timeout(STALLED, body.data()).await.context("the stream stalled")?;
        let Some(data) = data else { return Ok(()) };
        let data = data.context("the stream was reset")?;
        body.flow_control().release_capacity(data.len())?;
        in_flight.back.set(in_flight.back.get() + data.len() as u64);
        in_flight.changed.notify_one();
    }
}
