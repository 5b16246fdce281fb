//! The objects of the importing cluster.

use anyhow::{Context as _, bail};
use api::networking::{DestinationRule, ServiceEntry};
use api::service_entry_export::{BY_COMMAND, Drift, EXPORTED_FROM, MANAGED_BY, drift};
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt as _;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use lab::console::{Patience, print_stderr};
use serde_json::Value;

use crate::access::ClusterAccess;

/// Field manager of server-side apply.
const FIELD_MANAGER: &str = "isthmus-export";

/// An object as the API server knows it.
struct Named<'a> {
    api: Api<DynamicObject>,
    kind: &'a str,
    namespace: &'a str,
    name: &'a str,
}

impl<'a> Named<'a> {
    fn of(cluster: &ClusterAccess, object: &'a Value) -> Self {
        let text = |value: &'a Value| value.as_str().unwrap_or_default();
        let (namespace, name) = (text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]));
        let kind = text(&object["kind"]);
        let resource = match kind {
            "ServiceEntry" => ApiResource::erase::<ServiceEntry>(&()),
            _ => ApiResource::erase::<DestinationRule>(&()),
        };
        let api = Api::namespaced_with(cluster.client.clone(), namespace, &resource);
        Named { api, kind, namespace, name }
    }

    async fn get(&self, cluster: &ClusterAccess, patience: &Patience) -> anyhow::Result<Option<DynamicObject>> {
        let found = patience.answer(&cluster.api_server(), self.api.get_opt(self.name)).await?;
        found.with_context(|| format!("reading {self} of {}", cluster.name))
    }
}

impl std::fmt::Display for Named<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// Returns an error if an object is for the host of a Service of the cluster. In Istio the DestinationRule would apply to the
/// Service's own pods as well, and in Isthmus the Service takes precedence.
pub(super) async fn check_host(cluster: &ClusterAccess, object: &Value, patience: &Patience) -> anyhow::Result<()> {
    let host = object["spec"]["host"].as_str().unwrap_or_default();
    let mut parts = host.splitn(4, '.');
    let (Some(name), Some(namespace), Some("svc")) = (parts.next(), parts.next(), parts.next()) else { return Ok(()) };
    let services: Api<Service> = Api::namespaced(cluster.client.clone(), namespace);
    let found = patience.answer(&cluster.api_server(), services.get_opt(name)).await?;
    if found.with_context(|| format!("reading Service {namespace}/{name} of {}", cluster.name))?.is_some() {
        bail!(
            "{} has a Service {namespace}/{name} of its own, so {host} is not free there\n  give the service another host: --host {name}.{namespace}.global",
            cluster.name
        );
    }
    Ok(())
}

/// Applies an object. One that this command has not written is left alone.
pub(super) async fn apply(cluster: &ClusterAccess, object: &Value, patience: &Patience) -> anyhow::Result<()> {
    let named = Named::of(cluster, object);
    let present = named.get(cluster, patience).await?;
    let is_ours = |found: &DynamicObject| found.labels().get(MANAGED_BY).is_some_and(|by| by == BY_COMMAND);
    if present.as_ref().is_some_and(|found| !is_ours(found)) {
        bail!(
            "{named} of {} was not written by isthmus export\n  delete it, or label it {MANAGED_BY}={BY_COMMAND} to have it replaced",
            cluster.name
        );
    }
    let (params, patch) = (PatchParams::apply(FIELD_MANAGER).force(), Patch::Apply(object));
    let applied = named.api.patch(named.name, &params, &patch);
    match patience.answer(&cluster.api_server(), applied).await? {
        Err(kube::Error::Api(status)) if status.code == 404 && present.is_none() => bail!(
            "{} has no namespace {}, or does not define {}\n  create the namespace: {} create namespace {}; or choose another: --into NAMESPACE",
            cluster.name,
            named.namespace,
            named.kind,
            cluster.kubectl,
            named.namespace
        ),
        applied => applied.with_context(|| format!("applying {named} to {}", cluster.name))?,
    };
    print_stderr(&format!("{}: {named} applied", cluster.name));
    Ok(())
}

/// Returns the objects of a cluster that this command has written for services of some clusters, without these ones. `namespace`:
/// only there.
pub(super) async fn surplus(
    cluster: &ClusterAccess,
    objects: &[Value],
    namespace: Option<&str>,
    from: &[&str],
    patience: &Patience,
) -> anyhow::Result<Vec<Surplus>> {
    let mut surplus = Vec::new();
    for kind in [ApiResource::erase::<ServiceEntry>(&()), ApiResource::erase::<DestinationRule>(&())] {
        let api: Api<DynamicObject> = match namespace {
            Some(namespace) => Api::namespaced_with(cluster.client.clone(), namespace, &kind),
            None => Api::all_with(cluster.client.clone(), &kind),
        };
        let params = ListParams::default().labels(&format!("{MANAGED_BY}={BY_COMMAND}"));
        let listed = patience.answer(&cluster.api_server(), api.list_metadata(&params)).await?;
        let listed = listed.with_context(|| format!("listing objects of kind {} of {}", kind.kind, cluster.name))?;
        for found in listed.items {
            let (namespace, name) = (found.namespace().unwrap_or_default(), found.name_any());
            let clusters = found.annotations().get(EXPORTED_FROM).map(String::as_str).unwrap_or_default();
            let is_made = |object: &Value| {
                let metadata = &object["metadata"];
                object["kind"] == *kind.kind && metadata["namespace"] == *namespace && metadata["name"] == *name
            };
            if clusters.split(',').all(|of| from.contains(&of)) && !objects.iter().any(is_made) {
                surplus.push(Surplus { kind: kind.clone(), namespace, name });
            }
        }
    }
    Ok(surplus)
}

/// An object whose service is not exported any more.
pub(super) struct Surplus {
    kind: ApiResource,
    namespace: String,
    name: String,
}

impl Surplus {
    /// Returns whether the object has this namespace and name.
    pub(super) fn is(&self, namespace: &str, name: &str) -> bool {
        self.namespace == namespace && self.name == name
    }
}

impl std::fmt::Display for Surplus {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} {}/{}", self.kind.kind, self.namespace, self.name)
    }
}

/// Deletes an object.
pub(super) async fn delete(cluster: &ClusterAccess, of: &Surplus, patience: &Patience) -> anyhow::Result<()> {
    let api: Api<DynamicObject> = Api::namespaced_with(cluster.client.clone(), &of.namespace, &of.kind);
    match patience.answer(&cluster.api_server(), api.delete(&of.name, &DeleteParams::default())).await? {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        deleted => drop(deleted.with_context(|| format!("deleting {of} of {}", cluster.name))?),
    }
    print_stderr(&format!("{}: {of} deleted", cluster.name));
    Ok(())
}

/// Returns how the objects of a cluster differ from these.
pub(super) async fn compare(
    cluster: &ClusterAccess,
    objects: &[Value],
    patience: &Patience,
) -> anyhow::Result<Vec<Drift>> {
    let mut drifts = Vec::new();
    for object in objects {
        let found = Named::of(cluster, object).get(cluster, patience).await?;
        let found = found.map(serde_json::to_value).transpose()?;
        drifts.extend(drift(object, found.as_ref()));
    }
    Ok(drifts)
}
