//! Authorization of requests and opaque connections by the own workload's policies.

use std::borrow::Cow;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::HeaderMap;
use http::request::Parts;
use policy::authorization::Matched;
use policy::{Authorization, Claims, Decision, Facts, Headers, Request, jwt};

use super::Downstream;
use super::external::check_connection;
use crate::failure::Failure;
use crate::http::headers;
use crate::mesh::MeshSnapshot;
use crate::report::{Called, NO_POLICY, WorkerTelemetry};
use crate::worker::Worker;

/// Refuses a caller whose cluster may not call the port of the application, and counts it.
///
/// # Errors
/// Returns [`Failure::NotExported`] if a FederationPolicy does not permit the caller's cluster.
pub fn check_caller(
    downstream: &Downstream,
    snapshot: &MeshSnapshot,
    telemetry: &WorkerTelemetry,
) -> Result<(), Failure> {
    let Some(cluster) = refused_cluster(downstream, snapshot) else { return Ok(()) };
    telemetry.refused_caller();
    Err(Failure::NotExported(cluster))
}

/// Returns the cluster of a caller that may not call the port, which is `None` if the caller proved none.
pub(super) fn refused_cluster(downstream: &Downstream, snapshot: &MeshSnapshot) -> Option<Option<Arc<str>>> {
    let port = snapshot.own.as_ref()?.port(downstream.destination.port())?;
    let (callers, peer) = (port.callers.as_ref()?, downstream.peer.as_deref());
    (!callers.include(peer)).then(|| peer.and_then(|peer| peer.cluster.clone()))
}

/// Decides about an opaque connection, and counts the decisions.
///
/// # Errors
/// Returns an error if the policies, or a server that they ask, do not allow the connection.
pub async fn authorize_connection(downstream: &Downstream, worker: &Rc<Worker>) -> Result<(), Failure> {
    let custom = |policies: &Authorization| policies.asks().then(|| policies.custom(&downstream.facts()))?;
    let matched = worker.view.snapshot().authorization.as_deref().and_then(custom);
    if let Some(matched) = matched {
        let policy = matched.policy.clone();
        let checked = Box::pin(check_connection(downstream, matched, worker)).await;
        checked.inspect_err(|_| worker.telemetry.denied(&policy))?;
    }
    decide(worker.view.snapshot().authorization.as_deref(), &downstream.facts(), &worker.telemetry)
}

/// Records a connection that was allowed, and that the application accepted.
pub fn accepted_connection(downstream: &Downstream, telemetry: &WorkerTelemetry) {
    telemetry.accepted_connection(downstream.called());
}

/// Decides about a request with this token, and counts the decisions. `client` is the original client; `None`: the last address in
/// `x-forwarded-for`.
///
/// # Errors
/// Returns [`Failure::Denied`] if the policies do not allow the request.
pub(super) fn authorize_request(
    client: Option<IpAddr>,
    downstream: &Downstream,
    head: &Parts,
    token: Option<&jwt::Verified>,
    snapshot: &MeshSnapshot,
    telemetry: &WorkerTelemetry,
) -> Result<(), Failure> {
    let authorization = snapshot.authorization.as_deref();
    if authorization.is_some_and(Authorization::is_empty) {
        return Ok(());
    }
    with_facts(client, downstream, head, token, |facts| decide(authorization, facts, telemetry))
}

/// Returns the policy by which another server is asked about a request, if there is one. `client` is the original client; `None`: the
/// last address in `x-forwarded-for`.
pub(super) fn asked_about(
    client: Option<IpAddr>,
    downstream: &Downstream,
    head: &Parts,
    snapshot: &MeshSnapshot,
) -> Option<Matched> {
    let policies = snapshot.authorization.as_deref().filter(|policies| policies.asks())?;
    with_facts(client, downstream, head, None, |facts| policies.custom(facts))
}

