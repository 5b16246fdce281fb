//! Port forwarding: a connection to a port of a pod, made inside of the pod.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use net::namespace::{Namespaces, run_joined};
use serde::Deserialize;

use super::reply::{AgentBody, ErrorResponse, pod, read_body, upgraded};
use crate::node::host::Host;

/// How long connecting to a port may take.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, Deserialize)]
struct ForwardRequest {
    namespace: String,
    pod: String,
    port: u16,
}

pub(super) async fn serve(host: &Host, mut request: Request<Incoming>) -> Result<Response<AgentBody>, ErrorResponse> {
    let upgrade = hyper::upgrade::on(&mut request);
    let request_body: ForwardRequest = read_body(request).await?;
    let pod = pod(host, &request_body.namespace, &request_body.pod)?;
    let sandbox =
        pod.sandbox().ok_or_else(|| ErrorResponse::bad(format!("pod {:?} does not run", request_body.pod)))?;
    let port = request_body.port;
    let connected = tokio::task::spawn_blocking(move || {
        let kinds = Namespaces { net: true, ..Namespaces::default() };
        run_joined(sandbox.as_fd(), kinds, || connect(port)).map_err(|error| error.to_string())
    });
    let refused = |error: String| {
        ErrorResponse::bad(format!("failed to connect to localhost:{port} inside pod {:?}: {error}", request_body.pod))
    };
    let stream = connected
        .await
        .map_err(|error| ErrorResponse::internal(error.to_string()))?
        .and_then(|stream| stream.map_err(|error| error.to_string()))
        .map_err(refused)?;
    let mut stream = stream
        .set_nonblocking(true)
        .and_then(|()| tokio::net::TcpStream::from_std(stream))
        .map_err(|error| ErrorResponse::internal(error.to_string()))?;
    tokio::spawn(async move {
        if let Ok(connection) = upgrade.await {
            let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(connection), &mut stream).await;
        }
    });
    Ok(upgraded())
}

fn connect(port: u16) -> std::io::Result<TcpStream> {
    let (four, six) = (SocketAddr::from((Ipv4Addr::LOCALHOST, port)), SocketAddr::from((Ipv6Addr::LOCALHOST, port)));
    TcpStream::connect_timeout(&four, PATIENCE)
        .or_else(|error| TcpStream::connect_timeout(&six, PATIENCE).map_err(|_| error))
}
