//! `extensionProviders`: the servers that AuthorizationPolicies of action CUSTOM ask.
//!
//! Providers of other kinds have no effect, and a warning says so.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::MeshConfigError;
use super::fields::{AT_LEAST_1MS, SettingFields};
use crate::Warning;

/// The kinds of providers that are asked.
const HTTP: &str = "envoyExtAuthzHttp";
const GRPC: &str = "envoyExtAuthzGrpc";
/// How long an answer may take if no timeout is configured, as in Istio.
const TIMEOUT: Duration = Duration::from_secs(600);
/// The longest name (RFC 1123), which Istio requires.
const MAX_NAME: usize = 63;
/// The longest hostname.
const MAX_HOST: usize = 253;
/// The most headers in a list.
const MAX_HEADERS: usize = 100;
/// The longest value of an added header, and the longest prefix of a path.
const MAX_VALUE: usize = 4096;

/// A server that is asked by Envoy's `ext_authz` protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExternalAuthorization {
    /// `name`, to which policies refer.
    pub name: String,
    /// The hostname in `service`.
    pub hostname: String,
    /// The namespace in `service`; empty: any.
    pub namespace: String,
    /// `port`.
    pub port: u16,
    /// `timeout`.
    pub timeout: Duration,
    /// `failOpen`: what it cannot be asked about is allowed.
    pub fail_open: bool,
    /// `statusOnError`: the status of requests that it cannot be asked about.
    pub status_on_error: Option<u16>,
    /// `includeRequestBodyInCheck`.
    pub body: Option<CheckedBody>,
    /// The settings of `envoyExtAuthzHttp`; `None`: it speaks gRPC.
    pub http: Option<HttpCheck>,
}

/// How much of a request's body is sent along.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckedBody {
    /// `maxRequestBytes`.
    pub max_bytes: u32,
    /// `allowPartialMessage`: of longer bodies, the beginning is sent. Otherwise such requests are refused.
    pub allow_partial: bool,
    /// `packAsBytes`.
    pub pack_as_bytes: bool,
}

/// A check by a request of HTTP. The lists have names of headers, `<prefix>*` and `*<suffix>`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpCheck {
    /// `pathPrefix`.
    pub path_prefix: String,
    /// `includeRequestHeadersInCheck`, or the deprecated `includeHeadersInCheck`.
    pub request_headers: Vec<String>,
    /// `includeAdditionalHeadersInCheck`.
    pub added_headers: BTreeMap<String, String>,
    /// `headersToUpstreamOnAllow`.
    pub upstream_on_allow: Vec<String>,
    /// `headersToDownstreamOnDeny`.
    pub downstream_on_deny: Vec<String>,
    /// `headersToDownstreamOnAllow`.
    pub downstream_on_allow: Vec<String>,
}

impl SettingFields {
    /// Reads the providers that are asked.
    pub(super) fn external_authorizations(
        &mut self,
        name: &str,
        warnings: &mut Vec<Warning>,
    ) -> Result<Vec<ExternalAuthorization>, MeshConfigError> {
        const EXPECTED: &str = "a list of providers, each a map";
        let Some(value) = self.take(name) else { return Ok(Vec::new()) };
        let Value::Array(entries) = value else { return Err(self.wrong(name, &value, EXPECTED)) };
        let mut providers: Vec<ExternalAuthorization> = Vec::new();
        for (index, entry) in entries.into_iter().enumerate() {
            let field = format!("{name}[{index}]");
            let Value::Object(map) = entry else { return Err(self.wrong(&field, &entry, EXPECTED)) };
            let mut fields = SettingFields { path: format!("{}{field}.", self.path), map };
            let provider = provider(&mut fields, warnings)?;
            fields.warn_of_the_rest(warnings);
            let Some(provider) = provider else { continue };
            if providers.iter().any(|other| other.name == provider.name) {
                let message = format!("is {:?}, which another provider is called; rename one of them", provider.name);
                return Err(fields.invalid("name", message));
            }
            providers.push(provider);
        }
        Ok(providers)
    }

    fn warn_of_the_rest(&self, warnings: &mut Vec<Warning>) {
        let warning = |name| Warning::new(format!("{}{name}", self.path), "has no effect in Isthmus; it is ignored");
        warnings.extend(self.map.keys().map(warning));
    }

