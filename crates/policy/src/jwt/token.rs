//! Tokens in the compact serialisation of RFC 7515: three parts in base64url.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde_json::{Map, Value};

use super::json;
use super::keys::Algorithm;
use super::rejection::TokenRejection;

/// The length limit of a token. A request's headers are bounded as well; a token of this length has hundreds of groups.
pub const MAX_TOKEN_BYTES: usize = 32 * 1024;

/// The tolerated difference between the clocks of issuer and proxy, in seconds: Envoy's default, which Istio keeps.
const CLOCK_SKEW: u64 = 60;

/// A token that has been read. Nothing of it is true until its signature has been verified.
#[derive(Debug)]
pub(super) struct Token<'a> {
    /// What the signature is for.
    pub(super) signed: &'a [u8],
    /// The payload as it was encoded.
    pub(super) payload: &'a [u8],
    pub(super) algorithm: Algorithm,
    pub(super) key_id: Option<String>,
    pub(super) times: Times,
    pub(super) audiences: Vec<String>,
    pub(super) claims: Map<String, Value>,
    pub(super) signature: Vec<u8>,
}

/// When a token is valid, in seconds since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Times {
    /// `nbf`.
    pub(super) not_before: Option<u64>,
    /// `exp`.
    pub(super) expires: Option<u64>,
}

impl Times {
    /// Checks the times of a token that is used `now`.
    pub(super) fn check(&self, now: u64) -> Result<(), TokenRejection> {
        if self.not_before.is_some_and(|time| now.saturating_add(CLOCK_SKEW) < time) {
            return Err(TokenRejection::NotYetValid);
        }
        if self.expires.is_some_and(|time| now > time.saturating_add(CLOCK_SKEW)) {
            return Err(TokenRejection::Expired);
        }
        Ok(())
    }
}

impl<'a> Token<'a> {
    /// Reads a token, in the order of Envoy's checks.
    pub(super) fn parse(text: &'a [u8]) -> Result<Self, TokenRejection> {
        if text.len() > MAX_TOKEN_BYTES {
            return Err(TokenRejection::TooLong);
        }
        let mut parts = text.split(|byte| *byte == b'.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenRejection::Format);
        };
        if header.is_empty() || payload.is_empty() || signature.is_empty() {
            return Err(TokenRejection::Format);
        }
        let signed = &text[..header.len() + 1 + payload.len()];
        let (algorithm, key_id) = read_header(header)?;
        let claims = BASE64URL.decode(payload).map_err(|_| TokenRejection::PayloadEncoding)?;
        let claims = json::object(&claims).ok_or(TokenRejection::PayloadJson)?;
        text_or_none(&claims, "iss")?;
        text_or_none(&claims, "sub")?;
        time(&claims, "iat")?;
        let times = Times { not_before: time(&claims, "nbf")?, expires: time(&claims, "exp")? };
        text_or_none(&claims, "jti")?;
        let audiences = audiences(&claims)?;
        let signature = BASE64URL.decode(signature).map_err(|_| TokenRejection::SignatureEncoding)?;
        Ok(Self { signed, payload, algorithm, key_id, times, audiences, claims, signature })
    }

    /// Returns the claim `iss`.
    pub(super) fn issuer(&self) -> &str {
        self.claims.get("iss").and_then(Value::as_str).unwrap_or_default()
    }
}

/// Returns the algorithm and the key ID.
fn read_header(header: &[u8]) -> Result<(Algorithm, Option<String>), TokenRejection> {
    let header = BASE64URL.decode(header).map_err(|_| TokenRejection::HeaderEncoding)?;
    let mut header = json::object(&header).ok_or(TokenRejection::HeaderJson)?;
    let algorithm = header.get("alg").and_then(Value::as_str).ok_or(TokenRejection::AlgorithmType)?;
    let algorithm = Algorithm::parse(algorithm).ok_or(TokenRejection::Algorithm)?;
    let key_id = match header.remove("kid") {
        None => None,
        Some(Value::String(key_id)) => Some(key_id).filter(|key_id| !key_id.is_empty()),
        Some(_) => return Err(TokenRejection::KeyIdType),
    };
    if header.contains_key("crit") {
        return Err(TokenRejection::Critical);
    }
    Ok((algorithm, key_id))
}

fn text_or_none(claims: &Map<String, Value>, name: &'static str) -> Result<(), TokenRejection> {
    match claims.get(name) {
        None | Some(Value::String(_)) => Ok(()),
        Some(_) => Err(TokenRejection::ClaimNotString(name)),
    }
}

/// Returns a time. A fraction of a second is cut off, as in Envoy.
fn time(claims: &Map<String, Value>, name: &'static str) -> Result<Option<u64>, TokenRejection> {
    let number = match claims.get(name) {
        None => return Ok(None),
        Some(Value::Number(number)) => number,
        Some(_) => return Err(TokenRejection::ClaimNotInteger(name)),
    };
    if let Some(whole) = number.as_u64() {
        return Ok(Some(whole));
    }
    // 2^64; a number below it converts without a change of more than its fraction.
    let range = 0.0..18_446_744_073_709_551_616.0;
    let fraction = number.as_f64().filter(|seconds| range.contains(seconds));
    fraction.map(|seconds| Some(seconds as u64)).ok_or(TokenRejection::ClaimOutOfRange(name))
}

fn audiences(claims: &Map<String, Value>) -> Result<Vec<String>, TokenRejection> {
    let text = |value: &Value| value.as_str().map(str::to_owned).ok_or(TokenRejection::AudienceType);
    match claims.get("aud") {
        None => Ok(Vec::new()),
        Some(Value::Array(all)) => all.iter().map(text).collect(),
        Some(one) => Ok(vec![text(one)?]),
    }
}
