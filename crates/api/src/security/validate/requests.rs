//! The rules of a RequestAuthentication.

use crate::networking::json::shown;
use crate::networking::validate::{Check, names};
use crate::security::request_authentication::{HeaderToken, JwtRule, shadowed};

pub(super) fn rule(rule: &JwtRule, check: &mut Check) {
    if rule.issuer.is_empty() {
        match rule.jwks_uri.is_empty() && rule.jwks.is_empty() {
            true => check.error_of("issuer", "is missing; write the issuer of the tokens, or jwksUri"),
            false => check.warn_of("issuer", "is missing: tokens of every issuer are accepted whose key is in the set"),
        }
    }
    check.each("audiences", &rule.audiences.0, |value, check| not_empty(value, check));
    if !rule.jwks_uri.is_empty() {
        check.at(format_args!(".jwksUri"), |check| check.accept(url(&rule.jwks_uri)));
    }
    check.one_of(&[("jwks", !rule.jwks.is_empty()), ("jwksUri", !rule.jwks_uri.is_empty())]);
    if !rule.jwks.is_empty() {
        check.at(format_args!(".jwks"), |check| keys(&rule.jwks, check));
    }
    check.each("fromHeaders", &rule.from_headers, |of, check| header("name", &of.name, check));
    check.each("fromParams", &rule.from_params, |value, check| not_empty(value, check));
    check.each("fromCookies", &rule.from_cookies, |value, check| not_empty(value, check));
    if !rule.output_payload_to_header.is_empty() {
        header("outputPayloadToHeader", &rule.output_payload_to_header, check);
    }
    check.each("outputClaimToHeaders", &rule.output_claim_to_headers, |of, check| {
        header("header", &of.header, check);
        if of.claim.is_empty() {
            check.error_of("claim", "is missing; name the claim");
        }
    });
    check.duration("timeout", rule.timeout);
    check.each("spaceDelimitedClaims", &rule.space_delimited_claims, |value, check| not_empty(value, check));
}

/// Warns of rules that read a header without a prefix in which others expect one: they refuse each other's tokens.
pub(super) fn shadowed_tokens(rules: &[JwtRule], check: &mut Check) {
    let all: Vec<HeaderToken> = rules.iter().flat_map(JwtRule::header_tokens).collect();
    if let Some((bare, _)) = shadowed(&all, &all) {
        check.warn_of(
            "jwtRules",
            format!(
                "read header {} with and without a prefix: a token with the prefix is not valid without it, so that all such requests are refused; write the same prefix, or use another header",
                shown(&bare.name)
            ),
        );
    }
}

fn not_empty(value: &str, check: &mut Check) {
    if value.is_empty() {
        check.error("is empty; write a value, or remove it");
    }
}

fn header(field: &str, name: &str, check: &mut Check) {
    check.at(format_args!(".{field}"), |check| check.accept(names::header(name)));
}

/// Checks a URL of keys.
fn url(text: &str) -> Result<(), String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let rest = rest.ok_or_else(|| "must begin with \"https://\" or \"http://\"".to_owned())?;
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if host.is_empty() || host.contains('@') {
        return Err("must have a host, and no user".to_owned());
    }
    Ok(())
}

/// Checks a set of keys (RFC 7517): it is JSON with a list of them, and none has a private part.
fn keys(text: &str, check: &mut Check) {
    let set: serde_json::Value = match serde_json::from_str(text) {
        Ok(set) => set,
        Err(error) => return check.error(format!("is not JSON: {error}")),
    };
    let Some(keys) = set["keys"].as_array() else {
        return check.error("has no list \"keys\"; write a JSON Web Key Set (RFC 7517)");
    };
    for (index, key) in keys.iter().enumerate() {
        let Some(kind) = key["kty"].as_str() else {
            check.error(format!("has a key without \"kty\" (number {index}); write its type"));
            continue;
        };
        if kind == "oct" || key.get("d").is_some() {
            check.warn(format!(
                "has the private part of a key (number {index}), which everyone reads who may read this object; remove it, and use another key"
            ));
        }
    }
}