/// Evaluates policies on what they see of a request.
pub(super) fn with_facts<T>(
    client: Option<IpAddr>,
    downstream: &Downstream,
    head: &Parts,
    token: Option<&jwt::Verified>,
    evaluate: impl FnOnce(&Facts<'_>) -> T,
) -> T {
    let (facts, headers) = (downstream.facts(), RequestHeaders(head));
    let request = Request {
        method: head.method.as_str(),
        path: head.uri.path(),
        host: headers.host(),
        headers: &headers,
        claims: token.map(|token| token as &dyn Claims),
    };
    let remote = client.or_else(|| original_client(&head.headers)).unwrap_or(facts.remote);
    evaluate(&Facts { request: Some(request), remote, ..facts })
}

/// Evaluates policies; without any that have arrived, everything is refused.
fn decide(policies: Option<&Authorization>, facts: &Facts<'_>, telemetry: &WorkerTelemetry) -> Result<(), Failure> {
    let Some(policies) = policies else { return Err(Failure::Denied(None)) };
    if !policies.only_enforces() {
        policies.audited(facts).for_each(|policy| telemetry.audited(policy));
        match policies.evaluate_dry_run(facts) {
            Some(Decision::Denied(matched)) => telemetry.dry_run(&matched.policy, "denied"),
            Some(Decision::NotAllowed) => telemetry.dry_run(NO_POLICY, "denied"),
            Some(Decision::Allowed) => telemetry.dry_run(NO_POLICY, "allowed"),
            None => {}
        }
    }
    match policies.evaluate(facts) {
        Decision::Allowed => Ok(()),
        Decision::Denied(matched) => denied(Some(matched), telemetry),
        Decision::NotAllowed => denied(None, telemetry),
    }
}

fn denied(matched: Option<Matched>, telemetry: &WorkerTelemetry) -> Result<(), Failure> {
    telemetry.denied(matched.as_ref().map_or(NO_POLICY, |matched| &matched.policy));
    Err(Failure::Denied(matched))
}

impl Downstream {
    /// Returns the caller and the port that it called.
    pub(super) fn called(&self) -> Called<'_> {
        Called { peer: self.peer.as_deref(), port: self.destination.port() }
    }

    /// Returns what authorization policies evaluate of the connection.
    pub fn facts(&self) -> Facts<'_> {
        Facts {
            principal: self.peer.as_ref().map(|peer| &peer.id),
            cluster: self.peer.as_ref().and_then(|peer| peer.cluster.as_deref()),
            source: self.client.ip(),
            remote: self.client.ip(),
            destination: self.destination.ip(),
            port: self.destination.port(),
            server_name: self.server_name.as_deref(),
            request: None,
        }
    }
}

/// Returns the last address in `x-forwarded-for`: the client of the last proxy that adds to it, as Envoy has it beside an
/// application.
fn original_client(headers: &HeaderMap) -> Option<IpAddr> {
    let last = headers.get_all(headers::FORWARDED_FOR).iter().next_back()?.to_str().ok()?;
    let last = last.rsplit(',').next()?.trim();
    last.parse().ok().map(|ip: IpAddr| ip.to_canonical())
}

/// Headers as policies look them up, with those of HTTP/2 that begin with `:`.
struct RequestHeaders<'a>(&'a Parts);

impl RequestHeaders<'_> {
    fn host(&self) -> &str {
        headers::host(&self.0.uri, &self.0.headers).unwrap_or_default()
    }
}

impl Headers for RequestHeaders<'_> {
    fn any(&self, name: &str, matches: &mut dyn FnMut(Cow<'_, str>) -> bool) -> bool {
        let RequestHeaders(head) = self;
        match name {
            ":method" => matches(head.method.as_str().into()),
            ":path" => matches(head.uri.path_and_query().map_or("/", |path| path.as_str()).into()),
            ":authority" | "host" => matches(self.host().into()),
            ":scheme" => matches(head.uri.scheme_str().unwrap_or("http").into()),
            _ => head.headers.get_all(name).iter().any(|value| matches(String::from_utf8_lossy(value.as_bytes()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_original_client_is_the_last_forwarded_address() {
        for (lines, expected) in [
            (&["203.0.113.7"][..], Some("203.0.113.7")),
            (&["198.51.100.1, 203.0.113.7"], Some("203.0.113.7")),
            (&["198.51.100.1", "203.0.113.7 "], Some("203.0.113.7")),
            (&["::ffff:203.0.113.7"], Some("203.0.113.7")),
            (&["203.0.113.7, x"], None),
            (&[""], None),
            (&[], None),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append("x-forwarded-for", HeaderValue::from_static(line));
            }
            assert_eq!(original_client(&headers), expected.map(|ip| ip.parse().unwrap()), "{lines:?}");
        }
    }
}
