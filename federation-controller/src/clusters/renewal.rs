//! Keeping the tokens in remote secrets from running out.
//!
//! `isthmus join` puts a short-lived token of the reader account into a remote secret. At half of its life the controller
//! asks that cluster's API server for the next one, which the account may do for itself alone, and writes it into the
//! secret in place of the old one; the changed secret then replaces the link without a gap, as any change of it does.
//! Tokens without an end, certificates and passwords are left alone.

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
use super::{Shared, Written};
use crate::objects::event::Text;

/// Between looks; tokens live ten minutes at least.
const LOOK: Duration = Duration::from_secs(10);
/// After a failure. Half of the life is left to succeed in.
const RETRY: Duration = Duration::from_secs(60);

/// Keeps renewing, for ever.
pub(super) async fn keep(own: Client, shared: Arc<Shared>) {
    let mut retry_at: BTreeMap<Text, SystemTime> = BTreeMap::new();
    let mut changes = shared.changes.subscribe();
    loop {
        changes.borrow_and_update();
        let now = SystemTime::now();
        let written: Vec<(Text, Written)> = shared.written().iter().map(|(c, w)| (c.clone(), w.clone())).collect();
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
                    tracing::info!(%cluster, secret = %written.secret, "the token in the remote secret was renewed");
                    shared.set_expiring(&cluster, None);
                }
                Err(why) => {
                    let left = token.expires.duration_since(now).unwrap_or_default().as_secs() / 60;
                    let why = format!("its token ends in {left} min and cannot be renewed: {why}");
                    tracing::warn!(%cluster, secret = %written.secret, "{why}");
                    let (secret, name) = (written.secret.to_string(), cluster.to_string());
                    shared.set_expiring(&cluster, Some(Problem { secret, cluster: name, why, in_force: true }));
                    retry_at.insert(cluster, now + RETRY);
                }
            }
        }
        tokio::select! {
            _ = changes.changed() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

async fn renew(own: &Client, shared: &Shared, cluster: &str, written: &Written, token: &Token) -> Result<(), String> {
    let remote = shared.known().get(cluster).map(|known| known.client.clone()).ok_or("it is gone")?;
    let accounts = Api::<ServiceAccount>::namespaced(remote, &token.namespace);
    let mut request = TokenRequest::default();
    request.spec.expiration_seconds = i64::try_from(token.life().as_secs()).ok();
    let said = |error: kube::Error| format!("{:?}", trouble::of(&error));
    let made = accounts.create_token_request(&token.account, &PostParams::default(), &request).await.map_err(said)?;
    let next = made.status.map(|status| status.token).filter(|next| !next.is_empty()).ok_or("no token was made")?;
    let text = std::str::from_utf8(&written.bytes).map_err(|_| "the secret is not text")?;
    let text = text.replace(&token.text, &next);
    let (namespace, name) = written.secret.split_once('/').ok_or("the secret has no name")?;
    let patch = json!({"data": {cluster: STANDARD.encode(text)}});
    let secrets = Api::<Secret>::namespaced(own.clone(), namespace);
    secrets.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.map(|_| ()).map_err(said)
}

/// A service account's token that ends.
#[derive(Debug, PartialEq)]
struct Token {
    text: String,
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
    /// The token in a kubeconfig. Its claims are only read, not verified: that is up to the server that it is for.
    fn of(kubeconfig: &[u8]) -> Option<Token> {
        use kube::config::Kubeconfig;
        let config = Kubeconfig::from_yaml(std::str::from_utf8(kubeconfig).ok()?).ok()?;
        let json = serde_json::to_value(config.auth_infos).ok()?;
        let text = json.as_array()?.iter().find_map(|user| user["user"]["token"].as_str())?.to_owned();
        let payload = URL_SAFE_NO_PAD.decode(text.split('.').nth(1)?).ok()?;
        let claims: Claims = serde_json::from_slice(&payload).ok()?;
        let (namespace, account) = claims.sub.strip_prefix("system:serviceaccount:")?.split_once(':')?;
        let at = |seconds: u64| UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        Some(Token {
            namespace: namespace.to_owned(),
            account: account.to_owned(),
            issued: at(claims.iat)?,
            expires: at(claims.exp)?,
            text,
        })
    }

    fn life(&self) -> Duration {
        // The API makes none for less than ten minutes.
        self.expires.duration_since(self.issued).unwrap_or_default().max(Duration::from_secs(600))
    }

    fn is_due(&self, now: SystemTime) -> bool {
        now >= self.issued + self.life() / 2
    }
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
    fn tokens_are_due_at_half_of_their_life() {
        let jwt = |claims: serde_json::Value| format!("h.{}.s", URL_SAFE_NO_PAD.encode(claims.to_string()));
        let sub = "system:serviceaccount:isthmus-system:isthmus-reader";
        let text = jwt(json!({"sub": sub, "iat": 1000, "exp": 87_400, "aud": ["x"]}));
        let token = Token::of(kubeconfig(&text).as_bytes()).unwrap();
        assert_eq!((token.namespace.as_str(), token.account.as_str()), ("isthmus-system", "isthmus-reader"));
        assert_eq!(token.life(), Duration::from_secs(86_400));
        assert!(!token.is_due(UNIX_EPOCH + Duration::from_secs(44_000)));
        assert!(token.is_due(UNIX_EPOCH + Duration::from_secs(44_201)));
        for other in [
            "opaque".to_owned(),
            "a.b.c".to_owned(),
            jwt(json!({"sub": sub})),
            jwt(json!({"sub": "me", "iat": 1, "exp": 2})),
        ] {
            assert_eq!(Token::of(kubeconfig(&other).as_bytes()), None, "{other}");
        }
    }
}
