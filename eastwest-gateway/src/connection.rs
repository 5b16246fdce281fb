//! The path of a connection: read the ClientHello → find the route → connect to an endpoint → forward the ClientHello → relay.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use balance::Outcome;
use net::hello::{self, Hello};
use net::splice::{self, Broken, Carried, Side};
use runtime::admission::Admitted;
use telemetry::ResponseFlags;
use telemetry::access_log::Record;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::open_connections::OpenConnection;
use crate::race;
use crate::refusal::Refusal;
use crate::routes::Route;
use crate::worker::GatewayWorker;

/// What the access log line of a connection shows.
struct LogFields {
    start: SystemTime,
    begun: Instant,
    peer: SocketAddr,
    local: Option<SocketAddr>,
    server_name: Option<String>,
    service: Option<Arc<str>>,
    endpoint: Option<SocketAddr>,
    upstream_local: Option<SocketAddr>,
    connection: Option<u64>,
}

/// The end of a connection.
struct End {
    outcome: &'static str,
    flags: ResponseFlags,
    forth: u64,
    back: u64,
    detail: Option<String>,
}

/// Forwards a connection from another network to an endpoint of its service.
pub(crate) async fn serve(mut client: TcpStream, peer: SocketAddr, admitted: Admitted, worker: &GatewayWorker) {
    let log = LogFields {
        start: SystemTime::now(),
        begun: Instant::now(),
        peer,
        // Each address costs a system call, so only an access log looks them up.
        local: worker.logs().then(|| client.local_addr().ok()).flatten(),
        server_name: None,
        service: None,
        endpoint: None,
        upstream_local: None,
        connection: None,
    };
    let mut report = Report { worker, log, end: None };
    let end = match forward(&mut client, admitted, worker, &mut report.log).await {
        Ok(end) => end,
        Err(refusal) => {
            let (outcome, flags) = (refusal.outcome(), refusal.flags());
            let end = End { outcome, flags, forth: 0, back: 0, detail: Some(refusal.to_string()) };
            refusal.send(client).await;
            end
        }
    };
    report.end = Some(end);
}

/// Reports the end of a connection when it is dropped. Without an end, the connection was closed to make room for others.
struct Report<'a> {
    worker: &'a GatewayWorker,
    log: LogFields,
    end: Option<End>,
}

impl Drop for Report<'_> {
    fn drop(&mut self) {
        let displaced = || End {
            outcome: "displaced",
            flags: ResponseFlags::OVERLOAD,
            forth: 0,
            back: 0,
            detail: Some("closed to make room for other connections".to_owned()),
        };
        let end = self.end.take().unwrap_or_else(displaced);
        self.log.write(self.worker, &end);
        self.worker.counts.ended(self.log.service.as_ref(), end.outcome);
    }
}

async fn forward(
    client: &mut TcpStream,
    admitted: Admitted,
    worker: &GatewayWorker,
    log: &mut LogFields,
) -> Result<End, Refusal> {
    let pending = worker.counts.pending.hold();
    let Hello { server_name, alpn, bytes } = hello::read(client, worker.settings.hello).await?;
    admitted.prove();
    drop(pending);

    log.server_name.clone_from(&server_name);
    let route = route(server_name, &alpn, worker, log)?;
    let (pick, mut upstream) = race::connect(&route, worker, |address| log.endpoint = Some(address)).await?;
    log.upstream_local = worker.logs().then(|| upstream.local_addr().ok()).flatten();
    let _held = worker.counts.open.hold();
    let metrics = worker.series(&route, &pick.target).open();
    let open = Rc::new(OpenConnection::new(admitted, metrics));
    let tracked = worker.open.track(open.clone());
    log.connection = Some(tracked.id);

    let forwarded = bytes.len() as u64;
    let ended = match upstream.write_all(&bytes).await {
        Ok(()) => {
            drop(bytes);
            worker.counts.setup.record(log.begun.elapsed().as_secs_f64() * 1000.0);
            open.carried.forth.set(forwarded);
            splice::both_ways(client, &upstream, &worker.carrier, &worker.settings.relay, &open.carried).await
        }
        Err(error) => Err(Broken::Failed(Side::Second, error)),
    };
    let end = End::of(ended, &open.carried);
    if end.back == 0 && end.flags == ResponseFlags::UPSTREAM_CONNECTION_TERMINATION {
        // The endpoint accepted the connection and ended it without a byte.
        pick.report(Outcome::GatewayError, Instant::now());
    }
    open.metrics.ended(end.flags);
    open.report();
    Ok(end)
}

/// Returns the route of the ClientHello's server name, if the client may use it.
fn route(
    name: Option<String>,
    alpn: &[Vec<u8>],
    worker: &GatewayWorker,
    log: &mut LogFields,
) -> Result<Route, Refusal> {
    let name = name.ok_or(Refusal::NoServerName)?;
    let route = worker.routes().find(&name).ok_or(Refusal::UnknownServerName)?;
    log.service = Some(route.service.hostname.clone());
    // Otherwise a client that is not a proxy could reach a port whose endpoint accepts plain TLS (CVE-2021-31921).
    if route.mesh_only && !identity::alpn::offered_by_mesh(alpn.iter().map(Vec::as_slice)) {
        return Err(Refusal::Protocol);
    }
    if !worker.routes().permits(&route.service, log.peer.ip()) {
        return Err(Refusal::Source);
    }
    Ok(route)
}

impl End {
    fn of(ended: Result<(), Broken>, carried: &Carried) -> Self {
        let (outcome, flags) = match &ended {
            Ok(()) => ("success", ResponseFlags::NONE),
            Err(Broken::Idle) => ("idle", ResponseFlags::STREAM_IDLE_TIMEOUT),
            Err(Broken::Failed(Side::First, _)) => ("client_reset", ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION),
            Err(Broken::Failed(Side::Second, _)) => ("endpoint_reset", ResponseFlags::UPSTREAM_CONNECTION_TERMINATION),
        };
        let detail = ended.err().map(|broken| broken.to_string());
        Self { outcome, flags, forth: carried.forth.get(), back: carried.back.get(), detail }
    }
}

impl LogFields {
    fn write(&self, worker: &GatewayWorker, end: &End) {
        let Some(log) = worker.log() else { return };
        log.write(&Record {
            duration: self.begun.elapsed(),
            response_flags: end.flags,
            connection_termination_details: end.detail.as_ref().map(|_| end.outcome),
            upstream_transport_failure_reason: end.detail.as_deref(),
            bytes_received: end.forth,
            bytes_sent: end.back,
            upstream_host: self.endpoint,
            upstream_cluster: self.service.as_ref().and(self.server_name.as_deref()),
            upstream_local_address: self.upstream_local,
            downstream_local_address: self.local,
            downstream_remote_address: Some(self.peer),
            requested_server_name: self.server_name.as_deref(),
            connection_id: self.connection,
            ..Record::new(self.start)
        });
    }
}
