//! Updates of objects: `PUT` and `PATCH` of an object, its status or another subresource.

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::create;
use crate::admission::{self, AdmissionOperation};
use crate::api::{can_be_removed, write_error_to_status};
use crate::body::ResponseBody;
use crate::call::{ApiCall, Verb};
use crate::kinds::Subresource;
use crate::patch::managed::{self, FieldManager};
use crate::patch::{ResourcePatch, apply};
use crate::status::{Result, Status, StatusCause};
use crate::storage::{StoredObject, WriteError};
use crate::strategy::{decode, prepare};
use crate::{allocator, crd, encode, object};

/// Attempts to update an object if other writers change it meanwhile.
const ATTEMPTS: usize = 5;

/// The update of a request.
pub(crate) enum Update {
    /// A new object.
    Put(Value),
    /// A patch.
    Patch(ResourcePatch),
}

/// `PUT` and `PATCH`.
pub(crate) async fn update(call: &ApiCall, body: Bytes) -> Result<Response<ResponseBody>> {
    let change = if call.verb == Verb::Patch {
        Update::Patch(ResourcePatch::decode(&call.content_type, &body, &call.served)?)
    } else {
        Update::Put(decode::decode(call, &body)?)
    };
    let (code, object) = apply_update(call, &change).await?;
    Ok(encode::object_response(&call.served, call.format, code, &object))
}

/// Updates the object, and retries after conflicts if the update has no precondition on the resource version.
pub(crate) async fn apply_update(call: &ApiCall, change: &Update) -> Result<(StatusCode, StoredObject)> {
    let (api, served) = (&call.api, &*call.served);
    let name = &call.route.name;
    if matches!(change, Update::Patch(ResourcePatch::Apply(_))) && call.query.get("fieldManager").is_none() {
        let cause =
            StatusCause::new("FieldValueRequired", "fieldManager", "Required value: is required for apply patch");
        let mut status = Status::invalid(&served.kind, "", vec![cause]);
        status.message =
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch"
                .into();
        return Err(status);
    }
    for attempt in 1.. {
        let current = api.store.get(&served.stored, &call.route.namespace, name);
        let Some(current) = current else {
            if let Update::Patch(ResourcePatch::Apply(config)) = change
                && call.route.subresource.is_empty()
            {
                match create_by_apply(call, config).await {
                    // Another writer has created it meanwhile: the configuration is applied to that object.
                    Err(status) if status.reason == "AlreadyExists" && attempt < ATTEMPTS => continue,
                    created => return created.map(|object| (StatusCode::CREATED, object)),
                }
            }
            return Err(Status::not_found(&served.kind, name));
        };
        match attempt_update(call, change, &current).await {
            Err(UpdateError::Conflict) if attempt < ATTEMPTS => continue,
            Err(UpdateError::Conflict) => break,
            Err(UpdateError::Status(status)) => return Err(status),
            Ok(object) => return Ok((StatusCode::OK, object)),
        }
    }
    Err(Status::modified(&served.kind, name))
}

async fn create_by_apply(call: &ApiCall, config: &Value) -> Result<StoredObject> {
    let mut config = config.clone();
    set_name(call, &mut config)?;
    retain_addressed_part(call, &mut config);
    decode::conform_without_defaults(call, &mut config)?;
    let manager = FieldManager { name: call.manager(), subresource: String::new() };
    let mut object = apply::apply(&call.served, &Value::Null, &config, &manager, false)?;
    decode::set_type_and_namespace(call, &mut object)?;
    decode::set_defaults(&call.served, &mut object);
    create::store(call, object, true).await
}

enum UpdateError {
    /// The object was changed meanwhile, and the update can be retried.
    Conflict,
    Status(Status),
}

