//! From the bytes of a request to an object of the resource's kind: decoded, in its namespace, without unknown fields, with defaults.

use serde_json::{Value, json};

use crate::call::Call;
use crate::kinds::Kind;
use crate::registry::Served;
use crate::status::{Cause, Result, Status};
use crate::{body, crd, defaults, kinds, object, validate};

/// Decodes the object that a request carries and checks that it is what the URL says.
pub(crate) fn decode(call: &Call, bytes: &[u8]) -> Result<Value> {
    let mut object = body::decode(&call.content_type, bytes)?;
    if !object.is_object() {
        return Err(Status::bad_request("the body is no JSON object"));
    }
    settle_place(call, &mut object)?;
    tell_faults(call, body::duplicate_fields(&call.content_type, bytes))?;
    Ok(object)
}

/// Fills in kind, version and namespace, or refuses others than the URL's.
pub(crate) fn settle_place(call: &Call, object: &mut Value) -> Result<()> {
    let kind = &call.served.kind;
    let version = kind.api_version();
    match object.get("kind").and_then(Value::as_str) {
        None | Some("") => object["kind"] = json!(kind.kind),
        Some(given) if given == kind.kind => {}
        Some(given) => {
            return Err(Status::bad_request(format!(
                "{} in version {:?} cannot be handled as a {}",
                given,
                object::text(object, "/apiVersion"),
                kind.kind
            )));
        }
    }
    match object.get("apiVersion").and_then(Value::as_str) {
        None | Some("") => object["apiVersion"] = json!(version),
        Some(given) if given == version => {}
        Some(given) => {
            return Err(Status::bad_request(format!(
                "the API version in the data ({given}) does not match the expected API version ({version})"
            )));
        }
    }
    if object.get("metadata").is_none_or(Value::is_null) {
        object["metadata"] = json!({});
    }
    if !object["metadata"].is_object() {
        return Err(Status::bad_request("metadata must be an object"));
    }
    let namespace = object::namespace(object);
    if namespace != call.route.namespace {
        if !namespace.is_empty() && kind.namespaced {
            return Err(Status::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        let namespace = kind.namespaced.then(|| json!(call.route.namespace));
        object::set_metadata(object, "namespace", namespace);
    }
    Ok(())
}

/// Checks types, drops or refuses unknown fields as the request wants it, and fills in defaults.
pub(crate) fn conform(call: &Call, object: &mut Value) -> Result<()> {
    conform_without_defaults(call, object)?;
    fill(&call.served, object);
    Ok(())
}

/// [`conform`] for what a manager applies: it owns what it says, not what the server fills in.
pub(crate) fn conform_without_defaults(call: &Call, object: &mut Value) -> Result<()> {
    let served = &*call.served;
    let kind = &served.kind;
    let handled = |why: String| unreadable(kind, &why);
    let unknown = match &served.custom {
        None => {
            validate::types(kind, object).map_err(handled)?;
            let unknown = validate::unknown_fields(kind, object);
            validate::prune(kind, object);
            unknown
        }
        Some(custom) => {
            let mut unknown = conform_metadata(object).map_err(handled)?;
            unknown.extend(custom.schema.iter().flat_map(|schema| crd::prune::prune(schema, object)));
            unknown
        }
    };
    tell_faults(call, unknown)
}

fn unreadable(kind: &Kind, why: &str) -> Status {
    Status::bad_request(format!(
        "{} in version {:?} cannot be handled as a {}: {why}",
        kind.kind, kind.version, kind.kind
    ))
}

/// Refuses, tells or ignores fields that mean nothing, as the request wants it.
fn tell_faults(call: &Call, faults: Vec<String>) -> Result<()> {
    if faults.is_empty() {
        return Ok(());
    }
    match call.query.get("fieldValidation") {
        Some("Strict") => {
            let why = format!("strict decoding error: {}", faults.join(", "));
            return Err(unreadable(&call.served.kind, &why));
        }
        Some("Ignore") => {}
        None | Some("Warn") => faults.into_iter().for_each(|fault| call.warn(fault)),
        Some(other) => {
            let why = format!(
                "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
            );
            return Err(Status::bad_request(why));
        }
    }
    Ok(())
}

/// A custom resource's metadata is that of any kind: checked and pruned as a ConfigMap's.
fn conform_metadata(object: &mut Value) -> std::result::Result<Vec<String>, String> {
    let Some(kind) = kinds::by_kind("", "v1", "ConfigMap") else { return Ok(Vec::new()) };
    let mut stand_in = json!({ "metadata": object["metadata"].take() });
    let checked = validate::types(kind, &stand_in).map(|()| validate::unknown_fields(kind, &stand_in));
    if checked.is_ok() {
        validate::prune(kind, &mut stand_in);
    }
    object["metadata"] = stand_in["metadata"].take();
    checked
}

/// Fills in defaults.
pub(crate) fn fill(served: &Served, object: &mut Value) {
    match &served.custom {
        None => defaults::apply(&served.kind, object),
        Some(custom) => {
            if let Some(schema) = &custom.schema {
                crd::prune::default(schema, object);
            }
        }
    }
}

/// Says what of an object is kept without having an effect here.
pub(crate) fn tell_limits(call: &Call, object: &Value) {
    let kind = &call.served.kind;
    let says = |key: &str| object.to_string().contains(&format!("\"{key}\":"));
    if kind.is("apiextensions.k8s.io", "CustomResourceDefinition") {
        if says("x-kubernetes-validations") {
            call.warn("x-kubernetes-validations: this server evaluates no CEL rules");
        }
        if object::text(object, "/spec/conversion/strategy") == "Webhook" {
            call.warn("spec.conversion: this server calls no conversion webhooks; versions differ by apiVersion only");
        }
    } else if kind.group == "admissionregistration.k8s.io" && says("matchConditions") {
        call.warn("matchConditions: this server evaluates no CEL rules and calls the webhook without them");
    }
}

/// Checks the finished object. `old` is what it replaces.
pub(crate) fn admissible(served: &Served, object: &Value, old: Option<&Value>) -> Result<()> {
    let mut causes: Vec<Cause> = Vec::new();
    if object::name(object).is_empty() {
        causes.push(Cause::new(
            "FieldValueRequired",
            "metadata.name",
            "Required value: name or generateName is required",
        ));
    } else if let Some(why) = crd::names::bad_object_name(object::name(object)).filter(|_| served.custom.is_some()) {
        causes.push(Cause::new(
            "FieldValueInvalid",
            "metadata.name",
            format!("Invalid value: {:?}: {why}", object::name(object)),
        ));
    }
    match &served.custom {
        None => {
            let found = validate::object(&served.kind, object, old).into_iter();
            let known: Vec<String> = causes.iter().map(|cause| cause.field.clone()).collect();
            causes.extend(found.filter(|cause| !known.contains(&cause.field)));
        }
        Some(custom) => {
            if let Some(schema) = &custom.schema {
                crd::validate::validate(schema, object, &mut causes);
            }
        }
    }
    if causes.is_empty() { Ok(()) } else { Err(Status::invalid(&served.kind, object::name(object), causes)) }
}
