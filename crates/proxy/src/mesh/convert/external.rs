//! Servers that policies ask, from the wire.

use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};
use policy::external::{CheckProtocol, CheckedBody, HeaderList, HttpCheck, Provider};
use wire::discovery as message;

use super::{Result, port_number};

/// The longest timeout: a day.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// Reads a provider.
pub(super) fn provider(message: &message::ExternalAuthorization) -> Result<Provider> {
    let status = match message.status_on_error {
        0 => StatusCode::FORBIDDEN.as_u16(),
        status => u16::try_from(status)
            .ok()
            .filter(|status| (200..600).contains(status))
            .ok_or_else(|| format!("{status} is no status"))?,
    };
    if message.hostname.is_empty() || message.timeout_ms == 0 {
        return Err("its provider has no hostname or no timeout".to_owned());
    }
    Ok(Provider {
        hostname: message.hostname.as_str().into(),
        port: port_number(message.port)?,
        timeout: Duration::from_millis(message.timeout_ms.into()).min(MAX_TIMEOUT),
        fail_open: message.fail_open,
        status_on_error: status,
        body: message.body.as_ref().map(body),
        protocol: match &message.http {
            None => CheckProtocol::Grpc,
            Some(message) => CheckProtocol::Http(http(message)?),
        },
    })
}

fn body(message: &message::CheckedBody) -> CheckedBody {
    CheckedBody {
        max: usize::try_from(message.max_bytes).unwrap_or(usize::MAX),
        allow_partial: message.allow_partial,
        as_bytes: message.pack_as_bytes,
    }
}

fn http(message: &message::HttpCheck) -> Result<HttpCheck> {
    let list = |texts: &[String]| HeaderList::parse(texts).map_err(|error| error.to_string());
    let added = |(name, value): (&String, &String)| {
        let valid = name.parse::<HeaderName>().is_ok() && HeaderValue::from_str(value).is_ok();
        valid.then(|| (name.as_str().into(), value.as_str().into())).ok_or_else(|| format!("{name:?} is no header"))
    };
    Ok(HttpCheck {
        path_prefix: message.path_prefix.as_str().into(),
        request: list(&message.request_headers)?,
        added: message.added_headers.iter().map(added).collect::<Result<_>>()?,
        upstream_on_allow: list(&message.upstream_on_allow)?,
        downstream_on_deny: list(&message.downstream_on_deny)?,
        downstream_on_allow: list(&message.downstream_on_allow)?,
    })
}
