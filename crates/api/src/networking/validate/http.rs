//! Routes of requests.

use super::{Check, effects, envoy, header_value, layer4, matches, names};
use crate::networking::http_match::HttpMatch;
use crate::networking::http_route::{
    DirectResponse, HeaderOperations, Headers, HttpRedirect, HttpRetry, HttpRewrite, HttpRoute,
};
use crate::networking::virtual_service::VirtualServiceSpec;

/// Body sizes of fixed responses: from the first a warning, beyond the second refused.
const LARGE_BODY: usize = 100 << 10;
const MAX_BODY: usize = 1 << 20;
/// The conditions of retries that Envoy has.
const RETRY_ON: &[&str] = &[
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "envoy-ratelimited",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];

pub(super) fn check(route: &HttpRoute, spec: &VirtualServiceSpec, check: &mut Check) {
    action(route, spec, check);
    check.each("match", &route.matches, |matched, check| {
        if spec.applies_to_mesh() {
            claims(matched, check);
        }
        matches::check(matched, check);
    });
    check.some("headers", &route.headers, headers);
    check.each("route", &route.route, |to, check| {
        layer4::required(&to.destination, check);
        layer4::weight(to.weight, check);
        check.some("headers", &to.headers, headers);
    });
    layer4::total(route.route.iter().map(|to| to.weight), check);
    check.some("redirect", &route.redirect, redirect);
    check.some("directResponse", &route.direct_response, direct_response);
    check.some("rewrite", &route.rewrite, rewrite);
    authority(route, check);
    check.duration("timeout", route.timeout);
    check.some("retries", &route.retries, retries);
    check.some("fault", &route.fault, effects::fault);
    effects::mirrors(route, check);
    check.some("corsPolicy", &route.cors_policy, effects::cors);
}

/// Checks that a route does one thing: it sends, redirects, answers or delegates.
fn action(route: &HttpRoute, spec: &VirtualServiceSpec, check: &mut Check) {
    let actions = [
        ("delegate", route.delegate.is_some()),
        ("route", !route.route.is_empty()),
        ("redirect", route.redirect.is_some()),
        ("directResponse", route.direct_response.is_some()),
    ];
    check.one_of(&actions);
    let set = actions.iter().find(|(_, set)| *set).map(|(name, _)| *name);
    match set {
        None => check.error("does nothing; write route, redirect, directResponse or delegate"),
        Some("delegate") if spec.is_delegate() => {
            check.error_of("delegate", "is set in a delegate (a VirtualService without hosts); one level is possible");
        }
        Some(action @ ("redirect" | "directResponse")) => {
            for (field, set) in [("fault", route.fault.is_some()), ("rewrite", route.rewrite.is_some())] {
                if set {
                    check.error_of(field, format!("has no effect beside {action}; remove it"));
                }
            }
        }
        Some(_) => {}
    }
    if route.delegate.as_ref().is_some_and(|delegate| delegate.name.is_empty()) {
        check.warn_of("delegate.name", "is missing, so no VirtualService has the routes; name it");
    }
}

/// Refuses matches of claims in sidecars, which do not read tokens for routing.
fn claims(matched: &HttpMatch, check: &mut Check) {
    for (field, headers) in [("headers", &matched.headers), ("withoutHeaders", &matched.without_headers)] {
        for name in headers.keys().filter(|name| names::is_claim(name)) {
            let message = "is a claim of a token, by which gateways alone route; set gateways without \"mesh\"";
            check.at(format_args!(".{field}[{}]", names::shown(name)), |check| check.error(message));
        }
    }
}

fn headers(headers: &Headers, check: &mut Check) {
    check.some("request", &headers.request, |operations, check| operations_of(operations, true, check));
    check.some("response", &headers.response, |operations, check| operations_of(operations, false, check));
}

fn operations_of(operations: &HeaderOperations, request: bool, check: &mut Check) {
    for (field, changes) in [("set", &operations.set), ("add", &operations.add)] {
        for (name, value) in changes {
            check.at(format_args!(".{field}[{}]", names::shown(name)), |check| {
                check.accept(changeable(name, request));
                check.accept(header_value::check(value));
                envoy::changed_name(name, check);
                envoy::changed_value(value, check);
            });
        }
        envoy::changes(field, changes.len(), check);
    }
    check.each("remove", &operations.remove, |name, check| {
        check.accept(changeable(name, false));
        envoy::changed_name(name, check);
    });
}

/// Checks the name of a header that is changed. `host` says whether it may be the authority of a request.
fn changeable(name: &str, host: bool) -> Result<(), String> {
    if name.is_empty() {
        return Err("has an empty name; write the name of a header".to_owned());
    }
    match (name.starts_with(':') || name.eq_ignore_ascii_case("host"), host && is_authority(name)) {
        (true, false) => Err(format!("is {:?}, which cannot be changed here; remove it", names::shown(name))),
        _ => Ok(()),
    }
}

fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case(":authority")
}

