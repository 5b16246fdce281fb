//! Values that Istio's validation accepts and Envoy, or a proxy of Isthmus, does not: their authors are warned. Envoy refuses
//! them together with all routes of a port, or with the whole cluster.
//!
//! Source: the constraints of Envoy's API (`route_components.proto`, `base.proto`, `tls.proto`), and what istiod makes of the
//! objects.

use super::{Check, names, virtual_service};

/// The codes that Envoy redirects with.
const REDIRECTS: [u32; 6] = [0, 301, 302, 303, 307, 308];
/// The most bytes of the value of a header that Envoy sets.
const MAX_VALUE: usize = 16_384;
/// The most headers that Envoy sets in one place.
const MAX_CHANGES: usize = 1000;
/// The most bytes of a server name that Envoy sends.
const MAX_SERVER_NAME: usize = 255;

/// Warns of a code of redirections.
pub(super) fn redirect_code(code: u32, check: &mut Check) {
    if (300..=399).contains(&code) && !REDIRECTS.contains(&code) {
        let message = format!("is {code}, which takes effect here, but Envoy refuses; use 301, 302, 303, 307 or 308");
        check.warn_of("redirectCode", message);
    }
}

/// Warns of weights whose total is too large.
pub(super) fn total_weight(total: i64, check: &mut Check) {
    if total > i64::from(u32::MAX) {
        let message =
            format!("has destinations of weight {total} in all, which Envoy refuses; write at most {}", u32::MAX);
        check.warn_of("route", message);
    }
}

/// Warns of the name of a header that is changed.
pub(super) fn changed_name(name: &str, check: &mut Check) {
    if !name.is_empty() && !name.starts_with(':') && !names::is_token(name) {
        check.warn("is not the name of a header, and has no effect; correct it");
    }
}

/// Warns of the value of a header that is changed.
pub(super) fn changed_value(value: &str, check: &mut Check) {
    if value.len() > MAX_VALUE {
        check.warn(format!("has a value of {} bytes, but Envoy refuses more than {MAX_VALUE}", value.len()));
    }
}

/// Warns of too many changes of headers.
pub(super) fn changes(field: &str, number: usize, check: &mut Check) {
    if number > MAX_CHANGES {
        check.warn_of(field, format!("has {number} headers, but Envoy refuses more than {MAX_CHANGES}"));
    }
}

/// Warns of a hash key that no request has.
pub(super) fn hash_key(field: &str, name: &Option<String>, is_header: bool, check: &mut Check) {
    let Some(name) = name else { return };
    if name.is_empty() {
        check.warn_of(field, "is empty, so endpoints are picked at random; name the header or parameter");
    } else if is_header && !names::is_token(name) {
        check.warn_of(field, "is not the name of a header, so endpoints are picked at random; correct it");
    }
}

/// Returns whether a server name is one by which gateways of a mesh know a service. Its labels have underscores.
fn is_of_mesh(name: &str) -> bool {
    name.starts_with("outbound_.") && virtual_service::of_gateway(name, true).is_ok()
}

/// Warns of a server name that cannot be sent.
pub(super) fn server_name(name: &str, check: &mut Check) {
    if name.len() > MAX_SERVER_NAME {
        check.warn_of("sni", format!("has {} bytes; connections fail with more than {MAX_SERVER_NAME}", name.len()));
    } else if !name.is_empty() && !is_of_mesh(name) && names::host(name).is_err() {
        check.warn_of("sni", "is not a server name, so connections fail; write the name of a host");
    }
}
