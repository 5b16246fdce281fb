//! Deletion of objects: immediately, after finalizers, or after a pod's grace period; of one object or of a collection.

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::read;
use crate::admission::{self, AdmissionOperation};
use crate::api::{Api, write_error_to_status};
use crate::body::{self, ResponseBody};
use crate::call::ApiCall;
use crate::kinds::ResourceKind;
use crate::status::{self, Result, Status};
use crate::storage::{GroupResource, StoredObject, WriteError};
use crate::{encode, object, timestamp};

/// Finalizer of objects whose dependents are deleted first.
pub(crate) const FOREGROUND: &str = "foregroundDeletion";

/// Finalizer of objects whose dependents are orphaned first.
pub(crate) const ORPHAN: &str = "orphan";

/// Finalizer of a CustomResourceDefinition with objects.
pub(crate) const CUSTOM_RESOURCES: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Longest grace period in seconds: the largest 32-bit number, as in Kubernetes.
const MAX_GRACE_SECONDS: u64 = i32::MAX as u64;

/// `meta/v1` DeleteOptions.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeleteOptions {
    pub(crate) grace: Option<u64>,
    pub(crate) propagation: PropagationPolicy,
    pub(crate) uid: Option<String>,
    pub(crate) revision: Option<String>,
    pub(crate) dry_run: bool,
}

/// What happens to the dependents of a deleted object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum PropagationPolicy {
    /// They are deleted after it.
    #[default]
    Background,
    /// They are deleted before it.
    Foreground,
    /// They are not deleted.
    Orphan,
}

/// The result of a deletion.
pub(crate) enum Deletion {
    /// The object is removed. The value is its last state.
    Done(StoredObject),
    /// The object is being deleted.
    Started(StoredObject),
}

/// `DELETE` of one object.
pub(crate) async fn delete(call: &ApiCall, body: Bytes) -> Result<Response<ResponseBody>> {
    let options = options(call, &body)?;
    let (api, served) = (&call.api, &*call.served);
    let current = api.get(served, &call.route.namespace, &call.route.name)?;
    admission::namespace::check_delete(served, &current)?;
    let old = encode::present(served, &current).into_owned();
    admission::validate(call, AdmissionOperation::Delete, None, Some(&old)).await?;
    Ok(match begin(api, &served.kind, &current, &options)? {
        // The response for a pod is its last state.
        Deletion::Done(last) if served.kind.is("", "Pod") => {
            encode::object_response(served, call.format, StatusCode::OK, &last)
        }
        Deletion::Done(last) => {
            body::json(StatusCode::OK, &status::deleted(&served.kind, object::name(&last), object::uid(&last)))
        }
        Deletion::Started(object) => encode::object_response(served, call.format, StatusCode::OK, &object),
    })
}

/// `DELETE` of a collection.
pub(crate) async fn collection(call: &ApiCall, body: Bytes) -> Result<Response<ResponseBody>> {
    let options = options(call, &body)?;
    let (api, served) = (&call.api, &*call.served);
    let selector = read::selector(call)?;
    let (revision, objects) = api.store.list(&served.stored, read::namespace(call));
    let mut deleted = Vec::new();
    for current in objects.into_iter().filter(|object| selector.matches(&encode::present(served, object))) {
        admission::namespace::check_delete(served, &current)?;
        let old = encode::present(served, &current).into_owned();
        admission::validate(call, AdmissionOperation::Delete, None, Some(&old)).await?;
        match begin(api, &served.kind, &current, &options) {
            Ok(Deletion::Done(object) | Deletion::Started(object)) => deleted.push(object),
            // Deleted by another client meanwhile.
            Err(status) if status.code == 404 => {}
            Err(status) => return Err(status),
        }
    }
    let page = encode::ListPage {
        revision: Some(revision.max(api.store.revision())),
        objects: &deleted,
        next: None,
        remaining: None,
    };
    Ok(encode::list_response(served, call.format, &page))
}

