//! The numbered channels of `exec` and `attach` between a client and the server, over a WebSocket or over SPDY.
//!
//! kubectl prefers WebSockets; client-go's `NewSPDYExecutor`, which most controllers and terminal interfaces use, opens a
//! SPDY stream for each channel.

mod spdy;

use bytes::Bytes;
use futures_util::stream::{BoxStream, SplitSink};
use futures_util::{SinkExt, StreamExt};
use http::header::UPGRADE;
use http::{Request, Response};
use hyper::body::Incoming;
use tokio_tungstenite::tungstenite::Message;

use super::node::STATUS;
use super::options::StreamOptions;
use super::socket::{self, ClientSocket, WebSocketUpgrade, has_token};
use crate::body::ResponseBody;
use crate::status::Status;
use spdy::SpdyOutput;

/// Subprotocols of WebSockets, by preference.
const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

/// How long a client may take to close its side.
const CLOSE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// The channels to one client.
pub(super) struct ClientChannels {
    /// What the client sends, with its channel. Ends when the client disconnects.
    pub(super) input: BoxStream<'static, (u8, Bytes)>,
    pub(super) output: ClientOutput,
}

/// What the server sends.
pub(super) enum ClientOutput {
    WebSocket(SplitSink<ClientSocket, Message>),
    Spdy(SpdyOutput),
}

/// The client has disconnected.
#[derive(Debug)]
pub(super) struct Disconnected;

impl ClientOutput {
    pub(super) async fn send(&mut self, channel: u8, data: &[u8]) -> Result<(), Disconnected> {
        match self {
            Self::WebSocket(socket) => socket.send(socket::message(channel, data)).await.map_err(|_| Disconnected),
            Self::Spdy(output) => output.send(channel, data).await,
        }
    }
}

impl ClientChannels {
    /// Returns the response of the upgrade, and runs `serve` on the channels.
    pub(super) fn upgrade<Serve, Served>(
        request: Request<Incoming>,
        options: &StreamOptions,
        serve: Serve,
    ) -> Result<Response<ResponseBody>, Status>
    where
        Serve: FnOnce(ClientChannels) -> Served + Send + 'static,
        Served: Future<Output = ()> + Send + 'static,
    {
        if has_token(request.headers(), UPGRADE.as_str(), spdy::UPGRADE) {
            return spdy::upgrade(request, options, serve);
        }
        WebSocketUpgrade::negotiate(request, &PROTOCOLS)?.accept(move |socket| serve(Self::of_socket(socket)))
    }

    fn of_socket(socket: ClientSocket) -> Self {
        let (to_client, from_client) = socket.split();
        let messages = from_client.take_while(|message| {
            std::future::ready(message.as_ref().is_ok_and(|message| !matches!(message, Message::Close(_))))
        });
        // Like Kubernetes, the server makes no difference between binary messages and text.
        let input = messages.filter_map(|message| {
            std::future::ready(match message {
                Ok(Message::Binary(data)) => Some(data),
                Ok(Message::Text(text)) => Some(Bytes::from(text)),
                _ => None,
            })
        });
        let input =
            input.filter_map(|data| std::future::ready(data.first().map(|channel| (*channel, data.slice(1..)))));
        Self { input: input.boxed(), output: ClientOutput::WebSocket(to_client) }
    }

    /// Ends the channels with a refusal.
    pub(super) async fn refuse(mut self, refusal: &Status) {
        let status = refusal.to_value().to_string();
        let _ = self.output.send(STATUS, status.as_bytes()).await;
        self.close().await;
    }

    /// Closes the channels. The client closes last, so that it can read all data.
    pub(super) async fn close(self) {
        let Self { mut input, output } = self;
        match output {
            ClientOutput::WebSocket(mut socket) => socket::close(&mut socket).await,
            ClientOutput::Spdy(output) => output.close().await,
        }
        let rest = async { while input.next().await.is_some() {} };
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, rest).await;
    }
}
