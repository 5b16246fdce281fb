//! Conversion of the routes of a host.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};
use ipnet::IpNet;
use route::{
    Abort, Action, Condition, Cors, Destination, DirectResponse, Expression, Fault, Forward, HeaderEdit, HeaderEdits,
    HttpMatch, HttpRoute, Mirror, Redirect, RedirectPath, RedirectPort, Regex, ResponseClasses, Retries, RetryOn,
    RetryTokens, Rewrite, RewritePath, ServerName, StringMatch, Table, TcpMatch, TcpRoute, TlsMatch, TlsRoute,
    TokenPolicy,
};
use wire::discovery as message;

use super::{Result, port_number};
use crate::http::headers;

/// The own pod, which conditions on clients are about.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::mesh) struct Client {
    /// The namespace.
    pub(in crate::mesh) namespace: Arc<str>,
    /// The labels.
    pub(in crate::mesh) labels: BTreeMap<String, String>,
}

impl Client {
    /// Returns whether the own pod meets conditions.
    pub(in crate::mesh) fn meets(&self, condition: Option<&message::ClientMatch>) -> bool {
        condition.is_none_or(|condition| {
            (condition.namespace.is_empty() || *condition.namespace == *self.namespace)
                && condition.labels.iter().all(|(key, value)| self.labels.get(key) == Some(value))
        })
    }

    /// Returns the conditions that may be met; `None` if there are some, but the own pod meets none of them.
    fn applicable<'a, M>(
        &self,
        matches: &'a [M],
        condition: impl Fn(&M) -> Option<&message::ClientMatch>,
    ) -> Option<Vec<&'a M>> {
        let met: Vec<&M> = matches.iter().filter(|of| self.meets(condition(of))).collect();
        (!met.is_empty() || matches.is_empty()).then_some(met)
    }
}

/// Converts the routes of a host for the own pod.
pub(in crate::mesh) fn routes(message: &message::RouteTable, client: &Client) -> Result<Table> {
    let (mut http, mut tls, mut tcp) = (Vec::new(), Vec::new(), Vec::new());
    let tokens = message.retry_tokens.as_ref().map(tokens).transpose()?;
    for route in &message.http {
        let Some(matches) = client.applicable(&route.matches, |of| of.client.as_ref()) else { continue };
        let converted = http_route(route, &matches, tokens.as_ref());
        http.push(converted.map_err(|error| format!("route {:?}: {error}", route.name))?);
    }
    for route in &message.tls {
        let Some(matches) = client.applicable(&route.matches, |of| of.client.as_ref()) else { continue };
        let matches = matches.into_iter().map(tls_match).collect::<Result<_>>()?;
        tls.push(TlsRoute { matches, destinations: destinations(&route.destinations)? });
    }
    for route in &message.tcp {
        let Some(matches) = client.applicable(&route.matches, |of| of.client.as_ref()) else { continue };
        let matches = matches.into_iter().map(tcp_match).collect::<Result<_>>()?;
        tcp.push(TcpRoute { matches, destinations: destinations(&route.destinations)? });
    }
    let mut table = Table::new(message.source.as_str().into(), http, tls, tcp);
    table.source_kind = message.source_kind.as_str().into();
    Ok(table)
}

fn tokens(message: &message::RetryTokens) -> Result<Arc<RetryTokens>> {
    if !message.ratio.is_finite() || message.ratio < 0.0 {
        return Err(format!("{} is no ratio of retries", message.ratio));
    }
    let ttl = millis(message.ttl_ms).ok_or("a budget of retries has no time")?;
    let policy = TokenPolicy { ratio: message.ratio, min_per_second: message.min_per_second, ttl };
    Ok(Arc::new(RetryTokens::new(policy)))
}

fn http_route(
    message: &message::HttpRoute,
    matches: &[&message::HttpMatch],
    tokens: Option<&Arc<RetryTokens>>,
) -> Result<HttpRoute> {
    let action = match &message.action {
        Some(message::http_route::Action::Forward(forward)) => Action::Forward(self::forward(forward, tokens)?),
        Some(message::http_route::Action::Redirect(redirect)) => Action::Redirect(self::redirect(redirect)?),
        Some(message::http_route::Action::DirectResponse(response)) => {
            Action::Respond(DirectResponse { status: status(response.status)?, body: response.body.clone() })
        }
        None => return Err("it has no action".to_owned()),
    };
    Ok(HttpRoute {
        name: message.name.as_str().into(),
        matches: matches.iter().map(|of| http_match(of)).collect::<Result<_>>()?,
        action,
        request_headers: edits(message.request_headers.as_ref())?,
        response_headers: edits(message.response_headers.as_ref())?,
        cors: message.cors.as_ref().map(cors).transpose()?,
        fault: message.fault.as_ref().map(fault).transpose()?.unwrap_or_default(),
        classes: message.response_classes.as_ref().map(classes).transpose()?,
    })
}

