//! Deletion: at once, after finalizers have run, or after a pod's grace period; of one object or of a collection.

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::read;
use crate::admission::{self, Operation};
use crate::api::{Api, refused_to_status};
use crate::body::{self, Body};
use crate::call::Call;
use crate::kinds::Kind;
use crate::status::{self, Result, Status};
use crate::storage::{GroupResource, Object, Refused};
use crate::{encode, object, timestamp};

/// Finalizer of objects whose dependents are deleted first.
pub(crate) const FOREGROUND: &str = "foregroundDeletion";

/// Finalizer of objects whose dependents are set free first.
pub(crate) const ORPHAN: &str = "orphan";

/// Finalizer that keeps a CustomResourceDefinition until its objects are gone.
pub(crate) const CUSTOM_RESOURCES: &str = "customresourcecleanup.apiextensions.k8s.io";

/// The longest grace period that is given, in seconds: that of a 32-bit number, as in Kubernetes.
const LONGEST_GRACE: u64 = i32::MAX as u64;

/// `meta/v1` DeleteOptions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    pub(crate) grace: Option<u64>,
    pub(crate) propagation: Propagation,
    pub(crate) uid: Option<String>,
    pub(crate) revision: Option<String>,
    pub(crate) dry_run: bool,
}

/// What becomes of the objects that the deleted one owns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Propagation {
    /// They go after it.
    #[default]
    Background,
    /// They go before it.
    Foreground,
    /// They stay.
    Orphan,
}

/// What a deletion led to.
pub(crate) enum Outcome {
    /// The object is gone; this was its last state.
    Gone(Object),
    /// The object is being deleted.
    Begun(Object),
}

/// `DELETE` of one object.
pub(crate) async fn delete(call: &Call, body: Bytes) -> Result<Response<Body>> {
    let options = options(call, &body)?;
    let (api, served) = (&call.api, &*call.served);
    let current = api.get(served, &call.route.namespace, &call.route.name)?;
    admission::namespace::check_delete(served, &current)?;
    let old = encode::present(served, &current).into_owned();
    admission::validate(call, Operation::Delete, None, Some(&old)).await?;
    Ok(match begin(api, &served.kind, &current, &options)? {
        // A pod's last state tells its client more than a bare success.
        Outcome::Gone(last) if served.kind.is("", "Pod") => {
            encode::object_response(served, call.form, StatusCode::OK, &last)
        }
        Outcome::Gone(last) => {
            body::json(StatusCode::OK, &status::deleted(&served.kind, object::name(&last), object::uid(&last)))
        }
        Outcome::Begun(object) => encode::object_response(served, call.form, StatusCode::OK, &object),
    })
}

/// `DELETE` of a collection.
pub(crate) async fn collection(call: &Call, body: Bytes) -> Result<Response<Body>> {
    let options = options(call, &body)?;
    let (api, served) = (&call.api, &*call.served);
    let selector = read::selector(call)?;
    let (revision, objects) = api.store.list(&served.stored, read::namespace(call));
    let mut deleted = Vec::new();
    for current in objects.into_iter().filter(|object| selector.matches(&encode::present(served, object))) {
        admission::namespace::check_delete(served, &current)?;
        let old = encode::present(served, &current).into_owned();
        admission::validate(call, Operation::Delete, None, Some(&old)).await?;
        match begin(api, &served.kind, &current, &options) {
            Ok(Outcome::Gone(object) | Outcome::Begun(object)) => deleted.push(object),
            // Somebody else was faster.
            Err(status) if status.code == 404 => {}
            Err(status) => return Err(status),
        }
    }
    let page =
        encode::Page { revision: revision.max(api.store.revision()), objects: &deleted, next: None, remaining: None };
    Ok(encode::list_response(served, call.form, &page))
}

