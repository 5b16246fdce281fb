//! The service account `default` of every namespace, for pods that name no other.
//!
//! The API server itself writes its certificate into each namespace, and empties a namespace that is deleted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use install::client_error;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt as _};

use super::reconcile::whenever_changed;
use super::retry::Retries;
use super::view::ClusterView;

/// Name of the service account.
const DEFAULT: &str = "default";

/// Returns the namespaces without the account.
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
pub async fn run(client: Client, view: Arc<ClusterView>) {
    let retries = tokio::sync::Mutex::new(Retries::default());
    whenever_changed(&view, || pass(&client, &view, &retries)).await;
}

async fn pass(client: &Client, view: &ClusterView, retries: &tokio::sync::Mutex<Retries>) -> Option<Duration> {
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
                let error = client_error::describe(&error);
                tracing::debug!(namespace = name, error, "cannot create a service account");
                retries.failed(&name, Instant::now());
            }
        }
    }
    retries.next(started)
}

async fn give_account(client: &Client, view: &ClusterView, namespace: &str) -> kube::Result<()> {
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
    fn namespaces_without_an_account_get_one() {
        let namespace = |name: &str, leaving: bool| {
            let mut namespace = Namespace::default();
            namespace.metadata.name = Some(name.to_owned());
            namespace.metadata.deletion_timestamp = leaving.then_some(
                k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH),
            );
            Arc::new(namespace)
        };
        let all = [namespace("has", false), namespace("has-none", false), namespace("leaves", true)];
        assert_eq!(decide(&all, |name| name == "has"), ["has-none"]);
    }
}
