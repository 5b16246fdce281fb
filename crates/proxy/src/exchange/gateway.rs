//! Requests to an ingress or egress gateway: origin → ask → verify tokens → authorize → limit → redirect or route → send.
//!
//! A gateway is a downstream's first proxy, or its last: what comes in is authorized as in [`super::inbound`], and goes out by
//! the routes of its host as in [`super::outbound`]. [`VirtualHosts`] has the routes; [`edge`] decides what a request says of
//! its origin.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use policy::{Claims as _, jwt};
use ratelimit::Side;
use route::{RequestFacts, Table};

use super::authorize::{asked_about, authorize_request};
use super::external::{OnAllow, check_request};
use super::outbound::routed::{Routed, facts_of, own_reply};
use super::outbound::{Destination, OutboundRequests};
use super::rate_limits::{ConnectionBuckets, Counted, Counting, OnWithin};
use super::{Downstream, Exchange, connection_failure, host, tokens};
use crate::failure::Failure;
use crate::http::{Incoming, Version, headers, settle};
use crate::io::Io;
use crate::mesh::Protocol;
use crate::server::{Handler, ResponseBody, serve as serve_http};
use crate::upstream::UpstreamCluster;
use crate::worker::Worker;

mod edge;

pub use edge::{ClientCertificate, Edge, ForwardClientCert};

/// What a gateway does with the requests for a host.
#[derive(Debug, Clone, Default)]
pub struct VirtualHost {
    /// The routes, in order: the first table with a route for the request is used.
    pub tables: Box<[Arc<Table>]>,
    /// Requests are redirected to HTTPS.
    pub https_redirect: bool,
}

/// The hosts of the server that accepted a connection, as newly configured.
pub trait VirtualHosts {
    /// Returns the host that is the best match for a name: itself, else the longest wildcard. The name is in lower case, without a
    /// port.
    fn find(&self, name: &str) -> Option<Arc<VirtualHost>>;

    /// Returns what requests may say of their origin.
    fn edge(&self) -> Edge;
}

/// A connection to a gateway.
pub struct GatewayConnection<H> {
    /// The downstream.
    pub downstream: Downstream,
    /// The port of the connection, as routes see it.
    pub server_port: u16,
    /// Whether the connection has TLS.
    pub tls: bool,
    /// The certificate of the client, if it has shown one.
    pub client_certificate: Option<ClientCertificate>,
    /// The hosts.
    pub hosts: H,
}

/// Serves the requests of a connection to a gateway.
///
/// # Errors
/// Returns the failure of the connection.
pub async fn serve<H: VirtualHosts + 'static>(
    io: Io,
    version: Version,
    connection: GatewayConnection<H>,
    worker: &Rc<Worker>,
) -> Result<(), Failure> {
    let GatewayConnection { downstream, server_port, tls, client_certificate, hosts } = connection;
    let admitted = downstream.admitted.clone();
    let address = SocketAddr::new(downstream.destination.ip(), server_port);
    let unrouted = Destination::external(UpstreamCluster::black_hole(address), Protocol::Http, worker);
    let forward = OutboundRequests::new(downstream.clone(), address, unrouted.clone(), worker);
    let buckets = ConnectionBuckets::default();
    let requests = GatewayRequests {
        downstream,
        tls,
        client_certificate,
        hosts,
        forward,
        unrouted,
        buckets,
        worker: worker.clone(),
    };
    let handler = Rc::new(requests);
    let served = serve_http(io, version, handler.clone(), admitted, &worker.drain).await;
    served.map_err(|error| connection_failure(&error, worker, |log| handler.downstream.log_to(log)))
}

/// The requests of one connection.
struct GatewayRequests<H> {
    downstream: Downstream,
    tls: bool,
    client_certificate: Option<ClientCertificate>,
    hosts: H,
    /// Carries requests whose route has been chosen.
    forward: OutboundRequests,
    /// Where requests count that have no route.
    unrouted: Destination,
    /// Buckets of limits of which each connection has its own.
    buckets: ConnectionBuckets,
    worker: Rc<Worker>,
}

impl<H: VirtualHosts + 'static> Handler for GatewayRequests<H> {
    async fn handle(self: Rc<Self>, mut request: Request<Incoming>) -> Response<ResponseBody> {
        let form = self.worker.view.snapshot().settings.path_normalization;
        let settled = settle(&mut request, self.forward.address(), form);
        let forwarded = request.headers().get(headers::CLIENT_CERT).cloned();
        let mut exchange = self.forward.begin(request, settled.unwrap_or_default(), &self.unrouted);
        if let Err(invalid) = settled {
            return exchange.refuse(invalid);
        }
        let edge = self.hosts.edge();
        let scheme = if self.tls { "https" } else { "http" };
        let client = edge.receive(&mut exchange.head.headers, self.downstream.client.ip(), scheme);
        if let Some(certificate) = edge.client_certificate(forwarded, self.client_certificate.as_ref()) {
            exchange.head.headers.insert(headers::CLIENT_CERT, certificate);
        }
        // Boxed, as what follows is large, and most of it depends on the route.
        Box::pin(self.admitted(exchange, client)).await
    }
}

