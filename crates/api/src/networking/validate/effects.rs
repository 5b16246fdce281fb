//! What routes do beside sending requests: faults, mirrors, CORS.

use super::{Check, http, layer4, matches, names};
use crate::networking::http_route::{CorsPolicy, FaultInjection, GRPC_STATUSES, HttpRoute, Percent};

/// The methods of HTTP.
const METHODS: &[&str] = &["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE"];

pub(super) fn fault(fault: &FaultInjection, check: &mut Check) {
    if fault.delay.is_none() && fault.abort.is_none() {
        check.error("injects nothing; write delay or abort");
    }
    check.some("delay", &fault.delay, |delay, check| {
        share("percentage", &delay.percentage, check);
        integer_share(delay.percent, check);
        check.duration("fixedDelay", delay.fixed_delay);
        if delay.exponential_delay.is_some() {
            check.error_of("exponentialDelay", "is not supported; use fixedDelay");
        }
        if delay.percentage.is_none() && delay.percent == 0 {
            check.warn_of("percentage", "is missing, so no request is delayed; write {value: 100} for all");
        }
    });
    check.some("abort", &fault.abort, |abort, check| {
        share("percentage", &abort.percentage, check);
        integer_share(abort.percent, check);
        check.one_of(&[("httpStatus", abort.http_status.is_some()), ("grpcStatus", abort.grpc_status.is_some())]);
        if let Some(number) = abort.http_status {
            http::status("httpStatus", i64::from(number), check);
        }
        if let Some(name) = &abort.grpc_status
            && !GRPC_STATUSES.contains(&name.as_str())
        {
            let statuses = GRPC_STATUSES.join(", ");
            check.error_of("grpcStatus", format!("is {:?}, but must be one of {statuses}", names::shown(name)));
        }
        if abort.http2_error.is_some() {
            check.error_of("http2Error", "is not supported; use httpStatus or grpcStatus");
        } else if abort.http_status.is_none() && abort.grpc_status.is_none() {
            check.warn("has no status, so nothing is injected; write httpStatus or grpcStatus");
        }
        if abort.percentage.is_none() && abort.percent == 0 {
            check.warn_of("percentage", "is missing, so no request is aborted; write {value: 100} for all");
        }
    });
}

/// Checks the share of a fault, of which proxies have a millionth.
fn share(field: &str, share: &Option<Percent>, check: &mut Check) {
    check.some(field, share, |share, check| {
        let valid = share.value == 0.0 || (0.0001..=100.0).contains(&share.value);
        if !valid {
            check.error_of("value", format!("is {}, but must be 0, or from 0.0001 to 100", share.value));
        }
    });
}

fn integer_share(percent: i32, check: &mut Check) {
    if percent != 0 {
        check.warn_of("percent", "is deprecated; use percentage.value");
    }
    if !(0..=100).contains(&percent) {
        check.error_of("percent", format!("is {percent}, but must be from 0 to 100"));
    }
}

pub(super) fn mirrors(route: &HttpRoute, check: &mut Check) {
    check.one_of(&[("mirror", route.mirror.is_some()), ("mirrors", !route.mirrors.is_empty())]);
    for (field, percent) in [("mirrorPercent", route.mirror_percent), ("mirror_percent", route.mirror_percent_snake)] {
        let Some(percent) = percent else { continue };
        check.warn_of(field, "is deprecated; use mirrorPercentage.value");
        if percent > 100 {
            check.error_of(field, format!("is {percent}, but must be from 0 to 100"));
        }
    }
    check.some("mirrorPercentage", &route.mirror_percentage, mirror_share);
    check.some("mirror", &route.mirror, layer4::destination);
    check.each("mirrors", &route.mirrors, |mirror, check| {
        layer4::required(&mirror.destination, check);
        check.some("percentage", &mirror.percentage, mirror_share);
    });
}

fn mirror_share(share: &Percent, check: &mut Check) {
    if !(0.0..=100.0).contains(&share.value) {
        check.error_of("value", format!("is {}, but must be from 0 to 100", share.value));
    }
}

pub(super) fn cors(policy: &CorsPolicy, check: &mut Check) {
    if !policy.allow_origin.is_empty() {
        check.warn_of("allowOrigin", "is deprecated; use allowOrigins, such as {exact: \"https://example.com\"}");
    }
    check.each("allowOrigins", &policy.allow_origins, |origin, check| {
        let texts = [&origin.exact, &origin.prefix, &origin.regex];
        if texts.iter().all(|text| text.as_deref().is_none_or(str::is_empty)) {
            check.error("matches no origin; write exact, prefix or regex with a text");
        } else {
            matches::text(origin, check, false);
        }
    });
    check.each("allowMethods", &policy.allow_methods, |method, check| {
        if !METHODS.contains(&method.as_str()) {
            check.error(format!("is {:?}, but must be one of {}", names::shown(method), METHODS.join(", ")));
        }
    });
    for (field, headers) in [("allowHeaders", &policy.allow_headers), ("exposeHeaders", &policy.expose_headers)] {
        check.each(field, headers, |name, check| {
            if name != "*" {
                check.accept(names::header(name));
            }
        });
    }
    check.duration("maxAge", policy.max_age);
    if policy.max_age.is_some_and(|age| age.subsec_nanos() != 0) {
        check.error_of("maxAge", "is not in whole seconds; round it");
    }
}
