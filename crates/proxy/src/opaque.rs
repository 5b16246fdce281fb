//! Opaque connections, told of in metrics and the access log.

use std::rc::Rc;
use std::time::Duration;

use telemetry::flags;
use telemetry::istio::{Party, TcpConnection};

use crate::failure::Failure;
use crate::io::Io;
use crate::relay::{self, Broken, Moved};
use crate::report::{Route, Seen, Telemetry};

/// How often a long connection's bytes are added to the metrics (Istio's default reporting interval).
const REPORT: Duration = Duration::from_secs(5);

/// Relays until both sides are done, and tells how much that was. `client` is the side that opened the connection.
pub async fn carry(client: &mut Io, server: &mut Io, series: TcpConnection, seen: Option<Box<Seen>>) {
    let told = Told { moved: Moved::default(), series, seen };
    let result = {
        let relayed = relay::both_ways(client, server, &told.moved);
        tokio::pin!(relayed);
        loop {
            tokio::select! {
                result = &mut relayed => break result,
                () = tokio::time::sleep(REPORT) => told.so_far(),
            }
        }
    };
    match result {
        Ok(()) => {}
        Err(Broken::First(_)) => told.series.ended(flags::DOWNSTREAM_CONNECTION_TERMINATION),
        Err(Broken::Second(_)) => told.series.ended(flags::UPSTREAM_CONNECTION_TERMINATION),
    }
    told.end(match result {
        Ok(()) => flags::NONE,
        Err(Broken::First(_)) => flags::DOWNSTREAM_CONNECTION_TERMINATION,
        Err(Broken::Second(_)) => flags::UPSTREAM_CONNECTION_TERMINATION,
    });
}

/// Tells of a connection that could not be carried anywhere.
pub fn refused(route: &Route, telemetry: &Rc<Telemetry>, seen: Option<Box<Seen>>, failure: &Failure) {
    let answer = failure.answer();
    let connection = route.tcp(&telemetry.intern(Party::default()));
    connection.ended(answer.flag);
    if let Some(mut seen) = seen {
        seen.transport = answer.transport;
        seen.tcp(answer.flag, 0, 0);
    }
}

struct Told {
    moved: Moved,
    series: TcpConnection,
    seen: Option<Box<Seen>>,
}

impl Told {
    fn so_far(&self) {
        self.series.carried(self.moved.back.get(), self.moved.there.get());
    }

    fn end(self, flag: &'static str) {
        if let Some(seen) = &self.seen {
            seen.tcp(flag, self.moved.there.get(), self.moved.back.get());
        }
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.so_far();
    }
}
