//! RequestAuthentication: the tokens (JWT) that workloads accept.

use std::time::Duration;

use serde_json::Value;

use super::TargetRef;
use crate::networking::destination_rule::WorkloadSelector;
use crate::networking::json::{Field, Reader, message, object};

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
