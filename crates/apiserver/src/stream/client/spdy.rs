//! Channels over SPDY: a stream for each, which the client opens and names in the header `streamtype`.
//!
//! The client opens all of its streams before the command starts, as Kubernetes requires: the status has a stream in any
//! case (`error`), the others as the request's parameters say, and a terminal has one for its size. As in Kubernetes the number of
//! streams counts, not their types: a client that asks for a terminal and opens a stream of `stderr` instead of one for the
//! size is served.

use std::collections::HashMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use http::header::{CONNECTION, HeaderValue, UPGRADE as UPGRADE_HEADER};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, oneshot};
use tokio_util::io::ReaderStream;

use super::{ClientChannels, ClientOutput, Disconnected};
use crate::body::ResponseBody;
use crate::status::Status;
use crate::stream::node::{CLOSE, RESIZE, STATUS, STDERR, STDIN, STDOUT};
use crate::stream::options::StreamOptions;
use crate::stream::socket::has_token;
use crate::stream::spdy::{self, Inflater, SpdyError, SpdyFrame, SpdyWriter};

pub(super) const UPGRADE: &str = "SPDY/3.1";

/// The protocol, and the header that negotiates it. Clients offer it since 2016.
const PROTOCOL: &str = "v4.channel.k8s.io";
const PROTOCOL_HEADER: &str = "x-stream-protocol-version";

/// How long a client may take to open its streams, as in Kubernetes.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);

/// Most queued frames each way. A full queue blocks the connection, because there is no flow control.
const QUEUE: usize = 32;

/// Largest data of a frame, whose length has 24 bits.
const MAX_DATA: usize = 256 * 1024;

pub(super) fn upgrade<Serve, Served>(
    request: Request<Incoming>,
    options: &StreamOptions,
    serve: Serve,
) -> Result<Response<ResponseBody>, Status>
where
    Serve: FnOnce(ClientChannels) -> Served + Send + 'static,
    Served: Future<Output = ()> + Send + 'static,
{
    if !has_token(request.headers(), PROTOCOL_HEADER, PROTOCOL) {
        return Err(Status::bad_request(format!("unable to negotiate protocol: server accepts [{PROTOCOL}]")));
    }
    let expected = expected_streams(options);
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let (from_client, mut to_client) = tokio::io::split(TokioIo::new(upgraded));
        let (frames, mut queued) = mpsc::channel::<Bytes>(QUEUE);
        let write = async {
            while let Some(frame) = queued.recv().await {
                if to_client.write_all(&frame).await.is_err() || to_client.flush().await.is_err() {
                    return;
                }
            }
            let _ = to_client.shutdown().await;
        };
        let (input, received) = mpsc::channel(QUEUE);
        let (opened, all_open) = oneshot::channel();
        let reader = SpdyInput::new(expected, frames.clone(), input, opened);
        let pieces = ReaderStream::new(from_client).filter_map(|piece| std::future::ready(piece.ok()));
        let serve = async move {
            let Ok(Ok(streams)) = tokio::time::timeout(OPEN_TIMEOUT, all_open).await else {
                tracing::debug!("the client did not open its streams");
                return;
            };
            let input = stream::unfold(received, async |mut received| Some((received.recv().await?, received)));
            let output = ClientOutput::Spdy(SpdyOutput { streams, frames });
            serve(ClientChannels { input: input.boxed(), output }).await;
        };
        let exchange = async {
            tokio::select! {
                () = serve => {}
                // The end of the input ends what is served, in its own time.
                () = async { reader.run(Box::pin(pieces)).await; std::future::pending().await } => {}
            }
        };
        tokio::join!(exchange, write);
    });
    let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(UPGRADE_HEADER, HeaderValue::from_static(UPGRADE));
    response.headers_mut().insert(PROTOCOL_HEADER, HeaderValue::from_static(PROTOCOL));
    Ok(response)
}

