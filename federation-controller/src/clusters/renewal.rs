//! Renewal of the tokens in remote secrets.
//!
//! `isthmus join` writes a short-lived token of the reader account into a remote secret. After half of its lifetime the
//! controller requests the next token from that cluster's API server, which the account may do only for itself, and
//! writes it into the secret. The changed secret then replaces the link without a gap, as any change does. Tokens
//! without expiry, certificates and passwords are not changed.
//!
//! The answer comes from another cluster, and the secret decides what the controller trusts. So only a token of the same
//! account is written, as one value of the parsed kubeconfig ([`api::kubeconfig::with_token`]).

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;

use super::registry::Problem;
use super::trouble;
use super::{SecretEntry, Shared};
use crate::objects::Text;

/// The interval between checks. Tokens have a lifetime of at least ten minutes.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// The time between attempts after a failure. Half of the lifetime remains for them.
const RETRY: Duration = Duration::from_secs(60);

/// Renews all tokens in remote secrets when they are due. Never returns.
pub(super) async fn keep(own: Client, shared: Arc<Shared>) {
    let mut retry_at: BTreeMap<Text, SystemTime> = BTreeMap::new();
    let mut changes = shared.changes.subscribe();
    loop {
        changes.borrow_and_update();
        let now = SystemTime::now();
        let written: Vec<(Text, SecretEntry)> = shared.written().iter().map(|(c, w)| (c.clone(), w.clone())).collect();
        retry_at.retain(|cluster, _| written.iter().any(|(c, _)| c == cluster));
        for (cluster, written) in written {
            let Some(token) = Token::of(&written.bytes) else {
                shared.set_expiring(&cluster, None);
                continue;
            };
            if !token.is_due(now) || retry_at.get(&cluster).is_some_and(|at| *at > now) {
                continue;
            }
            match renew(&own, &shared, &cluster, &written, &token).await {
                Ok(()) => {
                    tracing::info!(%cluster, secret = %written.secret, "renewed the token in the remote secret");
                    shared.set_expiring(&cluster, None);
                }
                Err(why) => {
                    let left = token.expires.duration_since(now).unwrap_or_default().as_secs() / 60;
                    let why = format!(
                        "the token expires in {left} min and cannot be renewed: {why}; renew it with `isthmus join`"
                    );
                    tracing::warn!(%cluster, secret = %written.secret, "{why}");
                    let (secret, name) = (written.secret.to_string(), cluster.to_string());
                    shared.set_expiring(&cluster, Some(Problem { secret, cluster: name, why, in_force: true }));
                    retry_at.insert(cluster, now + RETRY);
                }
            }
        }
        tokio::select! {
            _ = changes.changed() => {}
            () = tokio::time::sleep(CHECK_INTERVAL) => {}
        }
    }
}

async fn renew(
    own: &Client,
    shared: &Shared,
    cluster: &str,
    written: &SecretEntry,
    token: &Token,
) -> Result<(), String> {
    let remote = shared.known().get(cluster).map(|known| known.client.clone()).ok_or("the cluster is removed")?;
    let accounts = Api::<ServiceAccount>::namespaced(remote, &token.namespace);
    let mut request = TokenRequest::default();
    request.spec.expiration_seconds = i64::try_from(token.lifetime().as_secs()).ok();
    let describe = |error: kube::Error| trouble::of(&error).to_string();
    let made =
        accounts.create_token_request(&token.account, &PostParams::default(), &request).await.map_err(describe)?;
    let next = made
        .status
        .map(|status| status.token)
        .filter(|next| !next.is_empty())
        .ok_or("the API server returned no token")?;
    let text = renewed(&written.bytes, token, &next)?;
    let (namespace, name) = written.secret.split_once('/').ok_or("the name of the secret has no namespace")?;
    let patch = json!({"data": {cluster: STANDARD.encode(text)}});
    let secrets = Api::<Secret>::namespaced(own.clone(), namespace);
    secrets.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.map(|_| ()).map_err(describe)
}

/// Returns the kubeconfig with the token that its cluster answered, if that is a later token of the same account.
fn renewed(kubeconfig: &[u8], token: &Token, next: &str) -> Result<String, String> {
    let text = api::kubeconfig::with_token(kubeconfig, next).map_err(|error| error.to_string())?;
    let Some(next) = Token::of(text.as_bytes()) else {
        return Err("the API server's answer is not a service account token with an expiry".to_owned());
    };
    if (&next.namespace, &next.account) != (&token.namespace, &token.account) {
        return Err("the API server's answer is a token of another account".to_owned());
    }
    if next.expires <= token.expires {
        return Err("the API server's answer is a token that does not expire later".to_owned());
    }
    Ok(text)
}

