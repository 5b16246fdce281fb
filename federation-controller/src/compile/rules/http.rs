//! Routes of requests.

use api::networking::http_route::{self, CorsPolicy, FaultInjection, HeaderOperations, UnmatchedPreflights};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use telemetry::access_log::Template;
use wire::discovery::http_route::Action;
use wire::discovery::string_match::Pattern;
use wire::discovery::{
    Cors, DirectResponse, Fault, HeaderEdit, HeaderEdits, HttpRoute, Redirect, StringMatch, redirect,
};

use super::delegate::Route;
use super::forward::Place;
use super::{Host, forward, matches};
use crate::objects::Kind;

/// Parts in a million of one percent.
const PERCENT: f64 = 10_000.0;

/// Compiles a route. Returns `None` if the proxies have no use for it.
pub(super) fn route(host: &mut Host<'_>, of: &Route<'_>) -> Option<HttpRoute> {
    let route = &*of.route;
    let conditions: Vec<_> = {
        let matches = route.matches.iter();
        matches.filter_map(|matched| matches::http(matched, host.proxies, of.namespace)).collect()
    };
    if conditions.is_empty() && !route.matches.is_empty() {
        return None;
    }
    let action = match (&route.redirect, &route.direct_response) {
        (Some(to), _) => Action::Redirect(redirect(to)),
        (None, Some(response)) => Action::DirectResponse(direct_response(response)),
        (None, None) => Action::Forward(forward::forward(host, of)?),
    };
    let place = Place { owner: &of.owner, path: &of.path, namespace: of.namespace, opaque: false };
    let headers = route.headers.as_ref();
    Some(HttpRoute {
        name: route.name.clone(),
        matches: conditions,
        action: Some(action),
        request_headers: host.edits(&place, headers.and_then(|of| of.request.as_ref())),
        response_headers: host.edits(&place, headers.and_then(|of| of.response.as_ref())),
        cors: route.cors_policy.as_ref().map(cors),
        fault: route.fault.as_ref().map(fault),
        response_classes: None,
    })
}

/// Returns whether a route matches every request of every client: the routes after it have no effect.
pub(super) fn matches_all(route: &HttpRoute) -> bool {
    route.matches.is_empty() || route.matches.iter().any(matches::is_any)
}

/// Returns parts in a million.
pub(super) fn share(percent: f64) -> u32 {
    // Within the range of the type, and 0 for no number.
    (percent.clamp(0.0, 100.0) * PERCENT).round() as u32
}

/// Returns milliseconds.
pub(super) fn ms(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Host<'_> {
    /// Compiles changes of headers. The authority is left out, which is rewritten ([`authority`]), and what proxies would
    /// refuse the whole table for: names that no header has, and values with an operator that proxies do not have.
    pub(super) fn edits(&mut self, place: &Place<'_>, of: Option<&HeaderOperations>) -> Option<HeaderEdits> {
        let of = of?;
        let is_header = |name: &String| !is_authority(name) && http::HeaderName::from_bytes(name.as_bytes()).is_ok();
        let mut edits = HeaderEdits {
            remove: of.remove.iter().filter(|name| is_header(name)).map(|name| name.to_ascii_lowercase()).collect(),
            ..HeaderEdits::default()
        };
        for (changes, to) in [(&of.set, &mut edits.set), (&of.add, &mut edits.add)] {
            for (name, value) in changes.iter().filter(|(name, _)| is_header(name)) {
                match Template::parse(value) {
                    Err(error) if value.contains('%') => {
                        let text = format!("{}: the value of header {name} has no effect: {error}", place.path);
                        self.note(Kind::VirtualService, place.owner, "IST0133", text);
                    }
                    _ => to.push(HeaderEdit { name: name.to_ascii_lowercase(), value: value.clone() }),
                }
            }
        }
        (edits != HeaderEdits::default()).then_some(edits)
    }
}

/// Returns the authority that changes of headers set.
pub(super) fn authority(of: Option<&HeaderOperations>) -> Option<&str> {
    let of = of?;
    let mut set = of.set.iter().chain(&of.add).filter(|(name, _)| is_authority(name));
    set.next().map(|(_, value)| value.as_str())
}

fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case(":authority")
}

fn redirect(of: &http_route::HttpRedirect) -> Redirect {
    let to_port = of.port.map(redirect::ToPort::Port).or(of.derive_port.map(|derived| match derived {
        http_route::DerivedPort::FromProtocolDefault => redirect::ToPort::PortFromProtocol(true),
        http_route::DerivedPort::FromRequestPort => redirect::ToPort::PortFromRequest(true),
    }));
    Redirect {
        uri: of.uri.clone(),
        prefix_rewrite: of.prefix_rewrite.clone(),
        authority: of.authority.clone(),
        scheme: of.scheme.clone(),
        to_port,
        code: if of.redirect_code == 0 { 301 } else { of.redirect_code },
    }
}

fn direct_response(of: &http_route::DirectResponse) -> DirectResponse {
    let body = of.body.as_ref();
    let text = || body.and_then(|body| body.string.clone()).map(String::into_bytes);
    let bytes = body.and_then(|body| body.bytes.as_ref()).and_then(|bytes| STANDARD.decode(bytes).ok());
    DirectResponse { status: of.status, body: bytes.or_else(text).unwrap_or_default().into() }
}

fn cors(of: &CorsPolicy) -> Cors {
    let deprecated = of.allow_origin.iter().filter(|_| of.allow_origins.is_empty());
    let exact = |text: &String| StringMatch { pattern: Some(Pattern::Exact(text.clone())), ignore_case: false };
    let origins = of.allow_origins.iter().map(matches::string).chain(deprecated.map(exact));
    // Envoy allows every origin if a pattern matches `*`.
    let any = |origin: StringMatch| match &origin.pattern {
        Some(Pattern::Exact(text) | Pattern::Prefix(text)) if text == "*" => {
            StringMatch { pattern: Some(Pattern::Present(true)), ignore_case: false }
        }
        _ => origin,
    };
    Cors {
        allow_origins: origins.map(any).collect(),
        allow_methods: of.allow_methods.clone(),
        allow_headers: of.allow_headers.clone(),
        expose_headers: of.expose_headers.clone(),
        max_age_s: of.max_age.map(|age| age.as_secs()),
        allow_credentials: of.allow_credentials,
        ignore_unmatched_preflights: of.unmatched_preflights == UnmatchedPreflights::Ignore,
    }
}

fn fault(of: &FaultInjection) -> Fault {
    let part = |percentage: Option<&http_route::Percent>, percent: i32| {
        share(percentage.map_or_else(|| f64::from(percent), |of| of.value))
    };
    let (delay, abort) = (of.delay.as_ref(), of.abort.as_ref());
    let grpc = abort.and_then(|abort| abort.grpc_status.as_deref()).and_then(grpc_status);
    let status = abort.and_then(|abort| abort.http_status).and_then(|status| u32::try_from(status).ok());
    Fault {
        delay_share: delay.map_or(0, |of| part(of.percentage.as_ref(), of.percent)),
        delay_ms: delay.and_then(|of| of.fixed_delay).map(ms).unwrap_or_default(),
        abort_share: abort.map_or(0, |of| part(of.percentage.as_ref(), of.percent)),
        abort_http_status: status.filter(|_| grpc.is_none()).unwrap_or_default(),
        abort_grpc_status: grpc,
    }
}

fn grpc_status(name: &str) -> Option<u32> {
    let known = http_route::GRPC_STATUSES.iter().position(|known| *known == name)?;
    u32::try_from(known).ok()
}
