//! Secrets of type `kubernetes.io/service-account-token` are given a token, and go with their account.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::api::Api;
use crate::authn::tokens::Reference;
use crate::object;
use crate::storage::{Everything, GroupResource};
use crate::verbs::delete::{self, Propagation};

const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";

/// Fills and removes token Secrets.
pub(super) fn fill(api: &Api, everything: &Everything) {
    let is_secret = |resource: &GroupResource| resource.group.is_empty() && &*resource.resource == "secrets";
    for (resource, secret) in everything {
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
            // Without an account it can never hold a token; one that is yet to come may still be waited for.
            if !account_uid.is_empty() {
                delete::on_own_behalf(api, resource, secret, Propagation::Background);
            }
            continue;
        };
        let has = |key: &str| secret.pointer("/data").and_then(|data| data.get(key)).is_some();
        if has("token") && has("ca.crt") && has("namespace") && !account_uid.is_empty() {
            continue;
        }
        let reference = Reference { name: account_name.to_owned(), uid: object::uid(&account).to_owned() };
        let token = match api.token_key.issue_for_secret(namespace, name, &reference) {
            Ok(token) => token,
            Err(error) => {
                tracing::error!(%error, namespace, name, "no token for the secret");
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
