//! What every namespace is given: the service account `default` and the API server's authority.
//!
//! Namespaces that are being deleted are emptied by the API server, not here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};

use super::Settings;
use super::cache::{ROOT_CA_CONFIG_MAP, View};
use super::retry::Retries;

/// What a namespace lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// The service account `default`.
    ServiceAccount,
    /// The authority's ConfigMap, or its right content.
    Authority,
}

/// What `namespace` lacks, given what is there.
#[must_use]
pub fn decide(namespace: &Namespace, account: bool, authority: Option<&ConfigMap>, wanted: &str) -> Vec<Lack> {
    if namespace.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let mut lacks = Vec::new();
    if !account {
        lacks.push(Lack::ServiceAccount);
    }
    let written = authority.and_then(|map| map.data.as_ref()?.get("ca.crt"));
    if written.is_none_or(|written| written != wanted) {
        lacks.push(Lack::Authority);
    }
    lacks
}

/// Runs the controller.
pub async fn run(client: Client, view: Arc<View>, settings: Arc<Settings>) {
    let retries = tokio::sync::Mutex::new(Retries::default());
    super::whenever_changed(&view, || pass(&client, &view, &settings, &retries)).await;
}

async fn pass(
    client: &Client,
    view: &View,
    settings: &Settings,
    retries: &tokio::sync::Mutex<Retries>,
) -> Option<Duration> {
    let mut retries = retries.lock().await;
    for namespace in view.namespaces.list() {
        let name = namespace.name_any();
        let account = view.service_accounts.get(&name, "default").is_some();
        let authority = view.authorities.get(&name, ROOT_CA_CONFIG_MAP);
        for lack in decide(&namespace, account, authority.as_deref(), &settings.api_authority) {
            if !retries.due(&name, Instant::now()) {
                continue;
            }
            let done = match lack {
                Lack::ServiceAccount => give_account(client, view, &name).await,
                Lack::Authority => give_authority(client, view, &name, &settings.api_authority).await,
            };
            match done {
                Ok(()) => retries.succeeded(&name),
                Err(error) => {
                    tracing::debug!(namespace = name, %error, "namespace not completed");
                    retries.failed(&name, Instant::now());
                }
            }
        }
    }
    retries.next(Instant::now())
}

async fn give_account(client: &Client, view: &View, namespace: &str) -> kube::Result<()> {
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let mut account = ServiceAccount::default();
    account.metadata.name = Some("default".to_owned());
    match api.create(&PostParams::default(), &account).await {
        Ok(account) => drop(view.service_accounts.put(account)),
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

async fn give_authority(client: &Client, view: &View, namespace: &str, authority: &str) -> kube::Result<()> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let mut map = ConfigMap::default();
    map.metadata.name = Some(ROOT_CA_CONFIG_MAP.to_owned());
    map.data = Some(BTreeMap::from([("ca.crt".to_owned(), authority.to_owned())]));
    let params = PatchParams::apply("root-ca-certificate-publisher").force();
    view.authorities.put(api.patch(ROOT_CA_CONFIG_MAP, &params, &Patch::Apply(&map)).await?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lacks() {
        let namespace = Namespace::default();
        let mut leaving = Namespace::default();
        leaving.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH));
        let map = |text: &str| ConfigMap {
            data: Some(BTreeMap::from([("ca.crt".to_owned(), text.to_owned())])),
            ..ConfigMap::default()
        };
        let (right, wrong) = (map("right"), map("wrong"));
        let cases: &[(&Namespace, bool, Option<&ConfigMap>, &[Lack])] = &[
            (&namespace, false, None, &[Lack::ServiceAccount, Lack::Authority]),
            (&namespace, true, Some(&wrong), &[Lack::Authority]),
            (&namespace, true, Some(&right), &[]),
            (&leaving, false, None, &[]),
        ];
        for (namespace, account, authority, expected) in cases {
            assert_eq!(decide(namespace, *account, *authority, "right"), *expected);
        }
    }
}