impl<H: VirtualHosts + 'static> GatewayRequests<H> {
    /// Carries a request if the policies of the gateway allow it.
    async fn admitted(&self, mut exchange: Exchange, client: Option<IpAddr>) -> Response<ResponseBody> {
        let mut snapshot = self.worker.view.snapshot();
        if let Some(matched) = asked_about(client, &self.downstream, &exchange.head, &snapshot) {
            drop(snapshot);
            let policy = matched.policy.clone();
            if let Err(refusal) = check_request(&mut exchange, &self.downstream, matched, &self.worker).await {
                self.worker.telemetry.denied(&policy);
                return refusal.answer(exchange);
            }
            snapshot = self.worker.view.snapshot();
        }
        let token = match tokens::verify(&mut exchange, snapshot.tokens.as_ref(), &self.worker) {
            Ok(token) => token,
            Err(failure) => return tokens::refuse(exchange, &failure),
        };
        let claims = token.as_deref().map(|token| &token.verified);
        let (head, telemetry) = (&exchange.head, &self.worker.telemetry);
        if let Err(failure) = authorize_request(client, &self.downstream, head, claims, &snapshot, telemetry) {
            return exchange.fail(&failure);
        }
        if let Some(limits) = snapshot.rate_limits.clone() {
            drop(snapshot);
            let counting = Counting {
                side: Side::Gateway,
                downstream: &self.downstream,
                client,
                buckets: &self.buckets,
                cluster: &"",
                worker: &self.worker,
            };
            let exceeded = match counting.count(&mut exchange, &limits) {
                Counted::Within => None,
                Counted::Exceeded(exceeded) => Some(exceeded),
                Counted::Asks(rule) => counting.ask(&mut exchange, &limits, rule).await,
            };
            if let Some(exceeded) = exceeded {
                return exceeded.answer(exchange);
            }
        }
        let asked = exchange.head.extensions.remove::<OnAllow>();
        let limited = exchange.head.extensions.remove::<OnWithin>();
        let mut response = self.route(exchange, claims).await;
        if let Some(asked) = asked {
            asked.apply(response.headers_mut());
        }
        if let Some(limited) = limited {
            limited.apply(response.headers_mut());
        }
        response
    }

    /// Sends a request where the routes of its host say.
    async fn route(&self, mut exchange: Exchange, claims: Option<&jwt::Verified>) -> Response<ResponseBody> {
        let name = headers::host(&exchange.head.uri, &exchange.head.headers).unwrap_or_default();
        let name = host::without_port(name).trim_end_matches('.').to_ascii_lowercase();
        let Some(host) = self.hosts.find(&name) else {
            return exchange.fail(&Failure::NoRoute(name.into()));
        };
        if host.https_redirect && !self.is_https(&exchange.head.headers) {
            return redirect_to_https(exchange);
        }
        let claims = claims.map(TokenClaims);
        let facts = RequestFacts {
            claims: claims.as_ref().map(|claims| claims as &dyn route::Claims),
            ..facts_of(&exchange, self.forward.address().port())
        };
        let Some(routed) = first_route(&host.tables, &facts) else {
            return exchange.fail(&Failure::NoRoute(name.into()));
        };
        let to = self.forward.destination_of(&routed, &self.unrouted).await;
        let outside = to.as_ref().is_ok_and(|to| !to.cluster.in_mesh());
        if outside && self.downstream.peer.is_some() {
            // Who called within the mesh does not concern servers outside of it.
            exchange.head.headers.remove(headers::CLIENT_CERT);
        }
        self.forward.direct(&mut exchange, to.as_ref().unwrap_or(&self.unrouted));
        self.forward.carry_chosen(exchange, &self.unrouted, routed, to).await
    }

    /// Returns whether the client used HTTPS: with the gateway, or with a trusted proxy in front of it.
    fn is_https(&self, headers: &HeaderMap) -> bool {
        self.tls || headers.get(headers::FORWARDED_PROTO).is_some_and(|proto| proto == "https")
    }
}

/// Returns the route of a request: that of the first table with one. A route for all requests comes after the routes of all
/// tables, as Istio merges them.
fn first_route(tables: &[Arc<Table>], facts: &RequestFacts<'_>) -> Option<Routed> {
    let mut for_all = None;
    for routed in tables.iter().filter_map(|table| Routed::of(table, facts)) {
        if tables.len() == 1 || !routed.is_for_all() {
            return Some(routed);
        }
        for_all = for_all.or(Some(routed));
    }
    for_all
}

/// Answers with the same URL, but HTTPS.
fn redirect_to_https(exchange: Exchange) -> Response<ResponseBody> {
    let head = &exchange.head;
    let host = headers::host(&head.uri, &head.headers).unwrap_or_default();
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    let location = HeaderValue::try_from(format!("https://{host}{target}"));
    exchange.answer_locally(&own_reply(StatusCode::MOVED_PERMANENTLY, "direct_response"), |headers| {
        headers.extend(location.ok().map(|location| (header::LOCATION, location)));
    })
}

/// The claims of a token, as routes see them.
struct TokenClaims<'a>(&'a jwt::Verified);

impl route::Claims for TokenClaims<'_> {
    fn any(&self, path: &[Arc<str>], matches: &mut dyn FnMut(&str) -> bool) -> bool {
        self.0.any(path, matches)
    }
}
