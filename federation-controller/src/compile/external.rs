//! The server that a policy of action CUSTOM asks, as a message for proxies.

use api::mesh::{CheckedBody, ExternalAuthorization, HttpCheck};
use wire::discovery as message;

/// Compiles a provider of the mesh settings.
pub(super) fn compile(provider: &ExternalAuthorization) -> message::ExternalAuthorization {
    message::ExternalAuthorization {
        hostname: provider.hostname.clone(),
        port: provider.port.into(),
        // At most a day, which fits.
        timeout_ms: u32::try_from(provider.timeout.as_millis()).unwrap_or(u32::MAX),
        fail_open: provider.fail_open,
        status_on_error: provider.status_on_error.unwrap_or_default().into(),
        body: provider.body.as_ref().map(body),
        http: provider.http.as_ref().map(http),
    }
}

fn body(of: &CheckedBody) -> message::CheckedBody {
    let &CheckedBody { max_bytes, allow_partial, pack_as_bytes } = of;
    message::CheckedBody { max_bytes, allow_partial, pack_as_bytes }
}

fn http(of: &HttpCheck) -> message::HttpCheck {
    message::HttpCheck {
        path_prefix: of.path_prefix.clone(),
        request_headers: of.request_headers.clone(),
        added_headers: of.added_headers.clone(),
        upstream_on_allow: of.upstream_on_allow.clone(),
        downstream_on_deny: of.downstream_on_deny.clone(),
        downstream_on_allow: of.downstream_on_allow.clone(),
    }
}
