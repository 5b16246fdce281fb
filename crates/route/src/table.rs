//! The routes of a host, in order.

use std::collections::HashMap;
use std::sync::Arc;

use crate::{
    ConnectionFacts, Cors, Destination, DirectResponse, Fault, Forward, HeaderEdits, HttpMatch, Redirect, RequestFacts,
    ResponseClasses, StringMatch, TcpRoute, TlsRoute,
};

/// What a route does with requests.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Sends them to a destination.
    Forward(Forward),
    /// Sends the client to another URL.
    Redirect(Redirect),
    /// Answers them.
    Respond(DirectResponse),
}

/// A route of requests.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpRoute {
    /// The name, for access logs.
    pub name: Arc<str>,
    /// Any of them must be met; empty: every request.
    pub matches: Box<[HttpMatch]>,
    /// What it does.
    pub action: Action,
    /// Changes of the request's headers.
    pub request_headers: HeaderEdits,
    /// Changes of the response's headers.
    pub response_headers: HeaderEdits,
    /// Which origins may read responses.
    pub cors: Option<Cors>,
    /// Faults that are injected.
    pub fault: Fault,
    /// How responses are counted by route; `None`: they are not.
    pub classes: Option<Arc<ResponseClasses>>,
}

/// The routes of a host.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// The object that the table was made of, for display: `<namespace>/<name>`.
    pub source: Arc<str>,
    /// The kind of the object; empty: VirtualService.
    pub source_kind: Arc<str>,
    http: Box<[HttpRoute]>,
    tls: Box<[TlsRoute]>,
    tcp: Box<[TcpRoute]>,
    steps: Box<[Step]>,
    /// The ports for which there are routes of requests; `None`: all.
    http_ports: Option<Box<[u16]>>,
}

/// A match of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct At {
    route: u32,
    condition: u32,
}

/// A part of the search. Neighbouring conditions on exact paths are one step: a thousand of them are found as fast as one.
#[derive(Debug, Clone)]
enum Step {
    /// One condition.
    One(At),
    /// Conditions on exact paths, in order, by path.
    Exact(HashMap<Box<str>, Vec<At>>),
}

/// From this number on, neighbouring conditions on exact paths are indexed.
const INDEXED: usize = 8;

/// A route that takes a request.
#[derive(Debug, Clone, Copy)]
pub struct Chosen<'a> {
    /// The route.
    pub route: &'a HttpRoute,
    /// Its position in the table.
    pub index: usize,
    /// The length of the path's prefix that matched, if the condition on the path was a prefix.
    pub prefix: Option<usize>,
}

impl PartialEq for Table {
    fn eq(&self, other: &Self) -> bool {
        let parts = |of: &Self| (of.source.clone(), of.source_kind.clone());
        parts(self) == parts(other) && (&self.http, &self.tls, &self.tcp) == (&other.http, &other.tls, &other.tcp)
    }
}

impl Table {
    /// Creates a table of routes in order of precedence.
    pub fn new(source: Arc<str>, http: Vec<HttpRoute>, tls: Vec<TlsRoute>, tcp: Vec<TcpRoute>) -> Self {
        let (steps, http_ports) = (steps(&http), http_ports(&http));
        Self {
            source,
            source_kind: Arc::default(),
            http: http.into(),
            tls: tls.into(),
            tcp: tcp.into(),
            steps,
            http_ports,
        }
    }

    /// Returns whether there are routes of requests to a port. If so, a request that none of them matches is answered 404; if
    /// not, requests go to the host itself.
    pub fn has_http(&self, port: u16) -> bool {
        self.http_ports.as_ref().map_or(!self.http.is_empty(), |ports| ports.contains(&port))
    }

    /// Returns the routes of requests.
    pub fn http_routes(&self) -> &[HttpRoute] {
        &self.http
    }

