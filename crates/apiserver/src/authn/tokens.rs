//! Service account tokens: JWTs signed with the cluster's key (ES256), bound to audiences, an expiration time, and
//! optionally to a pod, secret or node. Claims as in Kubernetes' `pkg/serviceaccount`.

#[cfg(test)]
mod tests;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rand::RngExt as _;
use rcgen::{KeyPair, PublicKeyData as _};
use serde::{Deserialize, Serialize};

use super::user::UserInfo;
use crate::object;
use crate::storage::{GroupResource, ObjectStore};
use crate::timestamp::unix_now;

/// Issuer of the tokens in `kubernetes.io/service-account-token` Secrets.
const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";

/// Tolerated clock skew, in seconds.
const LEEWAY: u64 = 10;

/// The key that signs and verifies tokens.
pub(crate) struct TokenKey {
    signing: EncodingKey,
    verifying: DecodingKey,
    id: String,
    pub(crate) issuer: String,
    /// JSON Web Key Set with the public key.
    pub(crate) jwks: serde_json::Value,
}

/// A verifier of tokens: the key, and the store with the objects that tokens are bound to.
pub(crate) struct TokenVerifier<'a> {
    pub(crate) key: &'a TokenKey,
    pub(crate) store: &'a ObjectStore,
}

/// A verified token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VerifiedToken {
    pub(crate) user: UserInfo,
    /// The requested audiences that the token has.
    pub(crate) audiences: Vec<String>,
}

/// Why a token is rejected.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("{}", signature_problem(.0))]
    Signature(#[from] jsonwebtoken::errors::Error),
    #[error("token audiences {have:?} is invalid for the target audiences {want:?}")]
    Audience { have: Vec<String>, want: Vec<String> },
    #[error("service account token has no claims of a service account")]
    Claims,
    #[error("service account token has been invalidated: {what} not found")]
    Deleted { what: String },
}

/// A reference to an object in a token's claims.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClaimReference {
    pub(crate) name: String,
    pub(crate) uid: String,
}

/// Contents of a new token.
pub(crate) struct TokenSpec<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) account: &'a ClaimReference,
    pub(crate) audiences: Vec<String>,
    pub(crate) seconds: u64,
    pub(crate) pod: Option<ClaimReference>,
    pub(crate) secret: Option<ClaimReference>,
    pub(crate) node: Option<ClaimReference>,
}

#[derive(Debug, Serialize, Deserialize)]
struct TokenClaims {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    aud: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exp: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    iat: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nbf: Option<u64>,
    iss: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    jti: Option<String>,
    sub: String,
    #[serde(rename = "kubernetes.io", default, skip_serializing_if = "Option::is_none")]
    bound: Option<BoundClaims>,
    #[serde(rename = "kubernetes.io/serviceaccount/namespace", default, skip_serializing_if = "Option::is_none")]
    legacy_namespace: Option<String>,
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name", default, skip_serializing_if = "Option::is_none")]
    legacy_secret: Option<String>,
    #[serde(
        rename = "kubernetes.io/serviceaccount/service-account.name",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    legacy_name: Option<String>,
    #[serde(
        rename = "kubernetes.io/serviceaccount/service-account.uid",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    legacy_uid: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct BoundClaims {
    namespace: String,
    serviceaccount: ClaimReference,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod: Option<ClaimReference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<ClaimReference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<ClaimReference>,
}

/// The signing key cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the service account signing key is not a P-256 private key in PEM: {0}")]
pub struct KeyError(#[from] rcgen::Error);

impl TokenKey {
    /// Reads a P-256 private key in PKCS#8 PEM.
    pub(crate) fn from_pem(pem: &str, issuer: &str) -> Result<Self, KeyError> {
        let pair = KeyPair::from_pkcs8_pem_and_sign_algo(pem, &rcgen::PKCS_ECDSA_P256_SHA256)?;
        let point = pair.der_bytes();
        let encode = |bytes: &[u8]| {
            use base64::Engine as _;
            base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
        };
        // The public key is an uncompressed point: 0x04, then x and y of 32 bytes each.
        let (x, y) = (encode(point.get(1..33).unwrap_or(&[])), encode(point.get(33..65).unwrap_or(&[])));
        let id = x.chars().take(16).collect::<String>();
        let jwks = serde_json::json!({
            "keys": [{"use": "sig", "kty": "EC", "crv": "P-256", "alg": "ES256", "kid": id, "x": x, "y": y}]
        });
        Ok(Self {
            signing: EncodingKey::from_ec_der(&pair.serialize_der()),
            verifying: DecodingKey::from_ec_der(point),
            id,
            issuer: issuer.to_owned(),
            jwks,
        })
    }

    /// Issues a token that expires.
    pub(crate) fn issue(&self, request: TokenSpec<'_>) -> Result<String, jsonwebtoken::errors::Error> {
        let now = unix_now();
        let id: u128 = rand::rng().random();
        let claims = TokenClaims {
            aud: request.audiences,
            exp: Some(now + request.seconds),
            iat: Some(now),
            nbf: Some(now),
            iss: self.issuer.clone(),
            jti: Some(format!("{id:032x}")),
            sub: subject(request.namespace, &request.account.name),
            bound: Some(BoundClaims {
                namespace: request.namespace.to_owned(),
                serviceaccount: request.account.clone(),
                pod: request.pod,
                secret: request.secret,
                node: request.node,
            }),
            legacy_namespace: None,
            legacy_secret: None,
            legacy_name: None,
            legacy_uid: None,
        };
        self.sign(&claims)
    }

    /// Issues a token for a `kubernetes.io/service-account-token` Secret. The token is valid until the Secret is
    /// deleted.
    pub(crate) fn issue_for_secret(
        &self,
        namespace: &str,
        secret: &str,
        account: &ClaimReference,
    ) -> Result<String, jsonwebtoken::errors::Error> {
        self.sign(&TokenClaims {
            aud: Vec::new(),
            exp: None,
            iat: None,
            nbf: None,
            iss: LEGACY_ISSUER.to_owned(),
            jti: None,
            sub: subject(namespace, &account.name),
            bound: None,
            legacy_namespace: Some(namespace.to_owned()),
            legacy_secret: Some(secret.to_owned()),
            legacy_name: Some(account.name.clone()),
            legacy_uid: Some(account.uid.clone()),
        })
    }

    fn sign(&self, claims: &TokenClaims) -> Result<String, jsonwebtoken::errors::Error> {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.id.clone());
        jsonwebtoken::encode(&header, claims, &self.signing)
    }
}

impl TokenVerifier<'_> {
    /// Verifies a token for the audiences `wanted`, or for the API server if there are none.
    pub(crate) fn verify(&self, token: &str, wanted: &[String]) -> Result<VerifiedToken, TokenError> {
        let mut validation = Validation::new(Algorithm::ES256);
        validation.leeway = LEEWAY;
        validation.validate_nbf = true;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        validation.set_issuer(&[self.key.issuer.as_str(), LEGACY_ISSUER]);
        let claims = jsonwebtoken::decode::<TokenClaims>(token, &self.key.verifying, &validation)?.claims;
        let own = std::slice::from_ref(&self.key.issuer);
        let wanted = if wanted.is_empty() { own } else { wanted };
        // Legacy tokens have no audience: they are for the API server.
        let have = if claims.aud.is_empty() { own.to_vec() } else { claims.aud.clone() };
        let audiences: Vec<String> = wanted.iter().filter(|audience| have.contains(audience)).cloned().collect();
        if audiences.is_empty() {
            return Err(TokenError::Audience { have, want: wanted.to_vec() });
        }
        let user = if claims.iss == LEGACY_ISSUER { self.legacy_user(&claims)? } else { self.bound_user(&claims)? };
        Ok(VerifiedToken { user, audiences })
    }

