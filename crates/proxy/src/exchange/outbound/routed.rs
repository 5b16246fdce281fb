//! Requests to a host with routes: route → fault → CORS → headers → mirrors → send.
//!
//! The order is Envoy's: faults and CORS are decided before the route's action, and apply to redirections as well. A route's
//! answer of its own counts as a request to the host.

use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header, request, uri};
use route::{
    Action, CorsOutcome, Destination as RouteDestination, Forward, HeaderEdits, HttpMatch, HttpRoute, RequestFacts,
    Retries, RetryTokens, Table, choose,
};
use telemetry::ResponseFlags;
use telemetry::access_log::Record;

use super::expiry::Limits;
use super::send::Answer;
use super::{Destination, OutboundRequests, mirror};
use crate::exchange::Exchange;
use crate::failure::{Failure, LocalReply};
use crate::http::{Incoming, headers};
use crate::server::ResponseBody;
use crate::upstream::UpstreamCluster;

/// A path before it was rewritten.
const ORIGINAL_PATH: http::HeaderName = http::HeaderName::from_static("x-envoy-original-path");
/// The host before it was rewritten.
const ORIGINAL_HOST: http::HeaderName = http::HeaderName::from_static("x-envoy-original-host");

/// A route that was chosen for a request.
pub(in crate::exchange) struct Routed {
    table: Arc<Table>,
    index: usize,
    /// The length of the path's prefix that matched.
    prefix: Option<usize>,
    /// The chosen destination's position.
    destination: usize,
}

impl Routed {
    /// Returns the route of a request, and the destination that is chosen among the route's.
    pub(in crate::exchange) fn of(table: &Arc<Table>, facts: &RequestFacts<'_>) -> Option<Self> {
        let chosen = table.http(facts)?;
        let destination = match &chosen.route.action {
            Action::Forward(forward) => choose(&forward.destinations, rand::random()).unwrap_or_default(),
            Action::Redirect(_) | Action::Respond(_) => 0,
        };
        Some(Routed { index: chosen.index, prefix: chosen.prefix, table: table.clone(), destination })
    }

    /// Returns whether every request meets the route's conditions.
    pub(in crate::exchange) fn is_for_all(&self) -> bool {
        self.route().is_some_and(|route| route.matches.is_empty() || route.matches.iter().any(HttpMatch::is_for_all))
    }

    fn route(&self) -> Option<&HttpRoute> {
        self.table.http_routes().get(self.index)
    }

    /// Returns the destination, if the route forwards.
    fn destination(&self) -> Option<(&Forward, &RouteDestination)> {
        let Action::Forward(forward) = &self.route()?.action else { return None };
        Some((forward, forward.destinations.get(self.destination)?))
    }
}

impl OutboundRequests {
    /// Carries a request to a host with routes.
    pub(super) async fn carry_routed(
        self: Rc<Self>,
        request: Request<Incoming>,
        upgrade: bool,
        host: Destination,
        table: Arc<Table>,
    ) -> Response<ResponseBody> {
        let Some(routed) = Routed::of(&table, &facts(&request, self.address.port())) else {
            let name = host.cluster.key().hostname.clone();
            return self.begin(request, upgrade, &host).fail(&Failure::NoRoute(name));
        };
        let to = self.destination_of(&routed, &host).await;
        let exchange = self.begin(request, upgrade, to.as_ref().unwrap_or(&host));
        self.carry_chosen(exchange, &host, routed, to).await
    }

    /// Returns the destination of a route; `host` if the route does not forward.
    pub(in crate::exchange) async fn destination_of(
        &self,
        routed: &Routed,
        host: &Destination,
    ) -> Result<Destination, Failure> {
        match routed.destination() {
            Some((_, to)) => self.resolved.get(to, self.address, host, &self.worker).await,
            None => Ok(host.clone()),
        }
    }

