//! The gRPC health check (`grpc.health.v1.Health/Check`) at the level of HTTP/2: one request, one response.

use std::fmt::Display;

use bytes::{BufMut, Bytes, BytesMut};
use http::Request;
use tokio::io::{AsyncRead, AsyncWrite};

/// `SERVING` of `HealthCheckResponse.ServingStatus`.
const SERVING: u64 = 1;

/// Checks on a new connection that a service is serving, or the server as a whole if the name is empty. `address` is the
/// server's, `HOST:PORT`.
///
/// # Errors
/// Returns the reason as text if the service is not serving.
pub async fn check<S>(stream: S, address: impl Display, service: &str) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |error: h2::Error| format!("health check of {address}: {error}");
    let (client, connection) = h2::client::handshake(stream).await.map_err(failed)?;
    let driver = tokio::spawn(connection);
    let answer = async {
        let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .map_err(|error| error.to_string())?;
        let mut client = client.ready().await.map_err(failed)?;
        let (response, mut body) = client.send_request(request, false).map_err(failed)?;
        body.send_data(message(service), true).map_err(failed)?;
        let response = response.await.map_err(failed)?;
        if let Some(status) = response.headers().get("grpc-status").filter(|status| *status != "0") {
            return Err(format!("health check answered gRPC status {status:?}"));
        }
        let mut body = response.into_body();
        let mut received = BytesMut::new();
        while let Some(piece) = body.data().await {
            let piece = piece.map_err(failed)?;
            let _ = body.flow_control().release_capacity(piece.len());
            received.extend_from_slice(&piece);
            if received.len() > 1024 {
                return Err("health check answered with more than 1024 bytes".into());
            }
        }
        match status(&received) {
            Some(SERVING) => Ok(()),
            Some(other) => Err(format!("service unhealthy (responded with status {other})")),
            None => Err("health check answered without a status".into()),
        }
    };
    let answer = answer.await;
    driver.abort();
    answer
}

/// Encodes `HealthCheckRequest { service = 1 }` as a gRPC frame.
fn message(service: &str) -> Bytes {
    let mut field = BytesMut::new();
    if !service.is_empty() {
        field.put_u8(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            field.put_u8((length as u8 & 0x7f) | 0x80);
            length >>= 7;
        }
        field.put_u8(length as u8);
        field.extend_from_slice(service.as_bytes());
    }
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(field.len() as u32);
    frame.extend_from_slice(&field);
    frame.freeze()
}

/// Decodes `HealthCheckResponse.status`, field 1, from a gRPC frame.
fn status(frame: &[u8]) -> Option<u64> {
    let message = frame.get(5..)?;
    match message {
        [] => Some(0),
        [0x08, value, ..] => Some(u64::from(*value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_encoded_and_decoded() {
        assert_eq!(&message("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&message("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(status(&[0, 0, 0, 0, 2, 8, 1]), Some(SERVING));
        assert_eq!((status(&[0, 0, 0, 0, 0]), status(&[1])), (Some(0), None));
    }
}
