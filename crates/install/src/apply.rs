//! Applying objects to a cluster, as `kubectl apply --server-side` does.

use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::discovery::{Scope, pinned_kind};
use kube::{Client, ResourceExt as _};
use serde_json::Value;

use crate::client_error;

/// Requests in flight at once. The API server of a lab is one process on this machine.
const CONCURRENCY: usize = 8;
/// How long to wait for a kind that was just defined to be served, or for a namespace to exist.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait between two attempts.
const RETRY: Duration = Duration::from_millis(50);

/// An object could not be applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The API server refused the object or could not be reached.
    #[error("{kind} {name}: {}", client_error::describe(.source))]
    Refused {
        /// Kind of the object.
        kind: String,
        /// Name of the object, after its namespace if it has one.
        name: String,
        /// The client's error.
        #[source]
        source: kube::Error,
    },
    /// A manifest is not a Kubernetes object.
    #[error("{0}")]
    NotAnObject(String),
}

/// Applies `objects` as `field_manager`, taking over fields of other managers: namespaces and custom resource definitions
/// first, then the rest concurrently. Waits a few seconds for a kind or namespace that was created a moment ago.
///
/// # Errors
/// Returns an error for the first object that the API server refuses.
pub async fn apply(client: &Client, field_manager: &str, objects: Vec<Value>) -> Result<(), ApplyError> {
    let (first, rest): (Vec<Value>, Vec<Value>) = objects
        .into_iter()
        .partition(|object| matches!(object["kind"].as_str(), Some("Namespace" | "CustomResourceDefinition")));
    for wave in [first, rest] {
        stream::iter(wave)
            .map(|object| apply_one(client, field_manager, object))
            .buffer_unordered(CONCURRENCY)
            .try_collect::<()>()
            .await?;
    }
    Ok(())
}

async fn apply_one(client: &Client, field_manager: &str, object: Value) -> Result<(), ApplyError> {
    let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    let name = qualified_name(&object["metadata"]);
    if kind.is_empty() || version.is_empty() || name.is_empty() {
        let start: String = object.to_string().chars().take(80).collect();
        return Err(ApplyError::NotAnObject(format!(
            "not a Kubernetes object, which needs apiVersion, kind and metadata.name: {start}"
        )));
    }
    let gvk = GroupVersionKind::gvk(group, version, &kind);
    let object: DynamicObject = serde_json::from_value(object).map_err(|_| {
        ApplyError::NotAnObject(format!("{kind} {name}: its metadata is not that of a Kubernetes object"))
    })?;
    let begin = Instant::now();
    loop {
        let error = match try_apply(client, field_manager, &gvk, &object).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        // A kind or namespace that was created a moment ago may not be served yet; a busy server may conflict with itself.
        let transient = matches!(&error, kube::Error::Api(status) if matches!(status.code, 404 | 409 | 429 | 500..))
            || matches!(error, kube::Error::Service(_) | kube::Error::HyperError(_) | kube::Error::Discovery(_));
        if !transient || begin.elapsed() > PATIENCE {
            return Err(ApplyError::Refused { kind, name, source: error });
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn qualified_name(metadata: &Value) -> String {
    let name = metadata["name"].as_str().unwrap_or_default();
    match metadata["namespace"].as_str() {
        Some(namespace) if !name.is_empty() => format!("{namespace}/{name}"),
        _ => name.to_owned(),
    }
}

async fn try_apply(
    client: &Client,
    field_manager: &str,
    kind: &GroupVersionKind,
    object: &DynamicObject,
) -> kube::Result<()> {
    let (resource, namespaced) = match known(kind) {
        Some(known) => known,
        None => {
            let (resource, capabilities) = pinned_kind(client, kind).await?;
            (resource, capabilities.scope == Scope::Namespaced)
        }
    };
    let api: Api<DynamicObject> = if namespaced {
        Api::namespaced_with(client.clone(), object.namespace().as_deref().unwrap_or("default"), &resource)
    } else {
        Api::all_with(client.clone(), &resource)
    };
    api.patch(&object.name_any(), &PatchParams::apply(field_manager).force(), &Patch::Apply(object)).await.map(drop)
}

/// Plural and scope of built-in kinds, which saves a discovery request.
fn known(kind: &GroupVersionKind) -> Option<(ApiResource, bool)> {
    let (plural, namespaced) = match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "Namespace") => ("namespaces", false),
        ("", "ServiceAccount") => ("serviceaccounts", true),
        ("", "Service") => ("services", true),
        ("", "Secret") => ("secrets", true),
        ("", "ConfigMap") => ("configmaps", true),
        ("apps", "Deployment") => ("deployments", true),
        ("discovery.k8s.io", "EndpointSlice") => ("endpointslices", true),
        ("rbac.authorization.k8s.io", "ClusterRole") => ("clusterroles", false),
        ("rbac.authorization.k8s.io", "ClusterRoleBinding") => ("clusterrolebindings", false),
        ("rbac.authorization.k8s.io", "Role") => ("roles", true),
        ("rbac.authorization.k8s.io", "RoleBinding") => ("rolebindings", true),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => ("customresourcedefinitions", false),
        ("admissionregistration.k8s.io", "MutatingWebhookConfiguration") => ("mutatingwebhookconfigurations", false),
        ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration") => {
            ("validatingwebhookconfigurations", false)
        }
        ("multicluster.x-k8s.io", "ServiceExport") => ("serviceexports", true),
        _ => return None,
    };
    Some((ApiResource::from_gvk_with_plural(kind, plural), namespaced))
}
