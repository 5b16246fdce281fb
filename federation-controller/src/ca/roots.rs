//! Distribution of the roots to workloads and API servers: ConfigMap `istio-ca-root-cert` in every namespace of every
//! cluster that this controller signs for, and the `caBundle` of the admission webhooks in those clusters.
//!
//! Beside the roots is the certificate that signs the controller's own. Proxies accept no other signer of the controller's
//! identity, so that a cluster which can sign its name cannot pose as the controller.
//!
//! In a remote cluster this requires permission to write ConfigMaps of that name, which `isthmus join` and the install
//! manifests grant. In a cluster without that permission nothing is written, and the refusal is logged once. The
//! webhook configurations are written only where the account may write them. Remote clusters do not grant that by default,
//! because a principal that may change a webhook configuration decides what every new pod runs; there the installation
//! writes the roots. A cluster with a controller of its own is not signed for here, so nothing is written to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api::names::{CONTROLLER_ISSUER_KEY, INJECTION_WEBHOOK, ROOT_CONFIG_KEY, ROOT_CONFIG_MAP, WARNING_WEBHOOK};
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::task::JoinHandle;

use super::Authorities;
use crate::clusters::Clusters;
use crate::clusters::trouble::{self, Trouble};
use crate::objects::Text;
use crate::objects::raw::ConfigMapObject;

/// The field manager of this controller in server-side apply.
const FIELD_MANAGER: &str = "isthmus-controller";
/// The data key of the cluster's own intermediate, beside the roots; only in the root namespace.
pub(super) const ISSUER_KEY: &str = "issuer-cert.pem";
/// The interval at which all objects are checked, so that an outside change or deletion is repaired.
const REPAIR: Duration = Duration::from_secs(60);
/// The time between attempts after a failure.
const RETRY: Duration = Duration::from_secs(2);

/// Writes the roots to all clusters that this controller signs for, and reads the intermediates of the others, until
/// the senders of `clusters` or `authorities` are dropped.
pub async fn keep(clusters: Clusters, authorities: Authorities) {
    tokio::select! {
        () = write(clusters.clone(), authorities.clone()) => {}
        () = super::issuers::keep(clusters, authorities) => {}
    }
}

async fn write(clusters: Clusters, authorities: Authorities) {
    let mut changes = clusters.changes();
    let mut trust = authorities.changes();
    let mut writers: BTreeMap<Text, Writer> = BTreeMap::new();
    loop {
        changes.borrow_and_update();
        let snapshot = trust.borrow_and_update().clone();
        let wanted: BTreeSet<Text> =
            clusters.names().into_iter().filter(|cluster| snapshot.of(cluster).is_some()).collect();
        writers.retain(|cluster, _| wanted.contains(cluster));
        for cluster in wanted {
            writers
                .entry(cluster.clone())
                .or_insert_with(|| Writer(tokio::spawn(write_to(clusters.clone(), authorities.clone(), cluster))));
        }
        let open = tokio::select! {
            changed = changes.changed() => changed.is_ok(),
            changed = trust.changed() => changed.is_ok(),
        };
        if !open {
            return;
        }
    }
}

struct Writer(JoinHandle<()>);

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Writes the roots to one cluster: at once to new namespaces, and to all namespaces every [`REPAIR`].
async fn write_to(clusters: Clusters, authorities: Authorities, cluster: Text) {
    let Some(mut namespaces) = clusters.namespaces(&cluster) else { return };
    let mut trust = authorities.changes();
    let mut written: BTreeSet<Text> = BTreeSet::new();
    let mut refused = false;
    loop {
        let now: Arc<BTreeSet<Text>> = namespaces.borrow_and_update().clone();
        let snapshot = trust.borrow_and_update().clone();
        let (roots, controller) = (snapshot.roots_pem(), snapshot.own_signer_pem());
        let Some(client) = clusters.client(&cluster) else { return };
        written.retain(|namespace| now.contains(namespace));
        let mut wait = REPAIR;
        for namespace in now.difference(&written.clone()) {
            // Other controllers read this cluster's intermediate from the root namespace.
            let publishes = cluster == *clusters.own() && **namespace == *authorities.root_namespace();
            let issuer = if publishes { snapshot.own_issuer_pem() } else { None };
            let mut entries = vec![(ROOT_CONFIG_KEY, &*roots), (CONTROLLER_ISSUER_KEY, &*controller)];
            entries.extend(issuer.as_deref().map(|issuer| (ISSUER_KEY, issuer)));
            match write_roots(&client, namespace, &entries).await {
                Ok(()) => {
                    written.insert(namespace.clone());
                }
                Err(trouble) => wait = wait.min(report(&cluster, namespace, trouble, &mut refused)),
            }
        }
        for (resource, name) in webhook_configurations() {
            match write_bundle(&client, &resource, name, &roots).await {
                // Remote clusters do not grant this by default.
                Err(Trouble::Refused(_)) if cluster != *clusters.own() => {}
                Err(trouble) => wait = wait.min(report(&cluster, name, trouble, &mut refused)),
                Ok(()) => {}
            }
        }
        tokio::select! {
            changed = namespaces.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            changed = trust.changed() => {
                if changed.is_err() {
                    return;
                }
                written.clear();
            }
            () = tokio::time::sleep(wait) => if wait == REPAIR {
                written.clear();
            },
        }
    }
}

