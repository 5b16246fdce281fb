//! Changes of objects: whole (`PUT`), in part (`PATCH`, all four kinds), of the object or of its status.

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::create;
use crate::admission::{self, Operation};
use crate::api::{is_finished, refused_to_status};
use crate::body::Body;
use crate::call::{Call, Verb};
use crate::kinds::Subresource;
use crate::patch::managed::{self, Manager};
use crate::patch::{Patch, apply};
use crate::status::{Cause, Result, Status};
use crate::storage::{Object, Refused};
use crate::strategy::{decode, prepare};
use crate::{allocator, crd, encode, object};

/// How often a change that names no revision is tried again when others were faster.
const ATTEMPTS: usize = 5;

/// What a request asks for.
pub(crate) enum Change {
    /// This instead of what there is.
    Put(Value),
    /// This of what there is.
    Patch(Patch),
}

/// `PUT` and `PATCH`.
pub(crate) async fn update(call: &Call, body: Bytes) -> Result<Response<Body>> {
    let change = if call.verb == Verb::Patch {
        Change::Patch(Patch::decode(&call.content_type, &body, &call.served)?)
    } else {
        Change::Put(decode::decode(call, &body)?)
    };
    let (code, object) = carry_out(call, &change).await?;
    Ok(encode::object_response(&call.served, call.form, code, &object))
}

/// Carries out a change, again if somebody else was faster and the change does not insist on a revision.
pub(crate) async fn carry_out(call: &Call, change: &Change) -> Result<(StatusCode, Object)> {
    let (api, served) = (&call.api, &*call.served);
    let name = &call.route.name;
    if matches!(change, Change::Patch(Patch::Apply(_))) && call.query.get("fieldManager").is_none() {
        let cause = Cause::new("FieldValueRequired", "fieldManager", "Required value: is required for apply patch");
        let mut status = Status::invalid(&served.kind, "", vec![cause]);
        status.message =
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch"
                .into();
        return Err(status);
    }
    for attempt in 1.. {
        let current = api.store.get(&served.stored, &call.route.namespace, name);
        let Some(current) = current else {
            if let Change::Patch(Patch::Apply(config)) = change
                && call.route.subresource.is_empty()
            {
                return create_by_apply(call, config).await.map(|object| (StatusCode::CREATED, object));
            }
            return Err(Status::not_found(&served.kind, name));
        };
        match once(call, change, &current).await {
            Err(Failure::Outrun) if attempt < ATTEMPTS => continue,
            Err(Failure::Outrun) => break,
            Err(Failure::Refused(status)) => return Err(status),
            Ok(object) => return Ok((StatusCode::OK, object)),
        }
    }
    Err(Status::modified(&served.kind, name))
}

async fn create_by_apply(call: &Call, config: &Value) -> Result<Object> {
    let mut config = config.clone();
    settle_name(call, &mut config)?;
    only_part(call, &mut config);
    decode::conform_without_defaults(call, &mut config)?;
    let manager = Manager { name: call.manager(), subresource: String::new() };
    let mut object = apply::apply(&call.served, &Value::Null, &config, &manager, false)?;
    decode::settle_place(call, &mut object)?;
    decode::fill(&call.served, &mut object);
    create::keep(call, object, true).await
}

enum Failure {
    /// The object was changed meanwhile; the change can be tried on the new state.
    Outrun,
    Refused(Status),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Refused(status)
    }
}

