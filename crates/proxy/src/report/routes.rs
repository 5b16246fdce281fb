//! Counters of responses by route.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use route::ResponseClasses;
use telemetry::istio::Ended;
use telemetry::metrics::{Counter, Family};

use super::{MAX_PARTIES, RequestReport, WorkerTelemetry};

/// Responses by route.
const RESPONSES: Family = Family {
    name: "isthmus_route_responses_total",
    help: "Responses to requests of a service with a ServiceProfile, by route and by class: success or failure.",
    labels: &["destination_service", "route", "classification"],
};

/// The counters of routes, by host and route. At [`MAX_PARTIES`], all are dropped.
pub(super) type RouteCounters = HashMap<(Arc<str>, Arc<str>), Rc<[Counter; 2]>>;

/// The counters of a request's route.
pub(super) struct ByRoute {
    classes: Arc<ResponseClasses>,
    /// Of successes and of failures.
    counters: Rc<[Counter; 2]>,
}

impl ByRoute {
    pub(super) fn record(&self, ended: &Ended) {
        self.counters[usize::from(self.classes.is_failure(ended.code, ended.grpc_status))].increment();
    }
}

impl WorkerTelemetry {
    fn of_route(&self, host: &Arc<str>, route: &Arc<str>) -> Rc<[Counter; 2]> {
        let mut known = self.routes.borrow_mut();
        let key = (host.clone(), route.clone());
        if known.len() >= MAX_PARTIES && !known.contains_key(&key) {
            known.clear();
        }
        let counter = |class| self.scope.counter(&RESPONSES, &[host, route, class]);
        known.entry(key).or_insert_with(|| Rc::new(["success", "failure"].map(counter))).clone()
    }
}

impl RequestReport {
    /// Counts the response by route as well.
    pub fn count_by_route(&mut self, host: &Arc<str>, route: &Arc<str>, classes: &Arc<ResponseClasses>) {
        let counters = self.telemetry.of_route(host, route);
        self.by_route = Some(Box::new(ByRoute { classes: classes.clone(), counters }));
    }
}