/// Logs a failure, the first refusal as a warning, and returns the time until the next attempt.
fn report(cluster: &str, what: &str, trouble: Trouble, refused: &mut bool) -> Duration {
    match trouble {
        Trouble::Refused(why) => {
            if !std::mem::replace(refused, true) {
                tracing::warn!(
                    cluster,
                    what,
                    why,
                    "the roots may not be written to this cluster; grant the permission with `isthmus join`"
                );
            }
            REPAIR
        }
        // The namespace was deleted, or the webhook is not installed.
        Trouble::Missing => REPAIR,
        Trouble::Restarts => RETRY,
        Trouble::Failed(why) => {
            tracing::debug!(cluster, what, why, "cannot write the roots; trying again");
            RETRY
        }
    }
}

/// Writes entries to the ConfigMap of one namespace, unless it holds them already.
async fn write_roots(client: &Client, namespace: &str, entries: &[(&str, &str)]) -> Result<(), Trouble> {
    let api = Api::<ConfigMapObject>::namespaced(client.clone(), namespace);
    let current = api.get_opt(ROOT_CONFIG_MAP).await.map_err(|e| trouble::of(&e))?;
    let held = |key: &str| current.as_ref().and_then(|map| map.data.as_ref()?.get(key)).map(String::as_str);
    if entries.iter().all(|(key, value)| held(key) == Some(value)) {
        return Ok(());
    }
    let data: BTreeMap<&str, &str> = entries.iter().copied().collect();
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": ROOT_CONFIG_MAP, "namespace": namespace, "labels": {"istio.io/config": "true"}},
        "data": data,
    });
    let params = PatchParams::apply(FIELD_MANAGER).force();
    api.patch(ROOT_CONFIG_MAP, &params, &Patch::Apply(map)).await.map(|_| ()).map_err(|e| trouble::of(&e))
}

/// Returns the configurations of the admission webhooks.
fn webhook_configurations() -> [(ApiResource, &'static str); 2] {
    [
        (ApiResource::erase::<MutatingWebhookConfiguration>(&()), INJECTION_WEBHOOK),
        (ApiResource::erase::<ValidatingWebhookConfiguration>(&()), WARNING_WEBHOOK),
    ]
}

/// Writes the roots to a webhook configuration, unless it holds them already.
async fn write_bundle(client: &Client, resource: &ApiResource, name: &str, roots: &str) -> Result<(), Trouble> {
    let api = Api::<DynamicObject>::all_with(client.clone(), resource);
    let Some(configuration) = api.get_opt(name).await.map_err(|e| trouble::of(&e))? else {
        return Ok(());
    };
    let bundle = json!(ByteString(roots.as_bytes().to_vec()));
    let mut changes = Vec::new();
    for (index, webhook) in configuration.data["webhooks"].as_array().into_iter().flatten().enumerate() {
        if webhook["clientConfig"]["caBundle"] != bundle {
            let path = format!("/webhooks/{index}/clientConfig/caBundle");
            // If the list has changed since it was read, the test fails, and the next round reads the list again.
            changes.push(json!({"op": "test", "path": format!("/webhooks/{index}/name"), "value": webhook["name"]}));
            changes.push(json!({"op": "add", "path": path, "value": bundle}));
        }
    }
    if changes.is_empty() {
        return Ok(());
    }
    let patch = serde_json::from_value(json!(changes)).map_err(|e| Trouble::Failed(e.to_string()))?;
    let patched = api.patch(name, &PatchParams::default(), &Patch::<DynamicObject>::Json(patch)).await;
    patched.map(|_| ()).map_err(|e| trouble::of(&e))
}
