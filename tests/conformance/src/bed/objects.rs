//! Objects that are applied and deleted.

use anyhow::Result;
use futures_util::stream::{StreamExt as _, TryStreamExt as _, iter};
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams};
use serde_json::Value;

use super::Bed;

/// Objects that are applied at the same time.
const AT_ONCE: usize = 16;

impl Bed {
    /// Applies objects, many at the same time.
    ///
    /// # Errors
    /// Returns an error that names the objects that are refused.
    pub async fn apply(&self, objects: Vec<Value>) -> Result<()> {
        let refused = self.refused(objects.into_iter().map(|object| ((), object)).collect()).await;
        let refused: Vec<String> = refused.into_iter().map(|((), why)| why).collect();
        anyhow::ensure!(refused.is_empty(), "{}", refused.join("\n"));
        Ok(())
    }

    /// Applies objects, many at the same time, and returns which are refused, and why.
    pub async fn refused<K>(&self, objects: Vec<(K, Value)>) -> Vec<(K, String)> {
        let all = iter(objects).map(|(key, object)| async move { (key, self.apply_one(object).await) });
        let refused = all
            .buffer_unordered(AT_ONCE)
            .filter_map(|(key, applied)| async move { applied.err().map(|error| (key, error.to_string())) });
        refused.collect().await
    }

    async fn apply_one(&self, object: Value) -> Result<()> {
        let (api, what) = self.api(&object);
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let parameters = PatchParams::apply("isthmus-conformance").force();
        let applied = api.patch(name, &parameters, &Patch::Apply(&object)).await;
        let applied = applied.map_err(|error| match error {
            kube::Error::Api(status) => anyhow::anyhow!("{what}: {}", status.message),
            other => anyhow::Error::from(other).context(what),
        })?;
        if object["kind"] == "Service"
            && let Some(address) = applied.data["spec"]["clusterIP"].as_str().and_then(|address| address.parse().ok())
        {
            let mut addresses = self.addresses.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
            addresses.insert(format!("{name}.{namespace}"), address);
        }
        Ok(())
    }

    /// Deletes objects, many at the same time.
    ///
    /// # Errors
    /// Returns an error if one exists and cannot be deleted.
    pub async fn delete(&self, objects: &[Value]) -> Result<()> {
        let all = iter(objects).map(|object| async move {
            let (api, what) = self.api(object);
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            match api.delete(name, &DeleteParams::default()).await {
                Ok(_) => Ok(()),
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
                Err(error) => Err(anyhow::Error::from(error).context(what)),
            }
        });
        all.buffer_unordered(AT_ONCE).try_collect().await
    }

    /// The resource of an object, and what it is called.
    fn api(&self, object: &Value) -> (Api<DynamicObject>, String) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (kind, api_version) = (text(&object["kind"]), text(&object["apiVersion"]));
        let (namespace, name) = (text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]));
        let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &kind));
        let api = match namespace.as_str() {
            "" => Api::all_with(self.client.clone(), &resource),
            namespace => Api::namespaced_with(self.client.clone(), namespace, &resource),
        };
        (api, format!("{kind} {namespace}/{name}"))
    }
}