    fn invalid(&self, name: &str, message: String) -> MeshConfigError {
        MeshConfigError::Field { field: format!("{}{name}", self.path), message }
    }

    /// Reads a number; an absent one is 0.
    fn number(&mut self, name: &str, max: u32, expected: &'static str) -> Result<u32, MeshConfigError> {
        let value = self.take(name).unwrap_or_else(|| Value::from(0));
        match value.as_u64().and_then(|number| u32::try_from(number).ok()).filter(|number| (1..=max).contains(number)) {
            Some(number) => Ok(number),
            None => Err(self.wrong(name, &value, expected)),
        }
    }

    /// Reads a list of names of headers, `<prefix>*` and `*<suffix>`, in lower case.
    fn headers(&mut self, name: &str) -> Result<Vec<String>, MeshConfigError> {
        const EXPECTED: &str =
            "a list of at most 100 header names, each with or without a \"*\" at one end, such as [\"x-auth-*\"]";
        let Some(value) = self.take(name) else { return Ok(Vec::new()) };
        let texts = value.as_array().and_then(|of| of.iter().map(Value::as_str).collect::<Option<Vec<&str>>>());
        let literal = |text: &str| is_header(text.strip_prefix('*').or(text.strip_suffix('*')).unwrap_or(text));
        match texts.filter(|texts| texts.len() <= MAX_HEADERS && texts.iter().all(|text| literal(text))) {
            Some(texts) => Ok(texts.into_iter().map(str::to_ascii_lowercase).collect()),
            None => Err(self.wrong(name, &value, EXPECTED)),
        }
    }

    fn added_headers(&mut self, name: &str) -> Result<BTreeMap<String, String>, MeshConfigError> {
        const EXPECTED: &str = "a map of at most 100 header names to their values, which are text";
        let Some(value) = self.take(name) else { return Ok(BTreeMap::new()) };
        let added = |map: &Map<String, Value>| -> Option<BTreeMap<String, String>> {
            let one = |(name, value): (&String, &Value)| {
                let value =
                    value.as_str().filter(|value| value.len() <= MAX_VALUE && !value.contains(char::is_control));
                Some((name.to_ascii_lowercase(), value.filter(|_| is_header(name))?.to_owned()))
            };
            map.iter().map(one).collect()
        };
        match value.as_object().filter(|map| map.len() <= MAX_HEADERS).and_then(added) {
            Some(added) => Ok(added),
            None => Err(self.wrong(name, &value, EXPECTED)),
        }
    }

    fn checked_body(
        &mut self,
        name: &str,
        warnings: &mut Vec<Warning>,
    ) -> Result<Option<CheckedBody>, MeshConfigError> {
        if !self.map.contains_key(name) {
            return Ok(None);
        }
        let mut fields = self.inner(name)?;
        let body = CheckedBody {
            max_bytes: fields.number("maxRequestBytes", u32::MAX, "a number of bytes, at least 1")?,
            allow_partial: fields.boolean("allowPartialMessage")?.unwrap_or_default(),
            pack_as_bytes: fields.boolean("packAsBytes")?.unwrap_or_default(),
        };
        fields.warn_of_the_rest(warnings);
        Ok(Some(body))
    }
}

/// Reads a provider; `None` if it is of a kind that has no effect.
fn provider(
    fields: &mut SettingFields,
    warnings: &mut Vec<Warning>,
) -> Result<Option<ExternalAuthorization>, MeshConfigError> {
    let name = fields.text("name")?.unwrap_or_default();
    let kind = match (fields.map.contains_key(HTTP), fields.map.contains_key(GRPC)) {
        (true, true) => {
            return Err(fields.invalid(GRPC, format!("excludes {HTTP}; a provider has one of them")));
        }
        (true, false) => HTTP,
        (false, true) => GRPC,
        (false, false) => return Ok(None),
    };
    if !is_label(&name) {
        let message = format!(
            "is {:?}, but must be a name of lower-case letters, digits and dashes, with at most {MAX_NAME} of them",
            name.chars().take(80).collect::<String>()
        );
        return Err(fields.invalid("name", message));
    }
    let mut of = fields.inner(kind)?;
    let (namespace, hostname) = service(&mut of)?;
    let provider = ExternalAuthorization {
        name,
        hostname,
        namespace,
        // At most 65535.
        port: of.number("port", 65535, "a port from 1 to 65535")? as u16,
        timeout: of.duration("timeout", AT_LEAST_1MS)?.unwrap_or(TIMEOUT),
        fail_open: of.boolean("failOpen")?.unwrap_or_default(),
        status_on_error: status(&mut of, "statusOnError")?,
        body: of.checked_body("includeRequestBodyInCheck", warnings)?,
        http: if kind == HTTP { Some(http_check(&mut of)?) } else { None },
    };
    // Sidecars have no routes for what they receive.
    of.boolean("clearRouteCache")?;
    of.warn_of_the_rest(warnings);
    Ok(Some(provider))
}