/// Deletes an object, or begins its deletion. `current` is the state to start from; the deletion is retried after
/// changes by others.
pub(crate) fn begin(
    api: &Api,
    kind: &ResourceKind,
    current: &StoredObject,
    options: &DeleteOptions,
) -> Result<Deletion> {
    let stored = GroupResource::of(kind);
    let (namespace, name) = (object::namespace(current).to_owned(), object::name(current).to_owned());
    let uid = object::uid(current).to_owned();
    let mut current = StoredObject::clone(current);
    loop {
        check_preconditions(kind, &current, options)?;
        let next = next_state(kind, &current, options);
        if options.dry_run {
            return Ok(match next {
                NextState::Remove => Deletion::Done(current),
                NextState::Replace(value) => Deletion::Started(value.into()),
                NextState::Unchanged => Deletion::Started(current),
            });
        }
        let done = match next {
            NextState::Unchanged => return Ok(Deletion::Started(current)),
            NextState::Remove => api.remove(&stored, &current, (*current).clone()).map(Deletion::Done),
            NextState::Replace(value) => api.replace(&stored, &current, value).map(Deletion::Started),
        };
        match done {
            Ok(outcome) => return Ok(outcome),
            Err(WriteError::Changed) => {
                let again = api.store.get(&stored, &namespace, &name).filter(|again| object::uid(again) == uid);
                current = again.ok_or_else(|| Status::not_found(kind, &name))?;
            }
            Err(refused) => return Err(write_error_to_status(refused, kind, &name)),
        }
    }
}

enum NextState {
    Remove,
    Replace(Value),
    Unchanged,
}

fn next_state(kind: &ResourceKind, current: &Value, options: &DeleteOptions) -> NextState {
    let mut next = current.clone();
    match options.propagation {
        PropagationPolicy::Background => {}
        PropagationPolicy::Foreground => {
            object::remove_finalizer(&mut next, ORPHAN);
            object::add_finalizer(&mut next, FOREGROUND);
        }
        PropagationPolicy::Orphan => {
            object::remove_finalizer(&mut next, FOREGROUND);
            object::add_finalizer(&mut next, ORPHAN);
        }
    }
    if kind.is("apiextensions.k8s.io", "CustomResourceDefinition") {
        object::add_finalizer(&mut next, CUSTOM_RESOURCES);
    }
    let grace = if kind.is("", "Pod") { pod_grace(current, options) } else { 0 };
    let kept_by_finalizers = object::finalizers(&next).next().is_some()
        || kind.is("", "Namespace") && !object::list(&next, "/spec/finalizers").is_empty();
    if grace == 0 && !kept_by_finalizers {
        return NextState::Remove;
    }
    let pending = current.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_u64);
    if object::is_deleting(current) && pending.is_some_and(|pending| pending <= grace) {
        // A grace period can only be shortened.
        return if object::same(&next, current) { NextState::Unchanged } else { NextState::Replace(next) };
    }
    if object::is_deleting(current) && pending.is_none() {
        return if object::same(&next, current) { NextState::Unchanged } else { NextState::Replace(next) };
    }
    let at = timestamp::from_now(grace.cast_signed());
    object::set_metadata(&mut next, "deletionTimestamp", Some(json!(at)));
    object::set_metadata(&mut next, "deletionGracePeriodSeconds", Some(json!(grace)));
    if let Some(generation) = current.pointer("/metadata/generation").and_then(Value::as_u64) {
        object::set_metadata(&mut next, "generation", Some(json!(generation + 1)));
    }
    if kind.is("", "Namespace") {
        next["status"]["phase"] = json!("Terminating");
    }
    NextState::Replace(next)
}

