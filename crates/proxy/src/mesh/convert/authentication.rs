//! The rules for tokens of end users from the wire. A message that cannot be read is rejected, and the last good one stays
//! in force. An issuer's keys are no reason for that: without a usable key, the tokens of that issuer are refused.

use std::sync::Arc;

use http::HeaderName;
use policy::jwt::{KeySet, TokenLocation, TokenRule};
use wire::discovery as message;

use super::Result;

/// The claims that are lists with spaces between their elements in any case, as in Istio.
const SPACE_DELIMITED: [&str; 2] = ["scope", "permission"];

/// Reads the rules of a request authentication.
pub(in crate::mesh) fn request_authentication(
    message: &message::RequestAuthentication,
) -> Result<Arc<[Arc<TokenRule>]>> {
    let rule = |(index, rule)| {
        let read = self::rule(rule, &message.name);
        read.map(Arc::new).map_err(|reason| format!("request authentication {}, rule {index}: {reason}", message.name))
    };
    message.rules.iter().enumerate().map(rule).collect()
}

fn rule(message: &message::JwtRule, policy: &str) -> Result<TokenRule> {
    if message.issuer.is_empty() {
        return Err("it names no issuer".to_owned());
    }
    let headers = message.from_headers.iter().map(|from| -> Result<TokenLocation> {
        let name = header(&from.name)?;
        Ok(TokenLocation::Header { name, prefix: from.prefix.as_str().into() })
    });
    let named = |names: &[String], place: fn(Box<str>) -> TokenLocation| -> Vec<Result<TokenLocation>> {
        names.iter().map(|name| Ok(place(name.as_str().into()))).collect()
    };
    let parameters = named(&message.from_params, TokenLocation::Parameter);
    let cookies = named(&message.from_cookies, TokenLocation::Cookie);
    let payload_header = Some(&message.output_payload_to_header).filter(|name| !name.is_empty());
    let claim_header = |output: &message::ClaimToHeader| -> Result<(HeaderName, Box<str>)> {
        Ok((header(&output.header)?, output.claim.as_str().into()))
    };
    let configured = message.space_delimited_claims.iter().map(String::as_str);
    let (keys, problems) = KeySet::parse(&message.jwks);
    for problem in problems {
        tracing::warn!(policy, issuer = message.issuer, "keys of an issuer cannot be used: {problem}");
    }
    Ok(TokenRule {
        issuer: message.issuer.as_str().into(),
        audiences: message.audiences.clone(),
        keys,
        locations: headers.chain(parameters).chain(cookies).collect::<Result<_>>()?,
        payload_header: payload_header.map(|name| header(name)).transpose()?,
        claim_headers: message.output_claim_to_headers.iter().map(claim_header).collect::<Result<_>>()?,
        forward_token: message.forward_original_token,
        space_delimited: SPACE_DELIMITED.into_iter().chain(configured).map(Box::from).collect(),
    })
}

fn header(name: &str) -> Result<HeaderName> {
    name.parse().map_err(|_| format!("{name:?} is not a header"))
}
