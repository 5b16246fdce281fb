//! RequestAuthentication: the tokens (JWT) that workloads accept.

use std::fmt;
use std::time::Duration;

use serde_json::Value;

use super::TargetRef;
use crate::networking::destination_rule::WorkloadSelector;
use crate::networking::json::{Field, Reader, message, object, shown};

object! {
    /// Istio's RequestAuthentication resource.
    RequestAuthentication: optional RequestAuthenticationSpec, "security.istio.io", "RequestAuthentication", "requestauthentications"
}

message! {
    /// The spec of a RequestAuthentication.
    RequestAuthenticationSpec {
        /// The workloads to which it applies; unset: all of its namespace, or of the mesh if that is the root namespace.
        selector: Option<WorkloadSelector> = "selector",
        /// The object to which it applies instead.
        target_ref: Option<TargetRef> = "targetRef",
        /// The objects to which it applies instead.
        target_refs: Vec<TargetRef> = "targetRefs",
        /// The tokens.
        jwt_rules: Vec<JwtRule> = "jwtRules",
    }
}

message! {
    /// The tokens of one issuer.
    JwtRule {
        /// The claim `iss`.
        issuer: String = "issuer",
        /// Accepted values of the claim `aud`; empty: any.
        audiences: Audiences = "audiences",
        /// Where the issuer's keys are; empty, without `jwks`: in the issuer's discovery document.
        jwks_uri: String = "jwksUri",
        /// The issuer's keys.
        jwks: String = "jwks",
        /// The headers in which tokens are; with other locations, instead of the default ones.
        from_headers: Vec<FromHeader> = "fromHeaders",
        /// The parameters of the query in which tokens are.
        from_params: Vec<String> = "fromParams",
        /// The cookies in which tokens are.
        from_cookies: Vec<String> = "fromCookies",
        /// The header in which the application receives the token's payload.
        output_payload_to_header: String = "outputPayloadToHeader",
        /// Whether the application receives the token.
        forward_original_token: bool = "forwardOriginalToken",
        /// The headers in which the application receives claims.
        output_claim_to_headers: Vec<ClaimToHeader> = "outputClaimToHeaders",
        /// The time within which the keys have to be fetched.
        timeout: Option<Duration> = "timeout",
        /// Claims that are lists separated by spaces, beside `scope` and `permission`.
        space_delimited_claims: Vec<String> = "spaceDelimitedClaims",
    }
}

message! {
    /// A header with a token.
    FromHeader {
        /// The name.
        name: String = "name",
        /// What precedes the token in the value.
        prefix: String = "prefix",
    }
}

message! {
    /// A claim that the application receives in a header.
    ClaimToHeader {
        /// The header.
        header: String = "header",
        /// The claim; dots separate the names of nested ones.
        claim: String = "claim",
    }
}

/// A list of audiences. A single text is a list of one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Audiences(pub Vec<String>);

impl Field for Audiences {
    fn read(value: &Value, reader: &mut Reader) -> Self {
        match value {
            Value::String(single) => Audiences(vec![single.clone()]),
            list => Audiences(Field::read(list, reader)),
        }
    }

    fn json(&self) -> Value {
        self.0.json()
    }

    fn is_unset(&self) -> bool {
        self.0.is_empty()
    }
}

/// A header in which a rule reads tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderToken {
    /// The name, in lower case.
    pub name: String,
    /// What precedes the token; empty: nothing.
    pub prefix: String,
}

impl fmt::Display for HeaderToken {
    /// Formats how the header is read.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix.trim() {
            "" => f.write_str("without a prefix"),
            prefix => write!(f, "with prefix {:?}", shown(prefix)),
        }
    }
}

impl JwtRule {
    /// Returns the headers in which the rule reads tokens.
    pub fn header_tokens(&self) -> Vec<HeaderToken> {
        let named = self.from_headers.iter();
        let named: Vec<HeaderToken> =
            named.map(|of| HeaderToken { name: of.name.to_ascii_lowercase(), prefix: of.prefix.clone() }).collect();
        if named.is_empty() && self.from_params.is_empty() && self.from_cookies.is_empty() {
            return vec![HeaderToken { name: "authorization".into(), prefix: "Bearer ".into() }];
        }
        named
    }
}

/// Returns a header of `reads` that is read without a prefix, and the one of `others` that is read with one: the token of
/// the latter, with its prefix, is no valid token for the former, so that the request is refused.
pub fn shadowed<'a>(reads: &'a [HeaderToken], others: &'a [HeaderToken]) -> Option<(&'a HeaderToken, &'a HeaderToken)> {
    let bare = reads.iter().filter(|of| of.prefix.is_empty());
    let with_prefix = |of: &HeaderToken| others.iter().find(|other| other.name == of.name && !other.prefix.is_empty());
    bare.into_iter().find_map(|of| Some((of, with_prefix(of)?)))
}
