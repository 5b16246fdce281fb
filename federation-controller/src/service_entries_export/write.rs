//! Writing the objects of one cluster: what differs is applied, and what is not wanted any more is deleted.

use std::collections::BTreeMap;

use api::networking::{DestinationRule, ServiceEntry};
use api::service_entry_export::{EXPORTED_BY, EXPORTED_FROM, drift};
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, Preconditions};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};

use super::plan::Wanted;
use crate::clusters::trouble::{self, Trouble};
use crate::objects::Key;

/// The field manager of server-side apply.
const MANAGER: &str = "isthmus-export";
/// The number of objects of a page.
const PAGE: u32 = 500;
/// The number of pages that are read.
const PAGES: usize = 100;

/// What came of writing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// The objects that were not written, and why.
    pub(super) failed: BTreeMap<Key, String>,
    /// The number of ServiceEntries that the cluster had before.
    pub(super) objects: usize,
}

/// Makes the objects of a cluster what is wanted. `own` is the controller's cluster.
pub(super) async fn write(client: &Client, own: &str, wanted: &Wanted) -> Result<Outcome, Trouble> {
    let kinds = [ApiResource::erase::<ServiceEntry>(&()), ApiResource::erase::<DestinationRule>(&())];
    let entries = listed(client, &kinds[0], own).await?;
    let rules = listed(client, &kinds[1], own).await?;
    let mut outcome = Outcome { objects: entries.len(), ..Outcome::default() };
    for (name, [entry, rule]) in &wanted.objects {
        let written = async {
            let uid = apply(client, &kinds[0], own, entry.clone(), entries.get(name)).await?;
            let mut rule = rule.clone();
            rule["metadata"]["ownerReferences"] = json!([{
                "apiVersion": kinds[0].api_version, "kind": kinds[0].kind, "name": *name.name, "uid": uid,
                "controller": true,
            }]);
            apply(client, &kinds[1], own, rule, rules.get(name)).await
        };
        match written.await {
            Ok(_) => {}
            Err(NotWritten::Trouble(Trouble::Missing)) => {
                let why = format!("the namespace {} does not exist there: create it", name.namespace);
                outcome.failed.insert(name.clone(), why);
            }
            Err(NotWritten::Trouble(refused @ Trouble::Refused(_))) => return Err(refused),
            Err(NotWritten::Trouble(trouble)) => drop(outcome.failed.insert(name.clone(), trouble.to_string())),
            Err(NotWritten::Foreign(why)) => drop(outcome.failed.insert(name.clone(), why)),
        }
    }
    // With the entry the API server deletes the rule that it owns; a rule whose entry somebody else deleted is deleted here.
    for (kind, found) in kinds.iter().zip([&entries, &rules]) {
        for (name, object) in found.iter().filter(|(name, object)| is_over(wanted, name, object)) {
            delete(client, kind, name, object).await?;
            tracing::info!(kind = kind.kind, object = %name, "deleted: its service is no longer exported to the cluster");
        }
    }
    Ok(outcome)
}

/// Returns whether an object is not wanted any more, as far as that is certain.
fn is_over(wanted: &Wanted, name: &Key, object: &DynamicObject) -> bool {
    let from = object.annotations().get(EXPORTED_FROM).map(String::as_str).unwrap_or_default();
    !wanted.objects.contains_key(name)
        && !wanted.kept.contains(name)
        && from.split(',').all(|cluster| wanted.known.is_certain(cluster))
}

/// Returns the objects of a kind that this controller has written.
async fn listed(client: &Client, kind: &ApiResource, own: &str) -> Result<BTreeMap<Key, DynamicObject>, Trouble> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), kind);
    let mut params = ListParams::default().labels(&format!("{EXPORTED_BY}={own}")).limit(PAGE);
    let mut all = BTreeMap::new();
    for _ in 0..PAGES {
        let page = api.list(&params).await.map_err(|error| trouble::of(&error))?;
        let key = |object: &DynamicObject| Key::new(&object.namespace().unwrap_or_default(), &object.name_any());
        all.extend(page.items.into_iter().map(|object| (key(&object), object)));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => return Ok(all),
        }
    }
    Err(Trouble::Failed(format!("the cluster has more than {} objects of kind {}", PAGES * PAGE as usize, kind.kind)))
}

/// Why an object was not written.
enum NotWritten {
    Trouble(Trouble),
    /// An object of this name is somebody else's.
    Foreign(String),
}

impl From<&kube::Error> for NotWritten {
    fn from(error: &kube::Error) -> Self {
        NotWritten::Trouble(trouble::of(error))
    }
}

/// Applies an object if it differs from the present one, and returns its uid.
async fn apply(
    client: &Client,
    kind: &ApiResource,
    own: &str,
    object: Value,
    present: Option<&DynamicObject>,
) -> Result<String, NotWritten> {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    let (namespace, name) = (text("namespace"), text("name"));
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, kind);
    match present {
        Some(present) => {
            let found = serde_json::to_value(present).unwrap_or_default();
            if drift(&object, Some(&found)).is_empty() {
                return Ok(present.uid().unwrap_or_default());
            }
        }
        None => {
            // What has no label of ours is not ours.
            let found = api.get_metadata_opt(name).await.map_err(|error| NotWritten::from(&error))?;
            if let Some(found) = found.filter(|found| found.labels().get(EXPORTED_BY).is_none_or(|by| by != own)) {
                let by = found.labels().get(EXPORTED_BY);
                let whose = by.map_or("somebody else".to_owned(), |by| format!("the controller of cluster {by}"));
                return Err(NotWritten::Foreign(format!(
                    "{} {namespace}/{name} exists there and was written by {whose}: delete it, or label it {EXPORTED_BY}={own}",
                    kind.kind
                )));
            }
        }
    }
    let params = PatchParams::apply(MANAGER).force();
    let applied = api.patch(name, &params, &Patch::Apply(&object)).await.map_err(|error| NotWritten::from(&error))?;
    tracing::info!(kind = kind.kind, namespace, name, "applied");
    Ok(applied.uid().unwrap_or_default())
}

/// Deletes an object, if it is still the one that was listed.
async fn delete(client: &Client, kind: &ApiResource, name: &Key, object: &DynamicObject) -> Result<(), Trouble> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &name.namespace, kind);
    let preconditions = Preconditions { uid: object.uid(), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    match api.delete(&name.name, &params).await {
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        done => done.map(drop).map_err(|error| trouble::of(&error)),
    }
}
