//! What a gateway counts beside Istio's TCP metrics.
//!
//! Label values come from services that exist and from fixed words, never from what a client sends: an unknown server name
//! is one bucket.

use std::cell::RefCell;
use std::sync::Arc;

use foldhash::HashMap;
use telemetry::metrics::{Counter, Family, Gauge, Histogram, PerWorker, Scope};

/// Connections by service and outcome.
pub const CONNECTIONS: Family = Family {
    name: "isthmus_gateway_connections_total",
    help: "Connections that ended, by the service asked for (unknown where none of that name is exported) and outcome.",
    labels: &["destination_service", "outcome"],
};
const OPEN: Family =
    Family { name: "isthmus_gateway_connections_open", help: "Connections being forwarded.", labels: &[] };
const PENDING: Family = Family {
    name: "isthmus_gateway_hellos_pending",
    help: "Connections whose ClientHello has not been read whole.",
    labels: &[],
};
const SETUP: Family = Family {
    name: "isthmus_gateway_setup_milliseconds",
    help: "From accepting a connection to forwarding its ClientHello.",
    labels: &[],
};
const RETRIES: Family = Family {
    name: "isthmus_gateway_connect_retries_total",
    help: "Attempts beyond a connection's first to reach an endpoint.",
    labels: &[],
};

/// Milliseconds.
const SETUP_BOUNDS: &[f64] = &[0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 100.0, 500.0, 1000.0, 5000.0];
/// What stands for a service where there is none.
const UNKNOWN: &str = "unknown";

/// Service and outcome.
type Ended = (Option<Arc<str>>, &'static str);

/// One worker's counts.
#[derive(Debug)]
pub struct Counts {
    scope: Scope<PerWorker>,
    ended: RefCell<HashMap<Ended, Counter>>,
    /// Connections being forwarded.
    pub open: Gauge,
    /// Connections whose hello is being read.
    pub pending: Gauge,
    /// Accept to forwarding.
    pub setup: Histogram,
    /// Further attempts.
    pub retries: Counter,
}

impl Counts {
    /// For the worker of this scope.
    pub fn new(scope: &Scope<PerWorker>) -> Self {
        Self {
            ended: RefCell::default(),
            open: scope.gauge(&OPEN, &[]),
            pending: scope.gauge(&PENDING, &[]),
            setup: scope.histogram(&SETUP, SETUP_BOUNDS, &[]),
            retries: scope.counter(&RETRIES, &[]),
            scope: scope.clone(),
        }
    }

    /// Counts a connection that has ended.
    pub fn ended(&self, service: Option<&Arc<str>>, outcome: &'static str) {
        let mut ended = self.ended.borrow_mut();
        ended
            .entry((service.cloned(), outcome))
            .or_insert_with(|| {
                self.scope.counter(&CONNECTIONS, &[service.map_or(UNKNOWN, |service| &**service), outcome])
            })
            .increment();
    }
}