    /// Carries a request whose route has been chosen.
    pub(in crate::exchange) async fn carry_chosen(
        &self,
        mut exchange: Exchange,
        host: &Destination,
        routed: Routed,
        to: Result<Destination, Failure>,
    ) -> Response<ResponseBody> {
        let Some(route) = routed.route() else { return exchange.fail(&Failure::NoRoute(Arc::default())) };
        if let Some(log) = &mut exchange.report.log {
            log.route = route.name.clone();
        }
        if let Some(classes) = &route.classes {
            exchange.report.count_by_route(&host.cluster.key().hostname, &route.name, classes);
        }
        if let Err(failure) = self.inject(&mut exchange, route).await {
            let edits = ResponseEdits::new(HeaderMap::new(), &routed, self, &exchange);
            let mut response = exchange.fail(&failure);
            edits.apply(&mut response, None);
            return response;
        }
        // Istio configures CORS for routes that forward.
        let cors = route.cors.as_ref().filter(|_| matches!(route.action, Action::Forward(_)));
        let cors = match cors.map(|cors| cors.decide(&exchange.head.method, &exchange.head.headers)) {
            Some(CorsOutcome::Preflight(answer)) => {
                return exchange.answer_locally(&own_reply(StatusCode::OK, "cors"), |headers| headers.extend(answer));
            }
            Some(CorsOutcome::Forward(answer)) => answer,
            None => HeaderMap::new(),
        };
        let edits = ResponseEdits::new(cors, &routed, self, &exchange);
        match &route.action {
            Action::Redirect(redirect) => {
                let location = redirect.location(&facts_of(&exchange, self.address.port()), routed.prefix);
                let location = HeaderValue::from_str(&location);
                let mut response = exchange.answer_locally(&own_reply(redirect.status, "direct_response"), |headers| {
                    if let Ok(location) = location {
                        headers.insert(header::LOCATION, location);
                    }
                });
                edits.apply(&mut response, None);
                response
            }
            Action::Respond(direct) => {
                let mut reply = own_reply(direct.status, "direct_response");
                reply.body = String::from_utf8_lossy(&direct.body).into_owned().into();
                let mut response = exchange.answer_locally(&reply, |_| {});
                edits.apply(&mut response, None);
                response
            }
            Action::Forward(forward) => match to {
                Err(failure) => exchange.fail(&failure),
                Ok(destination) => self.forward(exchange, destination, forward, edits).await,
            },
        }
    }

    /// Sends a request to the chosen destination.
    async fn forward(
        &self,
        mut exchange: Exchange,
        destination: Destination,
        forward: &Forward,
        edits: ResponseEdits<'_>,
    ) -> Response<ResponseBody> {
        let routed = edits.routed;
        self.rewrite(&mut exchange, routed, &destination.cluster);
        for mirror in forward.mirrors.iter().filter(|mirror| mirror.takes(rand::random())) {
            if let Ok(to) = self.resolved.get(&mirror.destination, self.address, &destination, &self.worker).await {
                mirror::send(&exchange, to, &self.worker);
            }
        }
        let default = destination.cluster.policy();
        let retries = forward.retries.as_ref().unwrap_or(&default.retry);
        let of_client = super::grpc_timeout(&exchange);
        let request = of_client.into_iter().chain(forward.timeout).min();
        let timer = pin!(tokio::time::sleep(Duration::ZERO));
        let began = Instant::now();
        let mut limits = Limits { began, request, attempt: retries.per_try_timeout, timer: Some(timer) };
        let announced = match of_client {
            None => forward.announced_timeout.clone(),
            Some(_) => limits.attempt.into_iter().chain(request).min().map(headers::millis),
        };
        if let Some(announced) = announced {
            headers::expect_timeout(&mut exchange.head.headers, announced);
        }
        self.prepare(&mut exchange, &destination);
        exchange.hash = self.hash(&exchange, &default);
        match self.send(&mut exchange, &destination, retries, &mut limits).await {
            Ok(answer) => {
                if let Some(tokens) = &retries.tokens {
                    self.earn(tokens, retries, &answer);
                }
                let deadline = limits.deadline(exchange.body.as_ref());
                let upgraded = answer.response.status() == StatusCode::SWITCHING_PROTOCOLS;
                let endpoint = answer.leased.pick.target.address;
                let mut response = self.answer(exchange, answer);
                if let Some(deadline) = deadline.filter(|_| !upgraded) {
                    response.body_mut().set_deadline(deadline);
                }
                edits.apply(&mut response, Some(endpoint));
                response
            }
            Err(failure) => {
                tracing::debug!(error = %failure, cluster = %destination.cluster.name, "request failed");
                let mut response = exchange.fail(&failure);
                edits.apply(&mut response, None);
                response
            }
        }
    }

