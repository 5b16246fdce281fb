//! The gateway's metrics besides Istio's TCP metrics.
//!
//! Label values are hostnames of services and fixed words, never data from a client: all unknown server names share one label.

use std::cell::RefCell;
use std::sync::Arc;

use foldhash::HashMap;
use telemetry::metrics::{Counter, Family, Gauge, Histogram, PerWorker, Scope};

/// The number of connections by service and outcome.
pub const CONNECTIONS: Family = Family {
    name: "isthmus_gateway_connections_total",
    help: "Connections that have ended, by service (unknown if no exported service has the server name) and outcome.",
    labels: &["destination_service", "outcome"],
};
const OPEN: Family =
    Family { name: "isthmus_gateway_connections_open", help: "Connections being forwarded.", labels: &[] };
const PENDING: Family = Family {
    name: "isthmus_gateway_hellos_pending",
    help: "Connections whose ClientHello is being read.",
    labels: &[],
};
const SETUP: Family = Family {
    name: "isthmus_gateway_setup_milliseconds",
    help: "Milliseconds from accepting a connection to forwarding its ClientHello.",
    labels: &[],
};
const RETRIES: Family = Family {
    name: "isthmus_gateway_connect_retries_total",
    help: "Attempts to connect to an endpoint after a connection's first.",
    labels: &[],
};

/// Milliseconds.
const SETUP_BOUNDS: &[f64] = &[0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 100.0, 500.0, 1000.0, 5000.0];
/// The label of connections without a service.
const UNKNOWN: &str = "unknown";

/// Service and outcome.
type Ended = (Option<Arc<str>>, &'static str);

/// One worker's metrics.
#[derive(Debug)]
pub struct Counts {
    scope: Scope<PerWorker>,
    ended: RefCell<HashMap<Ended, Counter>>,
    /// Connections that are being forwarded.
    pub open: Gauge,
    /// Connections whose ClientHello is being read.
    pub pending: Gauge,
    /// From accepting to forwarding.
    pub setup: Histogram,
    /// Attempts after the first.
    pub retries: Counter,
}

impl Counts {
    /// Creates the metrics of the worker that owns `scope`.
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