/// The number of streams that the client has to open.
fn expected_streams(options: &StreamOptions) -> usize {
    // A terminal has one output, and a stream for its size.
    let wanted = [true, options.stdin, options.stdout, options.stderr && !options.tty, options.tty];
    wanted.into_iter().filter(|wanted| *wanted).count()
}

fn channel_of(name: &str) -> Option<u8> {
    match name {
        "error" => Some(STATUS),
        "stdin" => Some(STDIN),
        "stdout" => Some(STDOUT),
        "stderr" => Some(STDERR),
        "resize" => Some(RESIZE),
        _ => None,
    }
}

/// The client's frames.
struct SpdyInput {
    /// The number of streams before the command starts.
    expected: usize,
    /// Streams by channel.
    streams: HashMap<u8, u32>,
    frames: mpsc::Sender<Bytes>,
    inflater: Inflater,
    writer: SpdyWriter,
    input: mpsc::Sender<(u8, Bytes)>,
    /// None when all streams are open.
    opened: Option<oneshot::Sender<HashMap<u8, u32>>>,
}

impl SpdyInput {
    fn new(
        expected: usize,
        frames: mpsc::Sender<Bytes>,
        input: mpsc::Sender<(u8, Bytes)>,
        opened: oneshot::Sender<HashMap<u8, u32>>,
    ) -> Self {
        let (inflater, writer) = (Inflater::new(), SpdyWriter::new());
        Self { expected, streams: HashMap::new(), frames, inflater, writer, input, opened: Some(opened) }
    }

    /// Reads until the client disconnects or sends an invalid frame.
    async fn run(mut self, mut pieces: impl Stream<Item = Bytes> + Unpin) {
        let mut buffer = BytesMut::new();
        loop {
            let taken = match spdy::read_frame(&mut pieces, &mut buffer).await {
                Ok(None) => return,
                Ok(Some(frame)) => self.take(frame).await,
                Err(error) => Err(error),
            };
            if let Err(error) = taken {
                tracing::debug!(%error, "a client's SPDY streams failed");
                return;
            }
        }
    }

    async fn take(&mut self, frame: SpdyFrame) -> Result<(), SpdyError> {
        match frame {
            SpdyFrame::Open { stream, fin, headers } => {
                self.open(stream, &headers).await?;
                self.data(stream, fin, Bytes::new()).await;
            }
            SpdyFrame::Data { stream, fin, data } => self.data(stream, fin, data).await,
            // A client that resets its input has no more of it.
            SpdyFrame::Reset { stream } => self.data(stream, true, Bytes::new()).await,
            SpdyFrame::Ping { id } => self.send(spdy::pong(id)).await,
            SpdyFrame::GoAway | SpdyFrame::Other => {}
        }
        Ok(())
    }

    async fn open(&mut self, stream: u32, compressed: &[u8]) -> Result<(), SpdyError> {
        let headers = spdy::headers(self.inflater.inflate(compressed)?)?;
        let name = headers.iter().find(|(name, _)| name == "streamtype").map_or("", |(_, value)| value);
        self.open_as(stream, name).await;
        Ok(())
    }

    async fn open_as(&mut self, stream: u32, name: &str) {
        let Some(channel) = channel_of(name).filter(|channel| !self.streams.contains_key(channel)) else {
            self.send(spdy::reset(stream)).await;
            return;
        };
        self.streams.insert(channel, stream);
        let reply = self.writer.reply(stream);
        self.send(reply).await;
        if self.streams.len() >= self.expected
            && let Some(opened) = self.opened.take()
        {
            // An error means that the time was over.
            let _ = opened.send(self.streams.clone());
        }
    }

    async fn data(&mut self, stream: u32, fin: bool, data: Bytes) {
        let channel = self.streams.iter().find(|(_, known)| **known == stream).map(|(channel, _)| *channel);
        match channel {
            Some(STDIN) => {
                if !data.is_empty() {
                    self.received(STDIN, data).await;
                }
                if fin {
                    self.received(CLOSE, Bytes::from_static(&[STDIN])).await;
                }
            }
            // One JSON object in each line.
            Some(RESIZE) => {
                for size in data.split(|byte| *byte == b'\n').filter(|size| !size.is_empty()) {
                    self.received(RESIZE, data.slice_ref(size)).await;
                }
            }
            _ => {}
        }
    }

