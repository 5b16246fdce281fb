//! Service accounts' tokens: JWTs signed with the cluster's key (ES256), bound to an audience, a time, and, if asked for, to a pod or
//! secret whose deletion ends them. Claims as in Kubernetes' `pkg/serviceaccount`.

#[cfg(test)]
mod tests;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rand::RngExt as _;
use rcgen::{KeyPair, PublicKeyData as _};
use serde::{Deserialize, Serialize};

use super::user::User;
use crate::object;
use crate::storage::{GroupResource, Store};
use crate::timestamp::unix_now;

/// Issuer of the tokens in `kubernetes.io/service-account-token` Secrets.
const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";

/// How far clocks may differ, in seconds.
const LEEWAY: u64 = 10;

/// The key that signs tokens and checks them.
pub(crate) struct TokenKey {
    signing: EncodingKey,
    verifying: DecodingKey,
    id: String,
    pub(crate) issuer: String,
    /// JSON Web Key Set with the public key.
    pub(crate) jwks: serde_json::Value,
}

/// The key together with what it must agree with.
pub(crate) struct Tokens<'a> {
    pub(crate) key: &'a TokenKey,
    pub(crate) store: &'a Store,
}

/// A token that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verified {
    pub(crate) user: User,
    /// The audiences of the token that the verifier asked for.
    pub(crate) audiences: Vec<String>,
}

/// Why a token was not accepted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the token is not one of this cluster, or is out of date: {0}")]
    Signature(#[from] jsonwebtoken::errors::Error),
    #[error("the token is meant for {have:?}, not for {want:?}")]
    Audience { have: Vec<String>, want: Vec<String> },
    #[error("the token's claims name no service account")]
    Claims,
    #[error("the token is bound to {what}, which is gone")]
    Gone { what: String },
}

/// What a token is bound to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reference {
    pub(crate) name: String,
    pub(crate) uid: String,
}

/// What a new token says.
pub(crate) struct Request<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) account: &'a Reference,
    pub(crate) audiences: Vec<String>,
    pub(crate) seconds: u64,
    pub(crate) pod: Option<Reference>,
    pub(crate) secret: Option<Reference>,
    pub(crate) node: Option<Reference>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
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
    bound: Option<Bound>,
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
struct Bound {
    namespace: String,
    serviceaccount: Reference,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<Reference>,
}

/// The signing key cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the service account signing key is no P-256 private key in PEM: {0}")]
pub struct KeyError(#[from] rcgen::Error);

impl TokenKey {
    /// From a P-256 private key in PKCS#8 PEM.
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

    /// A token that ends by itself.
    pub(crate) fn issue(&self, request: Request<'_>) -> Result<String, jsonwebtoken::errors::Error> {
        let now = unix_now();
        let id: u128 = rand::rng().random();
        let claims = Claims {
            aud: request.audiences,
            exp: Some(now + request.seconds),
            iat: Some(now),
            nbf: Some(now),
            iss: self.issuer.clone(),
            jti: Some(format!("{id:032x}")),
            sub: subject(request.namespace, &request.account.name),
            bound: Some(Bound {
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

    /// A token for a `kubernetes.io/service-account-token` Secret: good as long as the Secret is there.
    pub(crate) fn issue_for_secret(
        &self,
        namespace: &str,
        secret: &str,
        account: &Reference,
    ) -> Result<String, jsonwebtoken::errors::Error> {
        self.sign(&Claims {
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

    fn sign(&self, claims: &Claims) -> Result<String, jsonwebtoken::errors::Error> {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.id.clone());
        jsonwebtoken::encode(&header, claims, &self.signing)
    }
}

impl Tokens<'_> {
    /// Checks a token. `wanted` are the audiences that the verifier is; none means the API server itself.
    pub(crate) fn verify(&self, token: &str, wanted: &[String]) -> Result<Verified, Refusal> {
        let mut validation = Validation::new(Algorithm::ES256);
        validation.leeway = LEEWAY;
        validation.validate_nbf = true;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        validation.set_issuer(&[self.key.issuer.as_str(), LEGACY_ISSUER]);
        let claims = jsonwebtoken::decode::<Claims>(token, &self.key.verifying, &validation)?.claims;
        let own = std::slice::from_ref(&self.key.issuer);
        let wanted = if wanted.is_empty() { own } else { wanted };
        // Legacy tokens carry no audience: they are the API server's.
        let have = if claims.aud.is_empty() { own.to_vec() } else { claims.aud.clone() };
        let audiences: Vec<String> = wanted.iter().filter(|audience| have.contains(audience)).cloned().collect();
        if audiences.is_empty() {
            return Err(Refusal::Audience { have, want: wanted.to_vec() });
        }
        let user = if claims.iss == LEGACY_ISSUER { self.legacy_user(&claims)? } else { self.bound_user(&claims)? };
        Ok(Verified { user, audiences })
    }

    fn bound_user(&self, claims: &Claims) -> Result<User, Refusal> {
        let bound = claims.bound.as_ref().ok_or(Refusal::Claims)?;
        if claims.exp.is_none() {
            return Err(Refusal::Claims);
        }
        let namespace = &bound.namespace;
        self.expect("serviceaccounts", namespace, &bound.serviceaccount)?;
        let mut user = User::service_account(namespace, &bound.serviceaccount.name, &bound.serviceaccount.uid);
        let mut tell = |key: &str, value: &str| {
            user.extra.push((format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]));
        };
        if let Some(id) = &claims.jti {
            tell("credential-id", &format!("JTI={id}"));
        }
        if let Some(pod) = &bound.pod {
            self.expect("pods", namespace, pod)?;
            tell("pod-name", &pod.name);
            tell("pod-uid", &pod.uid);
        }
        if let Some(node) = &bound.node {
            tell("node-name", &node.name);
            tell("node-uid", &node.uid);
        }
        if let Some(secret) = &bound.secret {
            self.expect("secrets", namespace, secret)?;
        }
        Ok(user)
    }

    fn legacy_user(&self, claims: &Claims) -> Result<User, Refusal> {
        let parts = (&claims.legacy_namespace, &claims.legacy_secret, &claims.legacy_name, &claims.legacy_uid);
        let (Some(namespace), Some(secret), Some(name), Some(uid)) = parts else { return Err(Refusal::Claims) };
        self.expect("serviceaccounts", namespace, &Reference { name: name.clone(), uid: uid.clone() })?;
        let kept = self.store.get(&GroupResource::new("", "secrets"), namespace, secret);
        if kept.is_none_or(|secret| object::is_deleting(&secret)) {
            return Err(Refusal::Gone { what: format!("secret {namespace}/{secret}") });
        }
        Ok(User::service_account(namespace, name, uid))
    }

    fn expect(&self, plural: &str, namespace: &str, reference: &Reference) -> Result<(), Refusal> {
        let kept = self.store.get(&GroupResource::new("", plural), namespace, &reference.name);
        match kept {
            Some(kept) if object::uid(&kept) == reference.uid => Ok(()),
            _ => Err(Refusal::Gone { what: format!("{plural} {namespace}/{}", reference.name) }),
        }
    }
}

fn subject(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}