impl From<Status> for UpdateError {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

async fn attempt_update(
    call: &ApiCall,
    change: &Update,
    current: &StoredObject,
) -> std::result::Result<StoredObject, UpdateError> {
    let (api, served) = (&call.api, &*call.served);
    let old = encode::present(served, current).into_owned();
    let part = call.route.subresource.as_str();
    let manager = FieldManager { name: call.manager(), subresource: part.to_owned() };
    let mut new = updated_object(call, change, &old, &manager)?;
    let has_precondition = has_revision_precondition(served, change, &old, &new)?;
    set_name(call, &mut new)?;
    decode::conform(call, &mut new)?;
    prepare::for_update(served, part, &old, &mut new);

    if !matches!(change, Update::Patch(ResourcePatch::Apply(_))) {
        managed::note_update(served, &old, &mut new, &manager);
    }
    admission::mutate(call, AdmissionOperation::Update, &mut new, Some(&old)).await?;
    if served.kind.is("apiextensions.k8s.io", "CustomResourceDefinition") {
        crd::complete(&api.store, &mut new);
    }
    decode::warn_of_unsupported_fields(call, &new);
    decode::validate(served, &new, Some(&old))?;
    admission::validate(call, AdmissionOperation::Update, Some(&new), Some(&old)).await?;

    let _service_writes = allocator::lock_services(api, served).await;
    allocator::assign(api, served, &mut new, Some(&old))?;
    object::copy_metadata(&mut new, &old, "resourceVersion");
    if object::same(&old, &new) && same_field_managers(&old, &new) {
        return Ok(StoredObject::clone(current));
    }
    encode::as_stored(served, &mut new);
    if call.query.dry_run()? {
        return Ok(new.into());
    }
    let kept = if can_be_removed(&new) {
        api.remove(&served.stored, current, new)
    } else {
        api.replace(&served.stored, current, new)
    };
    kept.map_err(|refused| match refused {
        WriteError::Changed if !has_precondition => UpdateError::Conflict,
        refused => UpdateError::Status(write_error_to_status(refused, &served.kind, &call.route.name)),
    })
}

fn updated_object(call: &ApiCall, change: &Update, old: &Value, manager: &FieldManager) -> Result<Value> {
    match change {
        Update::Put(object) => Ok(object.clone()),
        Update::Patch(ResourcePatch::Apply(config)) => {
            let mut config = config.clone();
            set_name(call, &mut config)?;
            retain_addressed_part(call, &mut config);
            decode::conform_without_defaults(call, &mut config)?;
            let force = call.query.flag("force");
            apply::apply(&call.served, old, &config, manager, force)
        }
        Update::Patch(patch) => patch.to(&call.served, old),
    }
}

/// Removes the fields that do not belong to the addressed subresource from an applied configuration, so that they get
/// no owner.
fn retain_addressed_part(call: &ApiCall, config: &mut Value) {
    let Some(fields) = config.as_object_mut() else { return };
    match call.route.subresource.as_str() {
        "status" => fields.retain(|key, _| matches!(key.as_str(), "apiVersion" | "kind" | "metadata" | "status")),
        _ if call.served.kind.has(Subresource::Status) => drop(fields.remove("status")),
        _ => {}
    }
}

/// Checks the resource version and UID of the new object. Returns whether the update has a precondition on the resource
/// version.
fn has_revision_precondition(
    served: &crate::registry::ServedResource,
    change: &Update,
    old: &Value,
    new: &Value,
) -> Result<bool> {
    let name = object::name(old);
    let (was, named) = (object::text(old, "/metadata/resourceVersion"), object::text(new, "/metadata/resourceVersion"));
    if !named.is_empty() && named != was {
        return Err(Status::modified(&served.kind, name));
    }
    // As in Kubernetes, replacing a custom resource requires a resource version.
    let replaces = matches!(change, Update::Put(_)) && served.custom.is_some();
    if replaces && named.is_empty() {
        let message = "Invalid value: 0: must be specified for an update";
        let cause = StatusCause::new("FieldValueInvalid", "metadata.resourceVersion", message);
        return Err(Status::invalid(&served.kind, name, vec![cause]));
    }
    let uid = object::uid(new);
    if !uid.is_empty() && uid != object::uid(old) {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", object::uid(old));
        return Err(Status::conflict(&served.kind, name, &why));
    }
    Ok(match change {
        Update::Put(object) => !object::text(object, "/metadata/resourceVersion").is_empty(),
        Update::Patch(ResourcePatch::Json(_)) => false,
        Update::Patch(ResourcePatch::Merge(patch) | ResourcePatch::Strategic(patch) | ResourcePatch::Apply(patch)) => {
            !object::text(patch, "/metadata/resourceVersion").is_empty()
        }
    })
}

fn set_name(call: &ApiCall, object: &mut Value) -> Result<()> {
    decode::set_type_and_namespace(call, object)?;
    let (given, wanted) = (object::name(object), call.route.name.as_str());
    if given.is_empty() {
        object::set_metadata(object, "name", Some(json!(wanted)));
    } else if given != wanted {
        return Err(Status::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({wanted})"
        )));
    }
    Ok(())
}

/// Returns whether the managed fields are equal, apart from times.
fn same_field_managers(a: &Value, b: &Value) -> bool {
    let without_times = |object: &Value| {
        let mut entries = object::list(object, "/metadata/managedFields").to_vec();
        for entry in &mut entries {
            if let Some(entry) = entry.as_object_mut() {
                entry.remove("time");
            }
        }
        entries
    };
    without_times(a) == without_times(b)
}
