//! Opaque connections: relayed, with metrics and an access log line.

use std::rc::Rc;
use std::time::Duration;

use runtime::admission::{Admitted, Use};
use telemetry::ResponseFlags;
use telemetry::istio::{Party, TcpConnection};
use tokio::time::Instant;

use crate::failure::Failure;
use crate::io::Io;
use crate::mesh::TrafficPolicy;
use crate::relay::{self, RelayError, RelayedBytes};
use crate::report::{LogEntry, ServiceMetrics, WorkerTelemetry};

/// How often the bytes of an open connection are added to the metrics (Istio's default reporting interval).
const REPORT_INTERVAL: Duration = Duration::from_secs(5);
/// How often an idle connection is looked for at most.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

/// How long a connection may stay open. `None` is unlimited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CarryLimits {
    /// Without any byte.
    pub idle: Option<Duration>,
    /// In any case.
    pub duration: Option<Duration>,
}

impl CarryLimits {
    /// Returns the limits of a policy.
    pub fn of(policy: &TrafficPolicy) -> Self {
        let idle = policy.pool.tcp_idle_timeout.filter(|idle| !idle.is_zero());
        Self { idle, duration: policy.pool.max_connection_duration }
    }
}

/// The end of a relayed connection.
enum End {
    Relayed(Result<(), RelayError>),
    /// No byte moved for as long as allowed.
    Idle,
    /// The connection was open for as long as allowed.
    Duration,
}

/// Relays between both connections until both directions have ended, and reports the bytes. If one fails, the other is reset:
/// a stream that was cut must not look whole. The downstream connection is in use for its listener's admission, except while no
/// byte moves between two reports.
pub async fn carry(
    downstream: &mut Io,
    upstream: &mut Io,
    admitted: &Admitted,
    limits: CarryLimits,
    metrics: TcpConnection,
    log: Option<Box<LogEntry>>,
) {
    downstream.require_complete();
    upstream.require_complete();
    admitted.prove();
    let (mut used, mut last) = (Some(Use::of(admitted)), 0);
    let connection = Relayed { bytes: RelayedBytes::default(), metrics, log };
    // An idle connection is found a quarter of its time late at most.
    let interval = limits.idle.map_or(REPORT_INTERVAL, |idle| (idle / 4).clamp(MIN_INTERVAL, REPORT_INTERVAL));
    let (begun, mut moved_at) = (Instant::now(), Instant::now());
    let expires = limits.duration.map(|duration| begun + duration);
    let end = {
        let relayed = relay::both_ways(downstream, upstream, &connection.bytes);
        tokio::pin!(relayed);
        loop {
            let next = Instant::now() + interval;
            tokio::select! {
                result = &mut relayed => break End::Relayed(result),
                () = tokio::time::sleep_until(expires.map_or(next, |expires| expires.min(next))) => {
                    connection.report_bytes();
                    let (moved, now) = (connection.bytes.there.get() + connection.bytes.back.get(), Instant::now());
                    if std::mem::replace(&mut last, moved) == moved {
                        used = None;
                    } else {
                        moved_at = now;
                        used.get_or_insert_with(|| Use::of(admitted));
                    }
                    if expires.is_some_and(|expires| now >= expires) {
                        break End::Duration;
                    }
                    if limits.idle.is_some_and(|idle| now.duration_since(moved_at) >= idle) {
                        break End::Idle;
                    }
                }
            }
        }
    };
    if matches!(end, End::Relayed(Err(_))) {
        for socket in [downstream.socket(), upstream.socket()] {
            // A socket that is already closed cannot be reset.
            let _ = socket.set_zero_linger();
        }
    }
    connection.end(match end {
        // Envoy's idle timeout of TCP has no flag.
        End::Relayed(Ok(())) | End::Idle => ResponseFlags::NONE,
        End::Relayed(Err(RelayError::First(_))) => ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION,
        End::Relayed(Err(RelayError::Second(_))) => ResponseFlags::UPSTREAM_CONNECTION_TERMINATION,
        End::Duration => ResponseFlags::DURATION_TIMEOUT,
    });
}

/// Reports a connection that was not carried.
pub fn refused(
    metrics: &ServiceMetrics,
    telemetry: &Rc<WorkerTelemetry>,
    log: Option<Box<LogEntry>>,
    failure: &Failure,
) {
    let reply = failure.local_reply();
    metrics.tcp(&telemetry.intern(Party::default())).ended(reply.flags);
    if let Some(mut log) = log {
        log.transport_failure = reply.transport_failure;
        log.write_tcp(reply.flags, 0, 0);
    }
}

/// An open connection.
struct Relayed {
    bytes: RelayedBytes,
    metrics: TcpConnection,
    log: Option<Box<LogEntry>>,
}

impl Relayed {
    fn report_bytes(&self) {
        self.metrics.carried(self.bytes.back.get(), self.bytes.there.get());
    }

    fn end(self, flags: ResponseFlags) {
        self.metrics.ended(flags);
        if let Some(log) = &self.log {
            log.write_tcp(flags, self.bytes.there.get(), self.bytes.back.get());
        }
    }
}

impl Drop for Relayed {
    fn drop(&mut self) {
        self.report_bytes();
    }
}
