//! Answers a WebSocket upgrade: which subprotocol, and the socket once the response has been sent.

use bytes::{BufMut, BytesMut};
use futures_util::SinkExt as _;
use futures_util::stream::SplitSink;
use http::header::{
    CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::node::STATUS;
use crate::body::Body;
use crate::status::Status;

/// A WebSocket to a client.
pub(super) type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// An upgrade that was agreed on.
pub(super) struct Upgrade {
    upgrade: OnUpgrade,
    accept: String,
    /// The subprotocol chosen.
    pub(super) protocol: &'static str,
}

impl Upgrade {
    /// Reads the client's wishes; the first of `supported` that it offers is chosen.
    pub(super) fn negotiate(request: Request<Incoming>, supported: &[&'static str]) -> Result<Self, Status> {
        let headers = request.headers();
        if !has_token(headers, UPGRADE.as_str(), "websocket") {
            let asked = headers.get(UPGRADE).and_then(|value| value.to_str().ok()).unwrap_or("");
            let message = if asked.is_empty() {
                "Upgrade request required".to_owned()
            } else {
                let protocols = supported.join(", ");
                format!(
                    "unable to upgrade to {asked}: this server streams over WebSockets ({protocols}), as kubectl does from 1.30 on"
                )
            };
            return Err(Status::bad_request(message));
        }
        let Some(key) = headers.get(SEC_WEBSOCKET_KEY) else {
            return Err(Status::bad_request("the WebSocket upgrade has no Sec-WebSocket-Key"));
        };
        let accept = derive_accept_key(key.as_bytes());
        let offered: Vec<&str> = headers
            .get_all(SEC_WEBSOCKET_PROTOCOL)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .collect();
        let Some(protocol) = supported.iter().find(|protocol| offered.contains(protocol)) else {
            return Err(Status::bad_request(format!(
                "unable to negotiate protocol: client supports [{}], server accepts [{}]",
                offered.join(" "),
                supported.join(" ")
            )));
        };
        Ok(Self { protocol, accept, upgrade: hyper::upgrade::on(request) })
    }

    /// The response to send, after which `serve` gets the socket.
    pub(super) fn accept<Serve, Served>(self, serve: Serve) -> Result<Response<Body>, Status>
    where
        Serve: FnOnce(Socket) -> Served + Send + 'static,
        Served: Future<Output = ()> + Send + 'static,
    {
        let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, HeaderValue::from_str(&self.accept).map_err(Status::internal)?);
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(self.protocol));
        let upgrade = self.upgrade;
        tokio::spawn(async move {
            match upgrade.await {
                Ok(upgraded) => {
                    serve(WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await).await;
                }
                Err(error) => tracing::debug!(%error, "the client left during the upgrade"),
            }
        });
        Ok(response)
    }
}

/// A message of one channel.
pub(super) fn message(channel: u8, data: &[u8]) -> Message {
    let mut message = BytesMut::with_capacity(1 + data.len());
    message.put_u8(channel);
    message.put_slice(data);
    Message::Binary(message.freeze())
}

/// Sends a refusal as the status in which a stream ends.
pub(super) async fn refuse(socket: &mut Socket, refusal: &Status) {
    let status = refusal.to_value().to_string();
    let _ = socket.send(message(STATUS, status.as_bytes())).await;
    let _ = socket.send(goodbye()).await;
}

/// Tells the client that all is said. Clients take a close without a code for a failure.
pub(super) async fn close(to_client: &mut SplitSink<Socket, Message>) {
    // A client that is gone needs no goodbye.
    let _ = to_client.send(goodbye()).await;
}

fn goodbye() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() }))
}

/// Whether a comma-separated header has that token.
pub(super) fn has_token(headers: &HeaderMap, name: &str, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|value| value.trim().eq_ignore_ascii_case(token))
}