/// The grace period of a pod. Pods without a node and terminated pods have none.
fn pod_grace(pod: &Value, options: &DeleteOptions) -> u64 {
    let over = matches!(object::text(pod, "/status/phase"), "Succeeded" | "Failed");
    if object::text(pod, "/spec/nodeName").is_empty() || over {
        return 0;
    }
    let of_pod = || pod.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_u64).unwrap_or(30);
    options.grace.unwrap_or_else(of_pod).min(MAX_GRACE_SECONDS)
}

fn check_preconditions(kind: &ResourceKind, current: &Value, options: &DeleteOptions) -> Result<()> {
    let name = object::name(current);
    let unmet = |what: &str, wanted: &str, have: &str| {
        let why = format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {have}");
        Err(Status::conflict(kind, name, &why))
    };
    if let Some(uid) = options.uid.as_deref().filter(|uid| *uid != object::uid(current)) {
        return unmet("UID", uid, object::uid(current));
    }
    let revision = object::text(current, "/metadata/resourceVersion");
    if let Some(wanted) = options.revision.as_deref().filter(|wanted| *wanted != revision) {
        return unmet("ResourceVersion", wanted, revision);
    }
    Ok(())
}

fn options(call: &ApiCall, body: &[u8]) -> Result<DeleteOptions> {
    let sent = if body.trim_ascii().is_empty() { json!({}) } else { body::decode(&call.content_type, body)? };
    parse_options(call, &sent)
}

/// Reads DeleteOptions. Absent options are read from the query.
pub(crate) fn parse_options(call: &ApiCall, sent: &Value) -> Result<DeleteOptions> {
    let text = |key: &str| sent.get(key).and_then(Value::as_str).or_else(|| call.query.get(key)).map(str::to_owned);
    let grace = match sent.get("gracePeriodSeconds").filter(|grace| !grace.is_null()) {
        // A negative value requests the object's own grace period.
        Some(grace) => grace.as_i64().and_then(|grace| u64::try_from(grace).ok()),
        None => call.query.number("gracePeriodSeconds")?,
    };
    let orphan = sent.get("orphanDependents").and_then(Value::as_bool);
    let propagation = match (text("propagationPolicy").as_deref(), orphan) {
        (None | Some(""), Some(true)) | (Some("Orphan"), None) => PropagationPolicy::Orphan,
        (None | Some("" | "Background"), _) => PropagationPolicy::Background,
        (Some("Foreground"), None) => PropagationPolicy::Foreground,
        (Some(other), _) => return Err(invalid_options(other)),
    };
    let dry_run = match sent.get("dryRun").and_then(Value::as_array).map(Vec::as_slice) {
        None | Some([]) => call.query.dry_run()?,
        Some([all]) if all == "All" => true,
        Some(_) => return Err(Status::bad_request("dryRun: Unsupported value: supported values: \"All\"")),
    };
    let precondition = |key: &str| {
        let value = sent.pointer("/preconditions").and_then(|preconditions| preconditions.get(key));
        value.and_then(Value::as_str).map(str::to_owned)
    };
    Ok(DeleteOptions {
        grace,
        propagation,
        uid: precondition("uid"),
        revision: precondition("resourceVersion"),
        dry_run,
    })
}

fn invalid_options(policy: &str) -> Status {
    let why = format!(
        "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: {policy:?}: supported values: \
         \"Foreground\", \"Background\", \"Orphan\", \"nil\""
    );
    Status::other(422, "Invalid", why)
}

/// Deletes an object of any resource on the server's own behalf.
pub(crate) fn by_server(api: &Api, resource: &GroupResource, current: &StoredObject, propagation: PropagationPolicy) {
    let Some(served) = api.served(resource) else { return };
    let uid = Some(object::uid(current).to_owned());
    let options = DeleteOptions { propagation, uid, ..DeleteOptions::default() };
    if let Err(status) = begin(api, &served.kind, current, &options) {
        // Already deleted, or replaced by another object with the same name.
        tracing::debug!(%status, "deletion not needed");
    }
}