/// Deletes an object as far as it can be at once. `current` is where to start from; changes by others in between are allowed
/// for.
pub(crate) fn begin(api: &Api, kind: &Kind, current: &Object, options: &Options) -> Result<Outcome> {
    let stored = GroupResource::of(kind);
    let (namespace, name) = (object::namespace(current).to_owned(), object::name(current).to_owned());
    let uid = object::uid(current).to_owned();
    let mut current = Object::clone(current);
    loop {
        check_preconditions(kind, &current, options)?;
        let next = next_state(kind, &current, options);
        if options.dry_run {
            return Ok(match next {
                Next::Remove => Outcome::Gone(current),
                Next::Keep(value) => Outcome::Begun(value.into()),
                Next::AsItIs => Outcome::Begun(current),
            });
        }
        let done = match next {
            Next::AsItIs => return Ok(Outcome::Begun(current)),
            Next::Remove => api.remove(&stored, &current, (*current).clone()).map(Outcome::Gone),
            Next::Keep(value) => api.replace(&stored, &current, value).map(Outcome::Begun),
        };
        match done {
            Ok(outcome) => return Ok(outcome),
            Err(Refused::Changed) => {
                let again = api.store.get(&stored, &namespace, &name).filter(|again| object::uid(again) == uid);
                current = again.ok_or_else(|| Status::not_found(kind, &name))?;
            }
            Err(refused) => return Err(refused_to_status(refused, kind, &name)),
        }
    }
}

enum Next {
    Remove,
    Keep(Value),
    AsItIs,
}

fn next_state(kind: &Kind, current: &Value, options: &Options) -> Next {
    let mut next = current.clone();
    match options.propagation {
        Propagation::Background => {}
        Propagation::Foreground => {
            object::remove_finalizer(&mut next, ORPHAN);
            object::add_finalizer(&mut next, FOREGROUND);
        }
        Propagation::Orphan => {
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
        return Next::Remove;
    }
    let pending = current.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_u64);
    if object::is_deleting(current) && pending.is_some_and(|pending| pending <= grace) {
        // A grace period can only become shorter.
        return if object::same(&next, current) { Next::AsItIs } else { Next::Keep(next) };
    }
    if object::is_deleting(current) && pending.is_none() {
        return if object::same(&next, current) { Next::AsItIs } else { Next::Keep(next) };
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
    Next::Keep(next)
}

/// How long the node agent may take to stop a pod. Nobody stops a pod that has no node, or that is over.
fn pod_grace(pod: &Value, options: &Options) -> u64 {
    let over = matches!(object::text(pod, "/status/phase"), "Succeeded" | "Failed");
    if object::text(pod, "/spec/nodeName").is_empty() || over {
        return 0;
    }
    let of_pod = || pod.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_u64).unwrap_or(30);
    options.grace.unwrap_or_else(of_pod).min(LONGEST_GRACE)
}

fn check_preconditions(kind: &Kind, current: &Value, options: &Options) -> Result<()> {
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

fn options(call: &Call, body: &[u8]) -> Result<Options> {
    let sent = if body.trim_ascii().is_empty() { json!({}) } else { body::decode(&call.content_type, body)? };
    parse_options(call, &sent)
}

/// Reads DeleteOptions; what they leave out is taken from the query.
pub(crate) fn parse_options(call: &Call, sent: &Value) -> Result<Options> {
    let text = |key: &str| sent.get(key).and_then(Value::as_str).or_else(|| call.query.get(key)).map(str::to_owned);
    let grace = match sent.get("gracePeriodSeconds").filter(|grace| !grace.is_null()) {
        // Negative means the object's own grace period.
        Some(grace) => grace.as_i64().and_then(|grace| u64::try_from(grace).ok()),
        None => call.query.number("gracePeriodSeconds")?,
    };
    let orphan = sent.get("orphanDependents").and_then(Value::as_bool);
    let propagation = match (text("propagationPolicy").as_deref(), orphan) {
        (None | Some(""), Some(true)) | (Some("Orphan"), None) => Propagation::Orphan,
        (None | Some("" | "Background"), _) => Propagation::Background,
        (Some("Foreground"), None) => Propagation::Foreground,
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
    Ok(Options { grace, propagation, uid: precondition("uid"), revision: precondition("resourceVersion"), dry_run })
}

fn invalid_options(policy: &str) -> Status {
    let why = format!(
        "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: {policy:?}: supported values: \
         \"Foreground\", \"Background\", \"Orphan\", \"nil\""
    );
    Status::other(422, "Invalid", why)
}

/// Deletes an object of any resource on the server's own behalf, as far as it can be at once.
pub(crate) fn on_own_behalf(api: &Api, resource: &GroupResource, current: &Object, propagation: Propagation) {
    let Some(served) = api.served(resource) else { return };
    let uid = Some(object::uid(current).to_owned());
    let options = Options { propagation, uid, ..Options::default() };
    if let Err(status) = begin(api, &served.kind, current, &options) {
        // Gone already, or replaced by another of the same name.
        tracing::debug!(%status, "deletion was not needed any more");
    }
}
