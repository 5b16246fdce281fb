//! What every namespace is given: the service account `default`, which pods have that name no other.
//!
//! The rest of a namespace's life, the API server's certificate in it and its emptying when it is deleted, is the API server's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt as _};

use super::cache::View;
use super::reconcile::whenever_changed;
use super::retry::Retries;

/// The account of pods that name no other.
const DEFAULT: &str = "default";

/// The namespaces that lack their account, given whether one has it.
#[must_use]
pub fn decide(namespaces: &[Arc<Namespace>], has_account: impl Fn(&str) -> bool) -> Vec<String> {
    namespaces
        .iter()
        .filter(|namespace| namespace.metadata.deletion_timestamp.is_none())
        .map(|namespace| namespace.name_any())
        .filter(|name| !has_account(name))
        .collect()
}

/// Runs the controller.
pub async fn run(client: Client, view: Arc<View>) {
    let retries = tokio::sync::Mutex::new(Retries::default());
    whenever_changed(&view, || pass(&client, &view, &retries)).await;
}

async fn pass(client: &Client, view: &View, retries: &tokio::sync::Mutex<Retries>) -> Option<Duration> {
    let mut retries = retries.lock().await;
    let started = Instant::now();
    let lacking = decide(&view.namespaces.list(), |name| view.service_accounts.get(name, DEFAULT).is_some());
    for name in lacking {
        if !retries.due(&name, started) {
            continue;
        }
        match give_account(client, view, &name).await {
            Ok(()) => retries.succeeded(&name),
            Err(error) => {
                tracing::debug!(namespace = name, %error, "namespace without service account");
                retries.failed(&name, Instant::now());
            }
        }
    }
    retries.next(started)
}

async fn give_account(client: &Client, view: &View, namespace: &str) -> kube::Result<()> {
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let mut account = ServiceAccount::default();
    account.metadata.name = Some(DEFAULT.to_owned());
    match api.create(&PostParams::default(), &account).await {
        Ok(account) => {
            view.service_accounts.put(account);
        }
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn living_namespaces_get_an_account() {
        let namespace = |name: &str, leaving: bool| {
            let mut namespace = Namespace::default();
            namespace.metadata.name = Some(name.to_owned());
            namespace.metadata.deletion_timestamp = leaving.then_some(
                k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH),
            );
            Arc::new(namespace)
        };
        let all = [namespace("has", false), namespace("lacks", false), namespace("leaves", true)];
        assert_eq!(decide(&all, |name| name == "has"), ["lacks"]);
    }
}