    /// Returns the route of a request.
    pub fn http(&self, facts: &RequestFacts<'_>) -> Option<Chosen<'_>> {
        self.steps
            .iter()
            .find_map(|step| match step {
                Step::One(at) => self.chosen(*at).filter(|(_, condition)| condition.is_none_or(|of| of.is_met(facts))),
                Step::Exact(paths) => {
                    let mut at = paths.get(facts.path)?.iter().filter_map(|at| self.chosen(*at));
                    at.find(|(_, condition)| condition.is_none_or(|of| of.rest_is_met(facts)))
                }
            })
            .map(|(chosen, _)| chosen)
    }

    /// Returns the destinations of a connection with TLS of the client's own.
    pub fn tls(&self, facts: &ConnectionFacts<'_>) -> Option<&[Destination]> {
        self.tls.iter().find(|route| route.takes(facts)).map(|route| &*route.destinations)
    }

    /// Returns the destinations of an opaque connection.
    pub fn tcp(&self, facts: &ConnectionFacts<'_>) -> Option<&[Destination]> {
        self.tcp.iter().find(|route| route.takes(facts)).map(|route| &*route.destinations)
    }

    /// Returns whether there are routes of connections with TLS.
    pub fn has_tls(&self) -> bool {
        !self.tls.is_empty()
    }

    /// Returns all destinations, mirrors included; a destination may occur several times.
    pub fn destinations(&self) -> impl Iterator<Item = &Destination> {
        let http = self.http.iter().filter_map(|route| match &route.action {
            Action::Forward(forward) => Some(forward),
            Action::Redirect(_) | Action::Respond(_) => None,
        });
        let http = http.flat_map(|forward| {
            forward.destinations.iter().chain(forward.mirrors.iter().map(|mirror| &mirror.destination))
        });
        let tls = self.tls.iter().flat_map(|route| &route.destinations);
        http.chain(tls).chain(self.tcp.iter().flat_map(|route| &route.destinations))
    }

    fn chosen(&self, at: At) -> Option<(Chosen<'_>, Option<&HttpMatch>)> {
        let route = self.http.get(at.route as usize)?;
        let condition = route.matches.get(at.condition as usize);
        // Without a condition on the path, the route is one on the prefix `/`, as in Istio.
        let prefix = match condition.and_then(|condition| condition.path.as_ref()) {
            None => Some(1),
            Some(path) => path.prefix_length(),
        };
        Some((Chosen { route, index: at.route as usize, prefix }, condition))
    }
}

/// Returns the ports for which there are routes; `None` if one is for all.
fn http_ports(routes: &[HttpRoute]) -> Option<Box<[u16]>> {
    let ports = |route: &HttpRoute| -> Option<Vec<u16>> {
        if route.matches.is_empty() { None } else { route.matches.iter().map(|condition| condition.port).collect() }
    };
    let ports: Option<Vec<Vec<u16>>> = routes.iter().map(ports).collect();
    ports.map(|ports| ports.concat().into())
}

/// Returns the steps of a search.
fn steps(routes: &[HttpRoute]) -> Box<[Step]> {
    let (mut steps, mut exact): (Vec<Step>, Vec<(&str, At)>) = (Vec::new(), Vec::new());
    let flush = |exact: &mut Vec<(&str, At)>, steps: &mut Vec<Step>| {
        if exact.len() < INDEXED {
            steps.extend(exact.drain(..).map(|(_, at)| Step::One(at)));
            return;
        }
        let mut paths: HashMap<Box<str>, Vec<At>> = HashMap::new();
        exact.drain(..).for_each(|(path, at)| paths.entry(path.into()).or_default().push(at));
        steps.push(Step::Exact(paths));
    };
    for (route, of) in (0_u32..).zip(routes) {
        let conditions = of.matches.iter().map(Some).chain(of.matches.is_empty().then_some(None));
        for (condition, of) in (0_u32..).zip(conditions) {
            let at = At { route, condition };
            if let Some(Some(StringMatch::Exact(path))) = of.map(|of| &of.path) {
                exact.push((path, at));
                continue;
            }
            flush(&mut exact, &mut steps);
            steps.push(Step::One(at));
        }
    }
    flush(&mut exact, &mut steps);
    steps.into()
}

#[cfg(test)]
mod tests;
