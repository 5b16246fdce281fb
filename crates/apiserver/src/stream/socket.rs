//! WebSocket upgrades of clients.

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

use crate::body::ResponseBody;
use crate::status::Status;

/// A WebSocket to a client.
pub(super) type ClientSocket = WebSocketStream<TokioIo<Upgraded>>;

/// A negotiated upgrade.
pub(super) struct WebSocketUpgrade {
    upgrade: OnUpgrade,
    accept: String,
    /// The negotiated subprotocol.
    pub(super) protocol: &'static str,
}

impl WebSocketUpgrade {
    /// Negotiates the subprotocol: the first of `supported` that the client offers.
    pub(super) fn negotiate(request: Request<Incoming>, supported: &[&'static str]) -> Result<Self, Status> {
        let headers = request.headers();
        if !has_token(headers, UPGRADE.as_str(), "websocket") {
            let requested = headers.get(UPGRADE).and_then(|value| value.to_str().ok()).unwrap_or("");
            let message = if requested.is_empty() {
                "Upgrade request required".to_owned()
            } else {
                let protocols = supported.join(", ");
                format!("unable to upgrade to {requested}: this server supports WebSockets ({protocols}) and SPDY/3.1")
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

    /// Returns the response of the upgrade, and runs `serve` on the socket.
    pub(super) fn accept<Serve, Served0>(self, serve: Serve) -> Result<Response<ResponseBody>, Status>
    where
        Serve: FnOnce(ClientSocket) -> Served0 + Send + 'static,
        Served0: Future<Output = ()> + Send + 'static,
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
                Err(error) => tracing::debug!(%error, "client disconnected during the upgrade"),
            }
        });
        Ok(response)
    }
}

/// A message of a channel.
pub(super) fn message(channel: u8, data: &[u8]) -> Message {
    let mut message = BytesMut::with_capacity(1 + data.len());
    message.put_u8(channel);
    message.put_slice(data);
    Message::Binary(message.freeze())
}

/// Closes the socket with a code, because clients treat a close without a code as an error.
pub(super) async fn close(to_client: &mut SplitSink<ClientSocket, Message>) {
    // An error means that the client has disconnected.
    let _ = to_client.send(normal_close()).await;
}

fn normal_close() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() }))
}

/// Returns whether a comma-separated header contains a token.
pub(super) fn has_token(headers: &HeaderMap, name: &str, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|value| value.trim().eq_ignore_ascii_case(token))
}