    async fn received(&self, channel: u8, data: Bytes) {
        // An error means that nobody reads the input any more; the output follows.
        let _ = self.input.send((channel, data)).await;
    }

    async fn send(&self, frame: Bytes) {
        // A disconnected client is detected by the reader.
        let _ = self.frames.send(frame).await;
    }
}

/// What the server sends on the client's streams.
pub(in crate::stream) struct SpdyOutput {
    streams: HashMap<u8, u32>,
    frames: mpsc::Sender<Bytes>,
}

impl SpdyOutput {
    /// Sends data on a channel. The client does not want what it has opened no stream for.
    pub(super) async fn send(&self, channel: u8, data: &[u8]) -> Result<(), Disconnected> {
        let Some(stream) = self.streams.get(&channel) else { return Ok(()) };
        for part in data.chunks(MAX_DATA) {
            self.frames.send(spdy::data(*stream, part, false)).await.map_err(|_| Disconnected)?;
        }
        Ok(())
    }

    /// Ends the output, the status last.
    pub(super) async fn close(self) {
        for channel in [STDOUT, STDERR, STATUS] {
            if let Some(stream) = self.streams.get(&channel) {
                let _ = self.frames.send(spdy::data(*stream, &[], true)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Opens streams, and returns the channels with which the command starts, and the number of streams that are refused.
    async fn start(query: &str, names: &[&str]) -> (Option<Vec<u8>>, usize) {
        let (frames, mut sent) = mpsc::channel(QUEUE);
        let (opened, mut all_open) = oneshot::channel();
        let options = StreamOptions::parse(query).expect("options");
        let mut input = SpdyInput::new(expected_streams(&options), frames, mpsc::channel(1).0, opened);
        for (name, stream) in names.iter().zip((1..).step_by(2)) {
            input.open_as(stream, name).await;
        }
        let mut buffer = BytesMut::new();
        while let Ok(frame) = sent.try_recv() {
            buffer.extend_from_slice(&frame);
        }
        let mut refused = 0;
        while let Ok(Some(frame)) = spdy::next_frame(&mut buffer) {
            refused += usize::from(matches!(frame, SpdyFrame::Reset { .. }));
        }
        let started = all_open.try_recv().ok().map(|streams| {
            let mut channels: Vec<u8> = streams.into_keys().collect();
            channels.sort_unstable();
            channels
        });
        (started, refused)
    }

    #[tokio::test]
    async fn a_command_starts_once_its_number_of_streams_is_open() {
        let sorted = |mut channels: Vec<u8>| {
            channels.sort_unstable();
            Some(channels)
        };
        let plain = start("stdout=1&stderr=1", &["error", "stdout", "stderr"]).await;
        assert_eq!(plain, (sorted(vec![STATUS, STDOUT, STDERR]), 0));
        assert_eq!(start("stdout=1&stderr=1", &["error", "stdout"]).await, (None, 0));
        let terminal = start("stdin=1&stdout=1&tty=1", &["error", "stdin", "stdout", "resize"]).await;
        assert_eq!(terminal, (sorted(vec![STATUS, STDIN, STDOUT, RESIZE]), 0));
        // Without a terminal of its own, client-go opens a stream for errors, and none for the size.
        let with_errors = start("stdout=1&stderr=1&tty=1", &["error", "stdout", "stderr"]).await;
        assert_eq!(with_errors, (sorted(vec![STATUS, STDOUT, STDERR]), 0));
        let unknown = start("stdout=1", &["error", "error", "other", "stdout"]).await;
        assert_eq!(unknown, (sorted(vec![STATUS, STDOUT]), 2));
    }
}