/// Returns the namespace of the account whose token a kubeconfig has.
pub(super) fn namespace_of(kubeconfig: &[u8]) -> Option<String> {
    Token::of(kubeconfig).map(|token| token.namespace)
}

/// A service account token with an expiry.
#[derive(Debug, PartialEq)]
struct Token {
    namespace: String,
    account: String,
    issued: SystemTime,
    expires: SystemTime,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: u64,
    iat: u64,
}

impl Token {
    /// Returns the token in a kubeconfig; `None` if it has no service account token with an expiry. The claims are not
    /// verified here; the API server verifies them.
    fn of(kubeconfig: &[u8]) -> Option<Token> {
        let text = api::kubeconfig::sanitize(kubeconfig).ok()?.token()?;
        let payload = URL_SAFE_NO_PAD.decode(text.split('.').nth(1)?).ok()?;
        let claims: Claims = serde_json::from_slice(&payload).ok()?;
        let (namespace, account) = claims.sub.strip_prefix("system:serviceaccount:")?.split_once(':')?;
        if !is_name(namespace) || !is_name(account) {
            return None;
        }
        let at = |seconds: u64| UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        Some(Token {
            namespace: namespace.to_owned(),
            account: account.to_owned(),
            issued: at(claims.iat)?,
            expires: at(claims.exp)?,
        })
    }

    fn lifetime(&self) -> Duration {
        // The API issues no token for less than ten minutes.
        self.expires.duration_since(self.issued).unwrap_or_default().max(Duration::from_secs(600))
    }

    fn is_due(&self, now: SystemTime) -> bool {
        now >= self.issued + self.lifetime() / 2
    }
}

/// Returns whether a text can be a name in a path of the API: a DNS-1123 subdomain.
fn is_name(text: &str) -> bool {
    let of_name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    text.len() <= 253 && bytes.iter().copied().all(of_name) && ends(bytes.first()) && ends(bytes.last())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kubeconfig(token: &str) -> String {
        let access = api::remote_secret::Access {
            cluster: "east",
            server: "https://a",
            tls_server_name: None,
            ca_pem: b"ca",
            token,
        };
        api::remote_secret::kubeconfig(&access).unwrap()
    }

    #[test]
    fn tokens_are_due_after_half_of_their_lifetime() {
        let jwt = |claims: serde_json::Value| format!("h.{}.s", URL_SAFE_NO_PAD.encode(claims.to_string()));
        let sub = "system:serviceaccount:isthmus-system:isthmus-reader";
        let text = jwt(json!({"sub": sub, "iat": 1000, "exp": 87_400, "aud": ["x"]}));
        let token = Token::of(kubeconfig(&text).as_bytes()).unwrap();
        assert_eq!((token.namespace.as_str(), token.account.as_str()), ("isthmus-system", "isthmus-reader"));
        assert_eq!(token.lifetime(), Duration::from_secs(86_400));
        assert!(!token.is_due(UNIX_EPOCH + Duration::from_secs(44_000)));
        assert!(token.is_due(UNIX_EPOCH + Duration::from_secs(44_201)));
        for other in [
            "opaque".to_owned(),
            "a.b.c".to_owned(),
            jwt(json!({"sub": sub})),
            jwt(json!({"sub": "me", "iat": 1, "exp": 2})),
            jwt(json!({"sub": "system:serviceaccount:../..:x", "iat": 1, "exp": 2})),
            jwt(json!({"sub": "system:serviceaccount:a:x/token?", "iat": 1, "exp": 2})),
        ] {
            assert_eq!(Token::of(kubeconfig(&other).as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn only_a_later_token_of_the_same_account_is_written() {
        let jwt = |account: &str, exp: u64| {
            let claims =
                json!({"sub": format!("system:serviceaccount:isthmus-system:{account}"), "iat": 1000, "exp": exp});
            format!("h.{}.s", URL_SAFE_NO_PAD.encode(claims.to_string()))
        };
        let before = kubeconfig(&jwt("isthmus-reader", 5000));
        let token = Token::of(before.as_bytes()).unwrap();
        let answer = |next: &str| renewed(before.as_bytes(), &token, next);
        let next = jwt("isthmus-reader", 6000);
        assert_eq!(
            Token::of(answer(&next).unwrap().as_bytes()).unwrap().expires,
            UNIX_EPOCH + Duration::from_secs(6000)
        );
        let refused = |next: &str, why: &str| {
            let error = answer(next).unwrap_err();
            assert!(error.contains(why) && !error.contains(next), "{error}");
        };
        refused(&format!("{next}\n    exec: {{command: sh}}"), "not a bearer token");
        refused(&format!("{next}\"}}"), "not a bearer token");
        refused("opaque", "not a service account token");
        refused(&jwt("admin", 6000), "another account");
        refused(&jwt("isthmus-reader", 5000), "does not expire later");
    }
}
