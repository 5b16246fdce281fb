//! One connection: read its hello, find the service, reach an endpoint, forward the hello, carry the rest.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use balance::{Outcome, Pick};
use net::hello::{self, Hello};
use net::splice::{self, Broken, Carried, Side};
use telemetry::access_log::Record;
use telemetry::flags;
use telemetry::istio::TcpConnection;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::refusal::Refusal;
use crate::routes::{Route, Target};
use crate::worker::Worker;

/// A connection that is being forwarded, as far as it reports.
#[derive(Debug)]
pub(crate) struct Open {
    carried: Carried,
    tcp: TcpConnection,
}

impl Open {
    /// Counts what has been carried since the last time.
    pub(crate) fn report(&self) {
        self.tcp.carried(self.carried.back.get(), self.carried.forth.get());
    }
}

/// What the access log tells at the end, gathered on the way.
struct Story {
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

/// How a connection ended.
struct End {
    outcome: &'static str,
    flags: &'static str,
    forth: u64,
    back: u64,
    detail: Option<String>,
}

/// Carries one connection from another network to its service here.
pub(crate) async fn connection(mut client: TcpStream, peer: SocketAddr, worker: &Worker) {
    let mut story = Story {
        start: SystemTime::now(),
        begun: Instant::now(),
        peer,
        // Asking the kernel for addresses that nobody wants to read costs a call for each.
        local: worker.logs().then(|| client.local_addr().ok()).flatten(),
        server_name: None,
        service: None,
        endpoint: None,
        upstream_local: None,
        connection: None,
    };
    let end = match forward(&mut client, worker, &mut story).await {
        Ok(end) => end,
        Err(refusal) => {
            let end = End {
                outcome: refusal.outcome(),
                flags: refusal.flags(),
                forth: 0,
                back: 0,
                detail: Some(refusal.to_string()),
            };
            refusal.tell(client).await;
            end
        }
    };
    worker.counts.ended(story.service.as_ref(), end.outcome);
    story.tell(worker, &end);
}

async fn forward(client: &mut TcpStream, worker: &Worker, story: &mut Story) -> Result<End, Refusal> {
    let (reading, _place) = worker.places()?;
    let pending = worker.counts.pending.hold();
    let Hello { server_name, alpn, bytes } = hello::read(client, worker.settings.hello).await?;
    drop((reading, pending));

    story.server_name.clone_from(&server_name);
    let route = route(server_name, &alpn, worker, story)?;
    let (pick, mut upstream) = connect(&route, worker, story).await?;
    let _held = worker.counts.open.hold();
    let open = Rc::new(Open { carried: Carried::default(), tcp: worker.series(&route, &pick.target).open() });
    let kept = worker.keep(Rc::clone(&open));
    story.connection = Some(kept.id);

    let forwarded = bytes.len() as u64;
    let ended = match upstream.write_all(&bytes).await {
        Ok(()) => {
            drop(bytes);
            worker.counts.setup.record(story.begun.elapsed().as_secs_f64() * 1000.0);
            open.carried.forth.set(forwarded);
            splice::both_ways(client, &upstream, &worker.carrier, &worker.settings.relay, &open.carried).await
        }
        Err(error) => Err(Broken::Failed(Side::Second, error)),
    };
    let end = End::of(ended, &open.carried);
    if end.back == 0 && end.flags == flags::UPSTREAM_CONNECTION_TERMINATION {
        // It took the connection and broke it without a word: what answers there is not well.
        pick.report(Outcome::GatewayError, Instant::now());
    }
    open.tcp.ended(end.flags);
    open.report();
    Ok(end)
}

/// The service that the hello asks for, if this client may have it.
fn route(name: Option<String>, alpn: &[Vec<u8>], worker: &Worker, story: &mut Story) -> Result<Route, Refusal> {
    let name = name.ok_or(Refusal::NoServerName)?;
    let snapshot = worker.snapshot();
    let route = snapshot.routes.find(&name).ok_or(Refusal::UnknownServerName)?;
    story.service = Some(Arc::clone(&route.service.hostname));
    // Without this a client that is no proxy could reach a port whose endpoint takes plain TLS (CVE-2021-31921).
    if route.mesh_only && !identity::alpn::offered_by_mesh(alpn.iter().map(Vec::as_slice)) {
        return Err(Refusal::Protocol);
    }
    Ok(route.clone())
}

/// A connection to an endpoint of the route. The hello has not been sent to anyone yet, so trying the next one is safe.
async fn connect(route: &Route, worker: &Worker, story: &mut Story) -> Result<(Pick<Target>, TcpStream), Refusal> {
    /// Inside one network, data that stays unacknowledged this long goes to a pod that is gone without a word.
    const UNACKNOWLEDGED: Duration = Duration::from_secs(10);
    let options = net::Connect {
        timeout: worker.snapshot().connect_timeout,
        user_timeout: Some(UNACKNOWLEDGED),
        ..net::Connect::default()
    };
    let mut tried = Vec::new();
    let mut last = None;
    while tried.len() < worker.settings.attempts {
        let Some(pick) = worker.pick(route, &tried) else { break };
        if last.is_some() {
            worker.counts.retries.increment();
        }
        story.endpoint = Some(pick.target.address);
        match net::connect(pick.target.address, &options).await {
            Ok(upstream) => {
                pick.report(Outcome::Success, Instant::now());
                story.upstream_local = worker.logs().then(|| upstream.local_addr().ok()).flatten();
                return Ok((pick, upstream));
            }
            Err(error) => {
                pick.report(Outcome::ConnectFailure, Instant::now());
                tracing::debug!(endpoint = %pick.target.address, %error, "endpoint not reached");
                last = Some(error);
            }
        }
        tried.push(Arc::clone(&pick.id));
    }
    Err(match last {
        Some(last) => Refusal::Connect { attempts: tried.len(), last },
        None => Refusal::NoEndpoint,
    })
}

impl End {
    fn of(ended: Result<(), Broken>, carried: &Carried) -> Self {
        let (outcome, flags) = match &ended {
            Ok(()) => ("success", flags::NONE),
            Err(Broken::Idle) => ("idle", flags::STREAM_IDLE_TIMEOUT),
            Err(Broken::Failed(Side::First, _)) => ("client_reset", flags::DOWNSTREAM_CONNECTION_TERMINATION),
            Err(Broken::Failed(Side::Second, _)) => ("endpoint_reset", flags::UPSTREAM_CONNECTION_TERMINATION),
        };
        Self {
            outcome,
            flags,
            forth: carried.forth.get(),
            back: carried.back.get(),
            detail: ended.err().map(|broken| broken.to_string()),
        }
    }
}

impl Story {
    fn tell(&self, worker: &Worker, end: &End) {
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
