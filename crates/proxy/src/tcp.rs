//! Opaque connections: relayed, with metrics and an access log line.

use std::rc::Rc;
use std::time::Duration;

use runtime::admission::{Admitted, Use};
use telemetry::ResponseFlags;
use telemetry::istio::{Party, TcpConnection};

use crate::failure::Failure;
use crate::io::Io;
use crate::relay::{self, RelayError, RelayedBytes};
use crate::report::{LogEntry, ServiceMetrics, WorkerTelemetry};

/// How often the bytes of an open connection are added to the metrics (Istio's default reporting interval).
const REPORT_INTERVAL: Duration = Duration::from_secs(5);

/// Relays between both connections until both directions have ended, and reports the bytes. If one fails, the other is reset:
/// a stream that was cut must not look whole. The downstream connection is in use for its listener's admission, except while no
/// byte moves between two reports.
pub async fn carry(
    downstream: &mut Io,
    upstream: &mut Io,
    admitted: &Admitted,
    metrics: TcpConnection,
    log: Option<Box<LogEntry>>,
) {
    downstream.require_complete();
    upstream.require_complete();
    admitted.prove();
    let (mut used, mut last) = (Some(Use::of(admitted)), 0);
    let connection = Relayed { bytes: RelayedBytes::default(), metrics, log };
    let result = {
        let relayed = relay::both_ways(downstream, upstream, &connection.bytes);
        tokio::pin!(relayed);
        loop {
            tokio::select! {
                result = &mut relayed => break result,
                () = tokio::time::sleep(REPORT_INTERVAL) => {
                    connection.report_bytes();
                    let moved = connection.bytes.there.get() + connection.bytes.back.get();
                    if std::mem::replace(&mut last, moved) == moved {
                        used = None;
                    } else if used.is_none() {
                        used = Some(Use::of(admitted));
                    }
                }
            }
        }
    };
    if result.is_err() {
        for socket in [downstream.socket(), upstream.socket()] {
            // A socket that is already closed cannot be reset.
            let _ = socket.set_zero_linger();
        }
    }
    connection.end(match result {
        Ok(()) => ResponseFlags::NONE,
        Err(RelayError::First(_)) => ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION,
        Err(RelayError::Second(_)) => ResponseFlags::UPSTREAM_CONNECTION_TERMINATION,
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