    /// Adds to a budget of retries what a request is worth whose response is not one that is repeated.
    fn earn(&self, tokens: &RetryTokens, retries: &Retries, answer: &Answer) {
        let (status, headers) = (answer.response.status().as_u16(), answer.response.headers());
        let grpc = if headers::is_grpc(headers) { headers::grpc_status(headers) } else { None };
        if !retries.on.on_response(status, grpc, false) {
            tokens.deposit(Instant::now());
        }
    }

    /// Injects the route's faults.
    async fn inject(&self, exchange: &mut Exchange, route: &HttpRoute) -> Result<(), Failure> {
        if route.fault == route::Fault::default() {
            return Ok(());
        }
        let injected = route.fault.inject(rand::random());
        if let Some(delay) = injected.delay {
            exchange.report.flag(ResponseFlags::DELAY_INJECTED);
            tokio::time::sleep(delay).await;
        }
        injected.abort.map_or(Ok(()), |abort| Err(Failure::Fault(abort)))
    }

    /// Changes the headers, path and authority of a request. The destination's sidecar removes headers with the original ones,
    /// so they are not sent to it.
    fn rewrite(&self, exchange: &mut Exchange, routed: &Routed, cluster: &UpstreamCluster) {
        let (in_mesh, cluster) = (cluster.in_mesh(), &*cluster.name);
        let (Some(route), Some((forward, destination))) = (routed.route(), routed.destination()) else { return };
        for edits in in_order(forward, &route.request_headers, &destination.request_headers) {
            self.edit_request(exchange, edits, Named { route: &route.name, cluster });
        }
        let head = &mut exchange.head;
        if let Some(authority) = &forward.rewrite.authority {
            let before = headers::host(&head.uri, &head.headers).and_then(|host| HeaderValue::from_str(host).ok());
            if let Some(before) = before.filter(|_| !in_mesh) {
                head.headers.insert(ORIGINAL_HOST, before);
            }
            headers::set_authority(head, authority);
        }
        if let Some(path) = forward.rewrite.path_and_query(head.uri.path(), head.uri.query(), routed.prefix)
            && let Ok(path) = uri::PathAndQuery::try_from(path)
        {
            let before = head.uri.path_and_query().filter(|_| !in_mesh);
            if let Some(before) = before.and_then(|before| HeaderValue::from_str(before.as_str()).ok()) {
                head.headers.insert(ORIGINAL_PATH, before);
            }
            let mut parts = std::mem::take(&mut head.uri).into_parts();
            parts.path_and_query = Some(path);
            head.uri = http::Uri::from_parts(parts).unwrap_or_default();
        }
    }

    fn edit_request(&self, exchange: &mut Exchange, edits: &HeaderEdits, of: Named<'_>) {
        if edits.is_empty() {
            return;
        }
        if !edits.has_operators() {
            return edits.apply(&mut exchange.head.headers, &Record::new(std::time::UNIX_EPOCH));
        }
        let before = exchange.head.headers.clone();
        let (uri, method) = (exchange.head.uri.clone(), exchange.head.method.clone());
        let record = Record {
            method: Some(method.as_str()),
            path: uri.path_and_query().map(uri::PathAndQuery::as_str),
            authority: headers::host(&uri, &before),
            scheme: Some("http"),
            request_headers: Some(&before),
            ..self.record(of)
        };
        edits.apply(&mut exchange.head.headers, &record);
    }

    /// Returns the values of operators that are known of every request.
    fn record<'a>(&'a self, of: Named<'a>) -> Record<'a> {
        let downstream = &self.downstream;
        Record {
            downstream_local_address: Some(downstream.destination),
            downstream_remote_address: Some(downstream.client),
            requested_server_name: downstream.server_name.as_deref(),
            downstream_peer_uri_san: downstream.peer.as_ref().map(|peer| peer.id.as_str()),
            protocol: Some("HTTP/1.1"),
            route_name: Some(of.route).filter(|name| !name.is_empty()),
            upstream_cluster: Some(of.cluster).filter(|name| !name.is_empty()),
            ..Record::new(std::time::SystemTime::now())
        }
    }
}

