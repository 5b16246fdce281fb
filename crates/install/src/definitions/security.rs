//! AuthorizationPolicy, PeerAuthentication and RequestAuthentication (`security.istio.io`).

use serde_json::Value;

use super::schema::{anything, boolean, duration, list, map, object, object_with, selector, target, text, texts, word};

pub(super) fn peer_authentication() -> Value {
    let mtls = || object([("mode", word(["UNSET", "DISABLE", "PERMISSIVE", "STRICT"]))]);
    object([("selector", selector()), ("mtls", mtls()), ("portLevelMtls", map(mtls()))])
}

pub(super) fn authorization_policy() -> Value {
    let condition = object_with([("key", text()), ("values", texts()), ("notValues", texts())]);
    let rule = object([
        ("from", list(object([("source", source())]))),
        ("to", list(object([("operation", operation())]))),
        ("when", list(condition)),
    ]);
    object([
        ("selector", selector()),
        ("targetRef", target()),
        ("targetRefs", list(target())),
        ("action", word(["ALLOW", "DENY", "AUDIT", "CUSTOM"])),
        ("provider", object([("name", text())])),
        ("rules", list(rule)),
    ])
}

fn source() -> Value {
    object([
        ("principals", texts()),
        ("notPrincipals", texts()),
        ("requestPrincipals", texts()),
        ("notRequestPrincipals", texts()),
        ("namespaces", texts()),
        ("notNamespaces", texts()),
        ("serviceAccounts", texts()),
        ("notServiceAccounts", texts()),
        ("trustDomains", texts()),
        ("notTrustDomains", texts()),
        ("ipBlocks", texts()),
        ("notIpBlocks", texts()),
        ("remoteIpBlocks", texts()),
        ("notRemoteIpBlocks", texts()),
    ])
}

fn operation() -> Value {
    object([
        ("hosts", texts()),
        ("notHosts", texts()),
        ("ports", texts()),
        ("notPorts", texts()),
        ("methods", texts()),
        ("notMethods", texts()),
        ("paths", texts()),
        ("notPaths", texts()),
    ])
}

pub(super) fn request_authentication() -> Value {
    object([
        ("selector", selector()),
        ("targetRef", target()),
        ("targetRefs", list(target())),
        ("jwtRules", list(jwt_rule())),
    ])
}

fn jwt_rule() -> Value {
    object_with([
        ("issuer", text()),
        // A list of strings, or a string, which is tolerated. A structural schema cannot express both.
        ("audiences", anything()),
        ("jwksUri", text()),
        ("jwks", text()),
        ("fromHeaders", list(object([("name", text()), ("prefix", text())]))),
        ("fromParams", texts()),
        ("fromCookies", texts()),
        ("outputPayloadToHeader", text()),
        ("forwardOriginalToken", boolean()),
        ("outputClaimToHeaders", list(object([("header", text()), ("claim", text())]))),
        ("timeout", duration()),
        ("spaceDelimitedClaims", texts()),
    ])
}
