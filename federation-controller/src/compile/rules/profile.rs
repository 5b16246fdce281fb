//! The routes of a ServiceProfile: how the requests of each are carried and counted.

use api::linkerd::ServiceAnnotations;
use api::linkerd::service_profile::{RouteSpec, ServiceProfileSpec};
use wire::discovery::{HttpMatch, ResponseClasses, Retries, RetryTokens, StatusRange};

use super::conditions;
use super::http::ms;

/// The number of retries of one request within the budget of its profile.
const MAX_RETRIES: u32 = 10;

/// The name of the route of requests that no route of a profile matches, as Linkerd's command shows it.
const DEFAULT: &str = "[DEFAULT]";

/// What is retried in any case: the request did not reach its destination.
const NOT_SENT: [&str; 2] = ["connect-failure", "refused-stream"];

/// A route of requests: which ones, and how they are carried.
#[derive(Default)]
pub(super) struct Route {
    /// Any of them must match; empty: every request.
    pub(super) matches: Vec<HttpMatch>,
    pub(super) name: String,
    pub(super) timeout_ms: u64,
    pub(super) retries: Option<Retries>,
    pub(super) classes: Option<ResponseClasses>,
}

/// Returns the routes of a profile. The last one matches every request.
pub(super) fn routes(spec: &ServiceProfileSpec) -> Vec<Route> {
    let mut routes: Vec<Route> = spec.routes.iter().map(route).collect();
    routes.push(Route { name: DEFAULT.to_owned(), classes: Some(ResponseClasses::default()), ..Route::default() });
    routes
}

/// Returns the budget of the routes' retries, if any has some.
pub(super) fn tokens(spec: &ServiceProfileSpec) -> Option<RetryTokens> {
    spec.routes.iter().any(|route| route.is_retryable).then(|| {
        let limit = spec.retry_limit();
        RetryTokens { ratio: limit.ratio, min_per_second: limit.min_per_second, ttl_ms: ms(limit.ttl).max(1) }
    })
}

/// Returns the route of all requests to a service with annotations.
pub(super) fn annotated(of: &ServiceAnnotations) -> Route {
    let retries = (!of.retry_on.is_empty()).then(|| Retries {
        attempts: of.retry_limit,
        per_try_timeout_ms: of.retry_timeout_ms,
        retry_on: of.retry_on.iter().cloned().chain(NOT_SENT.map(str::to_owned)).collect(),
        ..Retries::default()
    });
    Route { timeout_ms: of.timeout_ms, retries, ..Route::default() }
}

fn route(of: &RouteSpec) -> Route {
    Route {
        matches: of.condition.as_ref().map(conditions::of_profile).unwrap_or_default(),
        name: of.name.clone(),
        timeout_ms: of.timeout().map(ms).unwrap_or_default(),
        retries: of.is_retryable.then(|| retries(of)),
        classes: Some(classes(of)),
    }
}

/// Returns the retries of a route: of responses that are failures, and of requests without a response.
fn retries(of: &RouteSpec) -> Retries {
    let is_failure = |status: u16| of.class_of(status).unwrap_or(status >= 500);
    let mut on: Vec<String> = NOT_SENT.map(str::to_owned).into();
    let all = (500..600).all(is_failure);
    if all {
        on.push("5xx".to_owned());
    } else if is_failure(502) {
        // With which a sidecar answers if there is no response.
        on.push("reset".to_owned());
    }
    on.extend((100..600).filter(|status| is_failure(*status) && !(all && *status >= 500)).map(|of| of.to_string()));
    if of.class_of(200).is_none() {
        on.extend(["deadline-exceeded", "internal", "unavailable"].map(str::to_owned));
    }
    Retries { attempts: MAX_RETRIES, retry_on: on, budgeted: true, ..Retries::default() }
}

/// Returns the classes of responses as ranges of statuses: what classes say of each status is known beforehand.
fn classes(of: &RouteSpec) -> ResponseClasses {
    let mut classes = ResponseClasses::default();
    if of.response_classes.is_empty() {
        return classes;
    }
    let mut before = None;
    for status in 100..600_u16 {
        let class = of.class_of(status);
        if let Some(failure) = class {
            let ranges = if failure { &mut classes.failures } else { &mut classes.successes };
            match ranges.last_mut().filter(|_| before == class) {
                Some(range) => range.last = status.into(),
                None => ranges.push(StatusRange { first: status.into(), last: status.into() }),
            }
        }
        before = class;
    }
    classes
}