/// Checks that one place alone rewrites the authority.
fn authority(route: &HttpRoute, check: &mut Check) {
    let rewrite = route.rewrite.as_ref().is_some_and(|rewrite| !rewrite.authority.is_empty());
    let mut places: Vec<String> = rewrite.then(|| "rewrite.authority".to_owned()).into_iter().collect();
    if let Some(operations) = route.headers.as_ref().and_then(|headers| headers.request.as_ref()) {
        for (field, changes) in [("set", &operations.set), ("add", &operations.add)] {
            let names = changes.keys().filter(|name| is_authority(name));
            places.extend(names.map(|name| format!("headers.request.{field}[{name}]")));
        }
    }
    for place in places.iter().skip(1) {
        check.error_of(place, format!("sets the authority, as {} does; keep one", places[0]));
    }
}

fn redirect(redirect: &HttpRedirect, check: &mut Check) {
    check.one_of(&[("uri", !redirect.uri.is_empty()), ("prefixRewrite", !redirect.prefix_rewrite.is_empty())]);
    check.one_of(&[("port", redirect.port.is_some()), ("derivePort", redirect.derive_port.is_some())]);
    let port = redirect.port.is_some() || redirect.derive_port.is_some();
    let texts = [&redirect.uri, &redirect.prefix_rewrite, &redirect.authority, &redirect.scheme];
    if texts.iter().all(|text| text.is_empty()) && !port {
        check.error("changes nothing; write uri, authority, scheme, port or derivePort");
    }
    if redirect.redirect_code != 0 && !(300..=399).contains(&redirect.redirect_code) {
        check.error_of("redirectCode", format!("is {}, but must be from 300 to 399", redirect.redirect_code));
    }
    envoy::redirect_code(redirect.redirect_code, check);
    if !matches!(redirect.scheme.as_str(), "" | "http" | "https") {
        check.error_of("scheme", format!("is {:?}, but must be http or https", names::shown(&redirect.scheme)));
    }
    if let Some(port) = redirect.port {
        check.port("port", port);
    }
}

fn direct_response(response: &DirectResponse, check: &mut Check) {
    status("status", i64::from(response.status), check);
    check.some("body", &response.body, |body, check| {
        check.one_of(&[("string", body.string.is_some()), ("bytes", body.bytes.is_some())]);
        // Four characters of base64 are three bytes.
        let size = match (&body.string, &body.bytes) {
            (Some(text), _) => text.len(),
            (None, Some(text)) => text.len() / 4 * 3,
            (None, None) => 0,
        };
        if size > MAX_BODY {
            check.error(format!("has {size} bytes, but may have at most {MAX_BODY}; serve it from an application"));
        } else if size > LARGE_BODY {
            check.warn(format!("has {size} bytes, which every proxy receives; serve it from an application"));
        }
        if body.bytes.as_ref().is_some_and(|text| {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD.decode(text).is_err()
        }) {
            check.error_of("bytes", "is not base64; encode it, or write string");
        }
    });
}

/// Checks a status.
pub(super) fn status(field: &str, status: i64, check: &mut Check) {
    if !(200..=599).contains(&status) {
        check.error_of(field, format!("is {status}, but must be a status from 200 to 599"));
    }
}

fn rewrite(rewrite: &HttpRewrite, check: &mut Check) {
    check.one_of(&[("uri", !rewrite.uri.is_empty()), ("uriRegexRewrite", rewrite.uri_regex_rewrite.is_some())]);
    if rewrite.uri.is_empty() && rewrite.authority.is_empty() && rewrite.uri_regex_rewrite.is_none() {
        check.error("rewrites nothing; write uri, uriRegexRewrite or authority");
    }
    check.some("uriRegexRewrite", &rewrite.uri_regex_rewrite, |by, check| {
        if by.pattern.is_empty() || by.rewrite.is_empty() {
            check.error("needs both match and rewrite");
        } else {
            check.at(format_args!(".match"), |check| matches::regex(&by.pattern, check));
        }
    });
}

fn retries(retries: &HttpRetry, check: &mut Check) {
    let other =
        retries.per_try_timeout.is_some() || !retries.retry_on.is_empty() || retries.retry_remote_localities.is_some();
    if retries.attempts < 0 {
        check.error_of("attempts", format!("is {}; write 0 for no retries, or more", retries.attempts));
    } else if retries.attempts == 0 && other {
        check.error_of("attempts", "is 0, which disables retries, but others of their fields are set; write 1 or more");
    }
    check.duration("perTryTimeout", retries.per_try_timeout);
    check.duration("backoff", retries.backoff);
    if retries.retry_on.is_empty() {
        return;
    }
    for name in retries.retry_on.split(',') {
        let status = name.parse::<u16>().is_ok_and(|status| (100..=599).contains(&status));
        if !status && !RETRY_ON.contains(&name) {
            let known = RETRY_ON.join(", ");
            let hint = if name.trim() == name {
                format!("write a status or one of {known}")
            } else {
                "remove the space".to_owned()
            };
            check
                .error_of("retryOn", format!("has {:?}, which is no condition of retries; {hint}", names::shown(name)));
        }
    }
}