fn classes(message: &message::ResponseClasses) -> Result<Arc<ResponseClasses>> {
    let failures = message.failures.iter().map(|range| (range, true));
    let all = failures.chain(message.successes.iter().map(|range| (range, false)));
    let range = |(range, failure): (&message::StatusRange, bool)| {
        let status = |status: u32| u16::try_from(status).map_err(|_| format!("{status} is no status"));
        Ok((status(range.first)?, status(range.last)?, failure))
    };
    Ok(Arc::new(ResponseClasses { ranges: all.map(range).collect::<Result<_>>()? }))
}

fn http_match(message: &message::HttpMatch) -> Result<HttpMatch> {
    let pattern = |pattern: &Option<message::StringMatch>| pattern.as_ref().map(string).transpose();
    let (mut headers, mut claims) = (Vec::new(), Vec::new());
    for of in &message.headers {
        match wire::name::routed_claim(&of.name) {
            Some(path) => claims.push(condition(of, path.into_iter().map(Arc::from).collect())?),
            None => headers.push(condition(of, header_name(&of.name)?)?),
        }
    }
    Ok(HttpMatch {
        path: pattern(&message.path)?,
        scheme: pattern(&message.scheme)?,
        method: pattern(&message.method)?,
        authority: pattern(&message.authority)?,
        headers,
        claims,
        query: message.query.iter().map(|of| condition(of, of.name.as_str().into())).collect::<Result<_>>()?,
        port: optional_port(message.port)?,
        further: message.further.iter().map(expression).collect::<Result<_>>()?,
    })
}

/// Converts a condition made of others. Decoding bounds its depth.
fn expression(message: &message::RequestCondition) -> Result<Expression> {
    use message::request_condition::Condition;
    let all = |of: &message::RequestConditions| of.conditions.iter().map(expression).collect::<Result<_>>();
    Ok(match message.condition.as_ref().ok_or("a condition is empty")? {
        Condition::Request(request) if request.client.is_some() => {
            return Err("a condition within others is about the client".to_owned());
        }
        Condition::Request(request) => Expression::Request(Box::new(http_match(request)?)),
        Condition::All(conditions) => Expression::All(all(conditions)?),
        Condition::Any(conditions) => Expression::Any(all(conditions)?),
        Condition::Not(condition) => Expression::Not(Box::new(expression(condition)?)),
    })
}

fn condition<N>(message: &message::FieldMatch, name: N) -> Result<Condition<N>> {
    let value = message.value.as_ref().map(string).transpose()?.unwrap_or(StringMatch::Present);
    Ok(Condition { name, value, invert: message.invert })
}

pub(super) fn string(message: &message::StringMatch) -> Result<StringMatch> {
    use message::string_match::Pattern;
    let ignore_case = message.ignore_case;
    Ok(match message.pattern.as_ref().ok_or("a pattern is empty")? {
        Pattern::Exact(exact) if ignore_case => StringMatch::ExactIgnoreCase(exact.as_str().into()),
        Pattern::Exact(exact) => StringMatch::Exact(exact.as_str().into()),
        Pattern::Prefix(prefix) if ignore_case => StringMatch::PrefixIgnoreCase(prefix.as_str().into()),
        Pattern::Prefix(prefix) => StringMatch::Prefix(prefix.as_str().into()),
        Pattern::PathPrefix(prefix) => StringMatch::PathPrefix(prefix.trim_end_matches('/').into()),
        Pattern::Regex(pattern) => StringMatch::Regex(Regex::whole(pattern).map_err(|error| error.to_string())?),
        Pattern::Present(_) => StringMatch::Present,
    })
}

fn forward(message: &message::Forward, tokens: Option<&Arc<RetryTokens>>) -> Result<Forward> {
    let rewrite = message.rewrite.as_ref().map(rewrite).transpose()?.unwrap_or_default();
    let mirror = |mirror: &message::Mirror| {
        let destination = mirror.destination.as_ref().ok_or("a mirror has no destination")?;
        Ok(Mirror { destination: self::destination(destination)?, share: mirror.share })
    };
    let retries = message.retries.as_ref().map(|of| retries(of, tokens)).transpose()?;
    let (timeout, attempt) = (millis(message.timeout_ms), retries.as_ref().and_then(|of| of.per_try_timeout));
    let announced = timeout.into_iter().chain(attempt).min();
    Ok(Forward {
        destinations: destinations(&message.destinations)?,
        timeout,
        announced_timeout: announced.map(headers::millis),
        retries,
        rewrite,
        mirrors: message.mirrors.iter().map(mirror).collect::<Result<_>>()?,
    })
}

