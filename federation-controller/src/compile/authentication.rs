//! A RequestAuthentication as a message for proxies, with the keys that were fetched.

use api::security::RequestAuthenticationSpec;
use api::security::request_authentication::JwtRule;
use wire::discovery as message;

use crate::inventory::Inventory;
use crate::objects::{KeySource, RequestAuthentication};

/// Compiles a policy. Returns `None` while the first attempt to fetch keys has not ended: proxies keep what they have, and new
/// ones wait for it. Without keys, a rule has none, and every token of its issuer is refused.
pub(super) fn compile(
    inventory: &Inventory,
    policy: &RequestAuthentication,
    spec: &RequestAuthenticationSpec,
) -> Option<message::RequestAuthentication> {
    let rules = spec.jwt_rules.iter().map(|of| rule(inventory, of)).collect::<Option<_>>()?;
    Some(message::RequestAuthentication { name: format!("{}/{}", policy.namespace, policy.name), rules })
}

fn rule(inventory: &Inventory, rule: &JwtRule) -> Option<message::JwtRule> {
    let jwks = match KeySource::of(rule) {
        None => rule.jwks.clone(),
        Some(source) => inventory.keys(&source)?.set.as_deref().unwrap_or_default().to_owned(),
    };
    let from_headers = rule.from_headers.iter();
    let claims = rule.output_claim_to_headers.iter();
    Some(message::JwtRule {
        issuer: rule.issuer.clone(),
        audiences: rule.audiences.0.clone(),
        jwks,
        from_headers: from_headers
            .map(|of| message::JwtHeader { name: of.name.clone(), prefix: of.prefix.clone() })
            .collect(),
        from_params: rule.from_params.clone(),
        from_cookies: rule.from_cookies.clone(),
        output_payload_to_header: rule.output_payload_to_header.clone(),
        forward_original_token: rule.forward_original_token,
        output_claim_to_headers: claims
            .map(|of| message::ClaimToHeader { header: of.header.clone(), claim: of.claim.clone() })
            .collect(),
        space_delimited_claims: rule.space_delimited_claims.clone(),
    })
}
