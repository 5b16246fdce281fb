//! The writes of a [`super::writer::Writer`].

use std::hash::BuildHasher;
use std::sync::Arc;

use api::export::{ServiceExport, ServiceImport};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};

use super::objects::{Condition, ExportStatus, Import};
use super::present::{PresentImport, PresentSlice};
use super::slices::NamedSlice;
use crate::clusters::trouble::{self, Trouble};
use crate::objects::Key;

/// The field manager of server-side apply.
const FIELD_MANAGER: &str = "isthmus-controller";

/// Something to write.
pub(super) enum Write {
    Import(Key, Arc<Import>),
    ImportStatus(Key, Arc<Import>, Box<PresentImport>),
    /// With the uid of the import that is to own the slice.
    Slice(Key, Arc<NamedSlice>, Option<String>),
    DeleteImport(Key),
    DeleteSlice(Key),
    ExportStatus(Key, Box<ExportStatus>),
}

/// What a write has led to.
pub(super) enum Done {
    Import(Key, Box<Accepted>),
    Slice(Key, PresentSlice),
    NoImport(Key),
    NoSlice(Key),
    ExportStatus(Key, u64),
}

/// What an API server made of an import.
pub(super) struct Accepted {
    /// The digests of what was written.
    pub(super) content: String,
    pub(super) status: String,
    pub(super) made: PresentImport,
}

impl Accepted {
    pub(super) fn has(&self, present: &PresentImport, import: &Import) -> bool {
        self.content == import.content && self.status == import.status && self.made.is_same(present)
    }
}

/// Returns a hash of a status, by which it is known whether it has been written.
pub(super) fn hash(status: &ExportStatus) -> u64 {
    foldhash::quality::FixedState::default().hash_one(status)
}

/// Makes a write. What was made already is done.
pub(super) async fn perform(client: &Client, write: Write) -> Result<Done, Trouble> {
    let apply = PatchParams::apply(FIELD_MANAGER).force();
    match write {
        Write::Import(key, import) => {
            let api = Api::<ServiceImport>::namespaced(client.clone(), &key.namespace);
            let made = api.patch(&key.name, &apply, &Patch::Apply(import.to_json(&key))).await.map_err(of)?;
            let present = PresentImport::of(made);
            if present.has_status(&import) {
                return Ok(accepted(key, &import, present));
            }
            write_status(client, key, &import, &present).await
        }
        Write::ImportStatus(key, import, present) => write_status(client, key, &import, &present).await,
        Write::Slice(key, slice, import) => {
            let api = Api::<DynamicObject>::namespaced_with(client.clone(), &key.namespace, &slice_resource());
            let object = slice.slice.to_json(&key, &slice.content, import.as_deref());
            let made = api.patch(&key.name, &apply, &Patch::Apply(object)).await;
            let present = PresentSlice::of(&made.map_err(of)?.metadata);
            Ok(Done::Slice(key, present))
        }
        Write::DeleteImport(key) => {
            let api = Api::<ServiceImport>::namespaced(client.clone(), &key.namespace);
            gone(api.delete(&key.name, &DeleteParams::default()).await.map(drop))?;
            Ok(Done::NoImport(key))
        }
        Write::DeleteSlice(key) => {
            let api = Api::<DynamicObject>::namespaced_with(client.clone(), &key.namespace, &slice_resource());
            gone(api.delete(&key.name, &DeleteParams::default()).await.map(drop))?;
            Ok(Done::NoSlice(key))
        }
        Write::ExportStatus(key, status) => {
            write_export_status(client, &key, &status).await?;
            Ok(Done::ExportStatus(key, hash(&status)))
        }
    }
}

async fn write_status(client: &Client, key: Key, import: &Import, present: &PresentImport) -> Result<Done, Trouble> {
    let api = Api::<ServiceImport>::namespaced(client.clone(), &key.namespace);
    let status = import.status_json(present.generation, &present.ready, &Timestamp::now().to_string());
    let patch = Patch::Merge(json!({"status": status}));
    let made = api.patch_status(&key.name, &PatchParams::default(), &patch).await.map_err(of)?;
    Ok(accepted(key, import, PresentImport::of(made)))
}