/// The names of what was chosen for a request, for operators.
#[derive(Clone, Copy)]
struct Named<'a> {
    route: &'a str,
    cluster: &'a str,
}

/// The changes of a response's headers.
struct ResponseEdits<'a> {
    cors: HeaderMap,
    routed: &'a Routed,
    requests: &'a OutboundRequests,
    /// The request's path, if values have operators.
    path: Option<String>,
}

impl<'a> ResponseEdits<'a> {
    fn new(cors: HeaderMap, routed: &'a Routed, requests: &'a OutboundRequests, exchange: &Exchange) -> Self {
        let of_route = routed.route().map(|route| &route.response_headers);
        let of_destination = routed.destination().map(|(_, destination)| &destination.response_headers);
        let operators = of_route.into_iter().chain(of_destination).any(HeaderEdits::has_operators);
        let path = exchange.head.uri.path_and_query().filter(|_| operators).map(|path| path.as_str().to_owned());
        Self { cors, routed, requests, path }
    }
}

impl ResponseEdits<'_> {
    fn apply(&self, response: &mut Response<ResponseBody>, endpoint: Option<SocketAddr>) {
        let (code, headers) = (response.status().as_u16(), response.headers_mut());
        let Some(route) = self.routed.route() else { return };
        let (nothing, of_route) = (HeaderEdits::default(), &route.response_headers);
        let ordered = match self.routed.destination() {
            Some((forward, destination)) => in_order(forward, of_route, &destination.response_headers),
            None => [of_route, &nothing],
        };
        for edits in ordered.into_iter().filter(|edits| !edits.is_empty()) {
            if edits.has_operators() {
                let named = Named { route: &route.name, cluster: "" };
                let before = headers.clone();
                let record = Record {
                    response_headers: Some(&before),
                    response_code: code,
                    upstream_host: endpoint,
                    path: self.path.as_deref(),
                    ..self.requests.record(named)
                };
                edits.apply(headers, &record);
            } else {
                edits.apply(headers, &Record::new(std::time::UNIX_EPOCH));
            }
        }
        for (name, value) in &self.cors {
            headers.insert(name, value.clone());
        }
    }
}

/// Returns an answer of the proxy's own.
pub(in crate::exchange) fn own_reply(status: StatusCode, details: &'static str) -> LocalReply {
    LocalReply {
        status,
        grpc_status: None,
        flags: ResponseFlags::NONE,
        details: details.into(),
        body: "".into(),
        transport_failure: None,
    }
}

/// Returns the changes of a route and of its destination in the order in which Istio's configuration makes them: those of an
/// only destination follow the route's, those of one of several precede them.
fn in_order<'a>(forward: &Forward, route: &'a HeaderEdits, destination: &'a HeaderEdits) -> [&'a HeaderEdits; 2] {
    if forward.destinations.len() == 1 { [route, destination] } else { [destination, route] }
}

/// Returns what conditions see of a request.
fn facts(request: &Request<Incoming>, port: u16) -> RequestFacts<'_> {
    facts_of_parts(request.method(), request.uri(), request.headers(), port)
}

/// Returns the scheme of a request: what the client says that it was, as in Envoy.
fn scheme(headers: &HeaderMap) -> &str {
    headers.get(crate::http::headers::FORWARDED_PROTO).and_then(|scheme| scheme.to_str().ok()).unwrap_or("http")
}

/// Returns what conditions see of an exchange's request, which came to this port.
pub(in crate::exchange) fn facts_of(exchange: &Exchange, port: u16) -> RequestFacts<'_> {
    facts_of_head(&exchange.head, port)
}

/// Returns what conditions see of a request with this head, which came to this port.
pub(super) fn facts_of_head(head: &request::Parts, port: u16) -> RequestFacts<'_> {
    facts_of_parts(&head.method, &head.uri, &head.headers, port)
}

fn facts_of_parts<'a>(method: &'a Method, uri: &'a Uri, headers: &'a HeaderMap, port: u16) -> RequestFacts<'a> {
    RequestFacts {
        path: uri.path(),
        query: uri.query(),
        scheme: scheme(headers),
        method: method.as_str(),
        authority: headers::host(uri, headers).unwrap_or_default(),
        headers,
        port,
        claims: None,
    }
}