async fn once(call: &Call, change: &Change, current: &Object) -> std::result::Result<Object, Failure> {
    let (api, served) = (&call.api, &*call.served);
    let old = encode::present(served, current).into_owned();
    let part = call.route.subresource.as_str();
    let manager = Manager { name: call.manager(), subresource: part.to_owned() };
    let mut new = proposed(call, change, &old, &manager)?;
    let insists = insists_on_revision(served, change, &old, &new)?;
    settle_name(call, &mut new)?;
    decode::conform(call, &mut new)?;
    prepare::for_update(served, part, &old, &mut new);

    if !matches!(change, Change::Patch(Patch::Apply(_))) {
        managed::note_update(served, &old, &mut new, &manager);
    }
    admission::mutate(call, Operation::Update, &mut new, Some(&old)).await?;
    if served.kind.is("apiextensions.k8s.io", "CustomResourceDefinition") {
        crd::complete(&api.store, &mut new);
    }
    decode::tell_limits(call, &new);
    decode::admissible(served, &new, Some(&old))?;
    admission::validate(call, Operation::Update, Some(&new), Some(&old)).await?;

    let _service_writes = allocator::reserve(api, served).await;
    allocator::assign(api, served, &mut new, Some(&old))?;
    object::copy_metadata(&mut new, &old, "resourceVersion");
    if object::same(&old, &new) && same_managers(&old, &new) {
        return Ok(Object::clone(current));
    }
    encode::as_stored(served, &mut new);
    if call.query.dry_run()? {
        return Ok(new.into());
    }
    let kept = if is_finished(&new) {
        api.remove(&served.stored, current, new)
    } else {
        api.replace(&served.stored, current, new)
    };
    kept.map_err(|refused| match refused {
        Refused::Changed if !insists => Failure::Outrun,
        refused => Failure::Refused(refused_to_status(refused, &served.kind, &call.route.name)),
    })
}

fn proposed(call: &Call, change: &Change, old: &Value, manager: &Manager) -> Result<Value> {
    match change {
        Change::Put(object) => Ok(object.clone()),
        Change::Patch(Patch::Apply(config)) => {
            let mut config = config.clone();
            settle_name(call, &mut config)?;
            only_part(call, &mut config);
            decode::conform_without_defaults(call, &mut config)?;
            let force = call.query.flag("force");
            apply::apply(&call.served, old, &config, manager, force)
        }
        Change::Patch(patch) => patch.to(&call.served, old),
    }
}

/// Leaves of an applied configuration what belongs to the addressed part: nobody owns what was not written.
fn only_part(call: &Call, config: &mut Value) {
    let Some(fields) = config.as_object_mut() else { return };
    match call.route.subresource.as_str() {
        "status" => fields.retain(|key, _| matches!(key.as_str(), "apiVersion" | "kind" | "metadata" | "status")),
        _ if call.served.kind.has(Subresource::Status) => drop(fields.remove("status")),
        _ => {}
    }
}

/// Checks the revision and UID that the proposed object names. True if it names a revision of its own accord.
fn insists_on_revision(served: &crate::registry::Served, change: &Change, old: &Value, new: &Value) -> Result<bool> {
    let name = object::name(old);
    let (was, named) = (object::text(old, "/metadata/resourceVersion"), object::text(new, "/metadata/resourceVersion"));
    if !named.is_empty() && named != was {
        return Err(Status::modified(&served.kind, name));
    }
    // Whoever replaces a custom resource says which one, as in Kubernetes.
    let replaces = matches!(change, Change::Put(_)) && served.custom.is_some();
    if replaces && named.is_empty() {
        let message = "Invalid value: 0: must be specified for an update";
        let cause = Cause::new("FieldValueInvalid", "metadata.resourceVersion", message);
        return Err(Status::invalid(&served.kind, name, vec![cause]));
    }
    let uid = object::uid(new);
    if !uid.is_empty() && uid != object::uid(old) {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", object::uid(old));
        return Err(Status::conflict(&served.kind, name, &why));
    }
    Ok(match change {
        Change::Put(object) => !object::text(object, "/metadata/resourceVersion").is_empty(),
        Change::Patch(Patch::Json(_)) => false,
        Change::Patch(Patch::Merge(patch) | Patch::Strategic(patch) | Patch::Apply(patch)) => {
            !object::text(patch, "/metadata/resourceVersion").is_empty()
        }
    })
}

fn settle_name(call: &Call, object: &mut Value) -> Result<()> {
    decode::settle_place(call, object)?;
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

/// Whether the notes of who owns what are the same, apart from times.
fn same_managers(a: &Value, b: &Value) -> bool {
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