fn accepted(key: Key, import: &Import, made: PresentImport) -> Done {
    let (content, status) = (import.content.clone(), import.status.clone());
    Done::Import(key, Box::new(Accepted { content, status, made }))
}

async fn write_export_status(client: &Client, key: &Key, status: &ExportStatus) -> Result<(), Trouble> {
    let api: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), &key.namespace, &ApiResource::erase::<ServiceExport>(&()));
    let Some(export) = api.get_opt(&key.name).await.map_err(of)? else { return Err(Trouble::Missing) };
    let present = export.data.get("status").cloned().unwrap_or_default();
    let generation = export.metadata.generation.unwrap_or_default();
    let Some(conditions) = with_conditions(&present, &status.conditions, generation, &Timestamp::now().to_string())
    else {
        return Ok(());
    };
    // Another writer of conditions must not be undone.
    let patch = json!({
        "metadata": {"resourceVersion": export.resource_version()},
        "status": {"conditions": conditions},
    });
    api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop).map_err(of)
}

/// Returns the conditions with which an object has these, or `None` if it has them. Conditions of other types stay.
fn with_conditions(present: &Value, wanted: &[Condition], generation: i64, now: &str) -> Option<Vec<Value>> {
    let present = present["conditions"].as_array().cloned().unwrap_or_default();
    let find = |kind: &str| present.iter().find(|of| of["type"] == kind).unwrap_or(&Value::Null);
    let has = |of: &Condition| {
        let known = find(of.kind);
        known["status"] == of.status && known["reason"] == *of.reason && known["message"] == *of.message
    };
    if wanted.iter().all(has) {
        return None;
    }
    let others = present.iter().filter(|of| !wanted.iter().any(|wanted| of["type"] == wanted.kind)).cloned();
    let own = wanted.iter().map(|of| of.to_json(generation, find(of.kind), now));
    Some(own.chain(others).collect())
}

fn slice_resource() -> ApiResource {
    ApiResource::erase::<EndpointSlice>(&())
}

/// Classifies an error. In a namespace that is being deleted, nothing can be created: it is as if it were gone.
fn of(error: kube::Error) -> Trouble {
    let terminating = match &error {
        kube::Error::Api(status) => {
            let mut causes = status.details.iter().flat_map(|details| &details.causes);
            causes.any(|cause| cause.reason == "NamespaceTerminating")
        }
        _ => false,
    };
    if terminating { Trouble::Missing } else { trouble::of(&error) }
}

/// Takes what is gone for deleted.
fn gone(deleted: Result<(), kube::Error>) -> Result<(), Trouble> {
    match deleted.map_err(of) {
        Err(Trouble::Missing) => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_of_others_stay_and_times_change_with_the_status_alone() {
        let wanted = [
            Condition::new("Valid", "True", "Valid", ""),
            Condition::new("Ready", "True", "Exported", "exported"),
            Condition::new("Conflict", "True", "PortConflict", "1/2 clusters disagree."),
        ];
        let first = with_conditions(&Value::Null, &wanted, 1, "t1").unwrap();
        assert_eq!(first.len(), 3);
        let present = json!({"conditions": first});
        assert_eq!(with_conditions(&present, &wanted, 1, "t2"), None);
        let mut present = present;
        present["conditions"].as_array_mut().unwrap().push(json!({"type": "Mine", "status": "True"}));
        let mut next = wanted;
        next[0] = Condition::new("Valid", "False", "NoService", "gone");
        next[2].message = "2/3 clusters disagree.".to_owned();
        let written = with_conditions(&present, &next, 2, "t2").unwrap();
        let of = |kind: &str| written.iter().find(|of| of["type"] == kind).unwrap();
        assert_eq!(
            (&of("Valid")["lastTransitionTime"], &of("Conflict")["lastTransitionTime"]),
            (&json!("t2"), &json!("t1"))
        );
        assert_eq!(of("Mine")["status"], "True");
        assert_eq!(of("Conflict")["message"], "2/3 clusters disagree.");
    }
}