fn retries(message: &message::Retries, tokens: Option<&Arc<RetryTokens>>) -> Result<Retries> {
    let default = Retries::default();
    let on = if message.retry_on.is_empty() {
        default.on
    } else {
        RetryOn::parse(message.retry_on.iter().map(String::as_str)).map_err(|error| error.to_string())?
    };
    let tokens = tokens.filter(|_| message.budgeted).cloned();
    // Without a budget, nothing can be taken from it.
    let attempts = if message.budgeted && tokens.is_none() { 0 } else { message.attempts };
    Ok(Retries {
        attempts,
        per_try_timeout: millis(message.per_try_timeout_ms),
        on,
        idempotent: message.retry_on.is_empty(),
        base_interval: millis(message.backoff_ms).unwrap_or(default.base_interval),
        same_hosts: message.same_hosts,
        remote_localities: message.remote_localities,
        tokens,
    })
}

fn rewrite(message: &message::Rewrite) -> Result<Rewrite> {
    use message::rewrite::Path;
    let path = match &message.path {
        None => None,
        Some(Path::Uri(uri)) => Some(RewritePath::Matched(uri.as_str().into())),
        Some(Path::FullPath(path)) => Some(RewritePath::Full(path.as_str().into())),
        Some(Path::Regex(regex)) => {
            let pattern = Regex::anywhere(&regex.pattern).map_err(|error| error.to_string())?;
            Some(RewritePath::Regex(pattern, regex.substitution.as_str().into()))
        }
    };
    Ok(Rewrite { path, authority: text(&message.authority) })
}

fn redirect(message: &message::Redirect) -> Result<Redirect> {
    use message::redirect::ToPort;
    let path = match (text(&message.uri), text(&message.prefix_rewrite)) {
        (Some(uri), _) => Some(RedirectPath::Full(uri)),
        (None, Some(prefix)) => Some(RedirectPath::Prefix(prefix)),
        (None, None) => None,
    };
    let port = match message.to_port {
        None => None,
        Some(ToPort::Port(port)) => Some(RedirectPort::Number(port_number(port)?)),
        Some(ToPort::PortFromProtocol(_)) => Some(RedirectPort::OfScheme),
        Some(ToPort::PortFromRequest(_)) => Some(RedirectPort::OfRequest),
    };
    let code = if message.code == 0 { 301 } else { message.code };
    Ok(Redirect {
        path,
        authority: text(&message.authority),
        scheme: text(&message.scheme),
        port,
        status: status(code)?,
    })
}

fn cors(message: &message::Cors) -> Result<Cors> {
    let list = |values: &[String]| -> Result<Option<HeaderValue>> {
        let joined = values.join(",");
        let value = HeaderValue::from_str(&joined).map_err(|_| format!("{joined:?} is no header value"))?;
        Ok((!values.is_empty()).then_some(value))
    };
    Ok(Cors {
        allow_origins: message.allow_origins.iter().map(string).collect::<Result<_>>()?,
        allow_methods: list(&message.allow_methods)?,
        allow_headers: list(&message.allow_headers)?,
        expose_headers: list(&message.expose_headers)?,
        max_age: message.max_age_s.map(HeaderValue::from),
        allow_credentials: message.allow_credentials.unwrap_or_default(),
        ignore_unmatched_preflights: message.ignore_unmatched_preflights,
    })
}

fn fault(message: &message::Fault) -> Result<Fault> {
    let delay = (message.delay_share > 0).then(|| (Duration::from_millis(message.delay_ms), message.delay_share));
    let abort = match (message.abort_share, message.abort_grpc_status) {
        (0, _) => None,
        (share, Some(status)) => {
            let status = u16::try_from(status).map_err(|_| format!("{status} is no gRPC status"))?;
            Some((Abort::Grpc(status), share))
        }
        (share, None) => Some((Abort::Http(status(message.abort_http_status)?), share)),
    };
    Ok(Fault { delay, abort })
}

fn destinations(message: &[message::RouteDestination]) -> Result<Box<[Destination]>> {
    message.iter().map(destination).collect()
}

fn destination(message: &message::RouteDestination) -> Result<Destination> {
    if message.host.is_empty() {
        return Err("a destination has no host".to_owned());
    }
    Ok(Destination {
        host: message.host.as_str().into(),
        port: optional_port(message.port)?,
        subset: message.subset.as_str().into(),
        weight: message.weight,
        request_headers: edits(message.request_headers.as_ref())?,
        response_headers: edits(message.response_headers.as_ref())?,
    })
}