fn http_check(of: &mut SettingFields) -> Result<HttpCheck, MeshConfigError> {
    let (present, deprecated) = (of.headers("includeRequestHeadersInCheck")?, of.headers("includeHeadersInCheck")?);
    Ok(HttpCheck {
        path_prefix: path_prefix(of, "pathPrefix")?,
        request_headers: if present.is_empty() { deprecated } else { present },
        added_headers: of.added_headers("includeAdditionalHeadersInCheck")?,
        upstream_on_allow: of.headers("headersToUpstreamOnAllow")?,
        downstream_on_deny: of.headers("headersToDownstreamOnDeny")?,
        downstream_on_allow: of.headers("headersToDownstreamOnAllow")?,
    })
}

/// Reads `[<namespace>/]<hostname>`.
fn service(of: &mut SettingFields) -> Result<(String, String), MeshConfigError> {
    const EXPECTED: &str = "a hostname, with or without a namespace, such as \"auth.shop.svc.cluster.local\"";
    let text = of.text("service")?.unwrap_or_default();
    let (namespace, hostname) = text.split_once('/').unwrap_or(("", &text));
    let valid = hostname.len() <= MAX_HOST && hostname.split('.').all(is_label);
    match valid && (namespace.is_empty() != text.contains('/')) && (namespace.is_empty() || is_label(namespace)) {
        true => Ok((namespace.to_owned(), hostname.to_owned())),
        false => Err(of.wrong("service", &Value::from(text.as_str()), EXPECTED)),
    }
}

fn path_prefix(of: &mut SettingFields, name: &str) -> Result<String, MeshConfigError> {
    const EXPECTED: &str = "a path that begins with \"/\", without query and spaces";
    let text = of.text(name)?.unwrap_or_default();
    let in_path = |byte: u8| byte.is_ascii_graphic() && !b"?#\"<>\\^`{|}".contains(&byte);
    let valid = text.is_empty() || (text.starts_with('/') && text.len() <= MAX_VALUE && text.bytes().all(in_path));
    match valid {
        true => Ok(text),
        false => Err(of.wrong(name, &Value::from(text.as_str()), EXPECTED)),
    }
}

/// Reads a status that Envoy has a name for.
fn status(of: &mut SettingFields, name: &str) -> Result<Option<u16>, MeshConfigError> {
    const EXPECTED: &str = "a status of HTTP as text, such as \"503\"";
    let Some(text) = of.text(name)?.filter(|text| !text.is_empty()) else { return Ok(None) };
    match text.parse::<u16>().ok().filter(|status| is_status(*status)) {
        Some(status) => Ok(Some(status)),
        None => Err(of.wrong(name, &Value::from(text.as_str()), EXPECTED)),
    }
}

/// Returns whether a number is a final status that Envoy has a name for.
fn is_status(status: u16) -> bool {
    matches!(status, 200..=208 | 226 | 300..=305 | 307 | 308 | 400..=417 | 421..=424 | 426 | 428 | 429 | 431)
        || matches!(status, 500..=508 | 510 | 511)
}

fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty()
        && text.len() <= MAX_NAME
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Returns whether a text is the name of a header, or a part of one (RFC 9110 §5.1).
fn is_header(text: &str) -> bool {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'+-.^_`|~".contains(&byte);
    !text.is_empty() && text.len() <= 256 && text.bytes().all(token)
}

#[cfg(test)]
mod tests;