    fn bound_user(&self, claims: &TokenClaims) -> Result<UserInfo, TokenError> {
        let bound = claims.bound.as_ref().ok_or(TokenError::Claims)?;
        if claims.exp.is_none() {
            return Err(TokenError::Claims);
        }
        let namespace = &bound.namespace;
        self.expect("serviceaccounts", namespace, &bound.serviceaccount)?;
        let mut user = UserInfo::service_account(namespace, &bound.serviceaccount.name, &bound.serviceaccount.uid);
        let mut add = |key: &str, value: &str| {
            user.extra.push((format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]));
        };
        if let Some(id) = &claims.jti {
            add("credential-id", &format!("JTI={id}"));
        }
        if let Some(pod) = &bound.pod {
            self.expect("pods", namespace, pod)?;
            add("pod-name", &pod.name);
            add("pod-uid", &pod.uid);
        }
        if let Some(node) = &bound.node {
            add("node-name", &node.name);
            add("node-uid", &node.uid);
        }
        if let Some(secret) = &bound.secret {
            self.expect("secrets", namespace, secret)?;
        }
        Ok(user)
    }

    fn legacy_user(&self, claims: &TokenClaims) -> Result<UserInfo, TokenError> {
        let parts = (&claims.legacy_namespace, &claims.legacy_secret, &claims.legacy_name, &claims.legacy_uid);
        let (Some(namespace), Some(secret), Some(name), Some(uid)) = parts else { return Err(TokenError::Claims) };
        self.expect("serviceaccounts", namespace, &ClaimReference { name: name.clone(), uid: uid.clone() })?;
        let kept = self.store.get(&GroupResource::new("", "secrets"), namespace, secret);
        if kept.is_none_or(|secret| object::is_deleting(&secret)) {
            return Err(TokenError::Deleted { what: format!("secret {namespace}/{secret}") });
        }
        Ok(UserInfo::service_account(namespace, name, uid))
    }

    fn expect(&self, plural: &str, namespace: &str, reference: &ClaimReference) -> Result<(), TokenError> {
        let kept = self.store.get(&GroupResource::new("", plural), namespace, &reference.name);
        match kept {
            Some(kept) if object::uid(&kept) == reference.uid => Ok(()),
            _ => Err(TokenError::Deleted { what: format!("{plural} {namespace}/{}", reference.name) }),
        }
    }
}

/// The problem in Kubernetes' wording.
fn signature_problem(error: &jsonwebtoken::errors::Error) -> &'static str {
    use jsonwebtoken::errors::ErrorKind;
    match error.kind() {
        ErrorKind::ExpiredSignature => "service account token has expired",
        ErrorKind::ImmatureSignature => "service account token is not valid yet",
        ErrorKind::InvalidIssuer => "service account token has another issuer",
        _ => "service account token has an invalid format or signature",
    }
}

fn subject(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}