/// Converts changes of headers. `:authority` is part of a route's rewrite; other names with a colon are no headers.
fn edits(message: Option<&message::HeaderEdits>) -> Result<HeaderEdits> {
    let Some(message) = message else { return Ok(HeaderEdits::default()) };
    let parse = |edits: &[message::HeaderEdit]| -> Result<Box<[HeaderEdit]>> {
        edits.iter().map(|of| HeaderEdit::parse(&of.name, &of.value).map_err(|error| error.to_string())).collect()
    };
    Ok(HeaderEdits {
        remove: message.remove.iter().map(|name| header_name(name)).collect::<Result<_>>()?,
        set: parse(&message.set)?,
        add: parse(&message.add)?,
    })
}

fn tls_match(message: &message::TlsMatch) -> Result<TlsMatch> {
    let rest = TcpMatch {
        destination_subnets: subnets(&message.destination_subnets)?,
        source_subnet: None,
        port: optional_port(message.port)?,
    };
    Ok(TlsMatch { server_names: message.server_names.iter().map(|name| ServerName::parse(name)).collect(), rest })
}

fn tcp_match(message: &message::TcpMatch) -> Result<TcpMatch> {
    let source = (!message.source_subnet.is_empty()).then(|| subnet(&message.source_subnet)).transpose()?;
    Ok(TcpMatch {
        destination_subnets: subnets(&message.destination_subnets)?,
        source_subnet: source,
        port: optional_port(message.port)?,
    })
}

fn subnets(message: &[String]) -> Result<Box<[IpNet]>> {
    message.iter().map(|text| subnet(text)).collect()
}

/// Parses a subnet, or an address.
fn subnet(text: &str) -> Result<IpNet> {
    let parsed = text.parse().or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from));
    parsed.map_err(|_| format!("{text:?} is neither a subnet nor an address"))
}

fn header_name(name: &str) -> Result<HeaderName> {
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("{name:?} is no header name"))
}

fn status(code: u32) -> Result<StatusCode> {
    let status = u16::try_from(code).ok().and_then(|code| StatusCode::from_u16(code).ok());
    status.filter(|status| status.as_u16() >= 200).ok_or_else(|| format!("{code} is no status of a response"))
}

fn optional_port(number: u32) -> Result<Option<u16>> {
    (number != 0).then(|| port_number(number)).transpose()
}

fn text(value: &str) -> Option<Box<str>> {
    (!value.is_empty()).then(|| value.into())
}

fn millis(millis: u64) -> Option<Duration> {
    (millis > 0).then(|| Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(namespace: &str, labels: &[(&str, &str)]) -> Client {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Client { namespace: namespace.into(), labels }
    }

    fn condition_on(namespace: &str, labels: &[(&str, &str)]) -> message::ClientMatch {
        let of = client(namespace, labels);
        message::ClientMatch { namespace: of.namespace.to_string(), labels: of.labels }
    }

    fn respond(name: &str, clients: Vec<message::ClientMatch>) -> message::HttpRoute {
        let matches = clients.into_iter().map(|of| message::HttpMatch { client: Some(of), ..Default::default() });
        let response = message::DirectResponse { status: 200, body: Default::default() };
        message::HttpRoute {
            name: name.to_owned(),
            matches: matches.collect(),
            action: Some(message::http_route::Action::DirectResponse(response)),
            ..Default::default()
        }
    }

    #[test]
    fn routes_for_other_clients_are_left_out() {
        let table = message::RouteTable {
            http: vec![
                respond("labels", vec![condition_on("", &[("app", "a")])]),
                respond("namespace", vec![condition_on("bank", &[]), condition_on("", &[("app", "b")])]),
                respond("all", vec![]),
            ],
            ..Default::default()
        };
        let names = |client: &Client| -> Vec<String> {
            let table = routes(&table, client).unwrap();
            table.http_routes().iter().map(|route| format!("{} {}", route.name, route.matches.len())).collect()
        };
        assert_eq!(names(&client("shop", &[("app", "a"), ("x", "y")])), ["labels 1", "all 0"]);
        assert_eq!(names(&client("bank", &[("app", "b")])), ["namespace 2", "all 0"]);
        assert_eq!(names(&client("shop", &[])), ["all 0"]);
        let only = message::RouteTable { http: table.http[..1].to_vec(), ..Default::default() };
        assert!(!routes(&only, &client("shop", &[])).unwrap().has_http(80), "requests go to the host itself");
    }

    #[test]
    fn invalid_messages_are_refused_with_the_route() {
        let mut route = respond("broken", vec![]);
        route.action = Some(message::http_route::Action::DirectResponse(message::DirectResponse {
            status: 99,
            ..Default::default()
        }));
        let table = message::RouteTable { http: vec![route], ..Default::default() };
        assert_eq!(routes(&table, &Client::default()).unwrap_err(), r#"route "broken": 99 is no status of a response"#);
    }
}
