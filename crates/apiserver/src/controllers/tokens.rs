//! The token controller: issues the tokens of `kubernetes.io/service-account-token` Secrets, and deletes the Secrets of
//! deleted accounts.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::api::Api;
use crate::authn::tokens::ClaimReference;
use crate::object;
use crate::storage::{AllObjects, GroupResource};
use crate::verbs::delete::{self, PropagationPolicy};

const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";

/// Fills and deletes token Secrets.
pub(super) fn run(api: &Api, objects: &AllObjects) {
    let is_secret = |resource: &GroupResource| resource.group.is_empty() && &*resource.resource == "secrets";
    for (resource, secret) in objects {
        if !is_secret(resource) || object::text(secret, "/type") != TYPE || object::is_deleting(secret) {
            continue;
        }
        let (namespace, name) = (object::namespace(secret), object::name(secret));
        let annotation = |key: &str| {
            secret.pointer("/metadata/annotations").and_then(|all| all.get(key)).and_then(Value::as_str).unwrap_or("")
        };
        let (account_name, account_uid) = (annotation(ACCOUNT), annotation(ACCOUNT_UID));
        let account = api.store.get(&GroupResource::new("", "serviceaccounts"), namespace, account_name);
        let account = account.filter(|account| account_uid.is_empty() || object::uid(account) == account_uid);
        let Some(account) = account else {
            // A Secret whose account was deleted never holds a token again. A Secret without an account UID waits for
            // the account.
            if !account_uid.is_empty() {
                delete::by_server(api, resource, secret, PropagationPolicy::Background);
            }
            continue;
        };
        let has = |key: &str| secret.pointer("/data").and_then(|data| data.get(key)).is_some();
        if has("token") && has("ca.crt") && has("namespace") && !account_uid.is_empty() {
            continue;
        }
        let reference = ClaimReference { name: account_name.to_owned(), uid: object::uid(&account).to_owned() };
        let token = match api.token_key.issue_for_secret(namespace, name, &reference) {
            Ok(token) => token,
            Err(error) => {
                tracing::error!(%error, namespace, name, "cannot issue the token of a Secret");
                continue;
            }
        };
        api.modify(resource, namespace, name, |current| {
            let mut changed = current.clone();
            let data = object::field(&mut changed, "data");
            data.entry("token").or_insert_with(|| json!(STANDARD.encode(&token)));
            data.insert("ca.crt".into(), json!(STANDARD.encode(&api.ca)));
            data.insert("namespace".into(), json!(STANDARD.encode(namespace)));
            changed["metadata"]["annotations"][ACCOUNT_UID] = json!(reference.uid);
            (object::uid(current) == object::uid(secret)).then_some(changed)
        });
    }
}
