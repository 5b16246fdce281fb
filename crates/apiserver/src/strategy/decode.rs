//! Decoding, defaulting and validation of the object in a request.

use serde_json::{Value, json};

use crate::call::ApiCall;
use crate::kinds::ResourceKind;
use crate::registry::ServedResource;
use crate::status::{Result, Status, StatusCause};
use crate::{body, crd, defaults, kinds, object, validate};

/// Decodes the object and checks that it matches the URL.
pub(crate) fn decode(call: &ApiCall, bytes: &[u8]) -> Result<Value> {
    let mut object = body::decode(&call.content_type, bytes)?;
    if !object.is_object() {
        return Err(Status::bad_request("the body is not a JSON object"));
    }
    set_type_and_namespace(call, &mut object)?;
    report_decoding_problems(call, body::duplicate_fields(&call.content_type, bytes))?;
    Ok(object)
}

/// Sets kind, version and namespace. Returns an error if they differ from the URL's.
pub(crate) fn set_type_and_namespace(call: &ApiCall, object: &mut Value) -> Result<()> {
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

/// Checks the types of fields, prunes unknown fields, and applies defaults.
pub(crate) fn conform(call: &ApiCall, object: &mut Value) -> Result<()> {
    conform_without_defaults(call, object)?;
    set_defaults(&call.served, object);
    Ok(())
}

/// [`conform`] without defaults, for server-side apply: a manager owns the fields that it sends, not the defaults.
pub(crate) fn conform_without_defaults(call: &ApiCall, object: &mut Value) -> Result<()> {
    let served = &*call.served;
    let kind = &served.kind;
    let handled = |why: String| cannot_be_handled(kind, &why);
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
    report_decoding_problems(call, unknown)
}

fn cannot_be_handled(kind: &ResourceKind, why: &str) -> Status {
    Status::bad_request(format!(
        "{} in version {:?} cannot be handled as a {}: {why}",
        kind.kind, kind.version, kind.kind
    ))
}

/// Reports unknown and duplicate fields as the request's `fieldValidation` requires.
fn report_decoding_problems(call: &ApiCall, problems: Vec<String>) -> Result<()> {
    if problems.is_empty() {
        return Ok(());
    }
    match call.query.get("fieldValidation") {
        Some("Strict") => {
            let why = format!("strict decoding error: {}", problems.join(", "));
            return Err(cannot_be_handled(&call.served.kind, &why));
        }
        Some("Ignore") => {}
        None | Some("Warn") => problems.into_iter().for_each(|problem| call.warn(problem)),
        Some(other) => {
            let why = format!(
                "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
            );
            return Err(Status::bad_request(why));
        }
    }
    Ok(())
}

/// A custom resource's metadata is checked and pruned as that of a ConfigMap.
fn conform_metadata(object: &mut Value) -> std::result::Result<Vec<String>, String> {
    let Some(kind) = kinds::by_kind("", "v1", "ConfigMap") else { return Ok(Vec::new()) };
    let mut config_map = json!({ "metadata": object["metadata"].take() });
    let checked = validate::types(kind, &config_map).map(|()| validate::unknown_fields(kind, &config_map));
    if checked.is_ok() {
        validate::prune(kind, &mut config_map);
    }
    object["metadata"] = config_map["metadata"].take();
    checked
}

/// Applies the defaults of the kind or of the custom resource's schema.
pub(crate) fn set_defaults(served: &ServedResource, object: &mut Value) {
    match &served.custom {
        None => defaults::apply(&served.kind, object),
        Some(custom) => {
            if let Some(schema) = &custom.schema {
                crd::prune::default(schema, object);
            }
        }
    }
}

/// Warns of fields that are stored but have no effect on this server.
pub(crate) fn warn_of_unsupported_fields(call: &ApiCall, object: &Value) {
    let kind = &call.served.kind;
    let has_key = |key: &str| object.to_string().contains(&format!("\"{key}\":"));
    if kind.is("apiextensions.k8s.io", "CustomResourceDefinition") {
        if has_key("x-kubernetes-validations") {
            call.warn("x-kubernetes-validations: this server does not evaluate CEL rules");
        }
        if object::text(object, "/spec/conversion/strategy") == "Webhook" {
            call.warn(
                "spec.conversion: this server does not call conversion webhooks; versions differ in apiVersion only",
            );
        }
    } else if kind.group == "admissionregistration.k8s.io" && has_key("matchConditions") {
        call.warn("matchConditions: this server does not evaluate CEL rules and calls the webhook regardless of them");
    }
}

/// Validates the complete object. `old` is the object that it replaces.
pub(crate) fn validate(served: &ServedResource, object: &Value, old: Option<&Value>) -> Result<()> {
    let mut causes: Vec<StatusCause> = Vec::new();
    if object::name(object).is_empty() {
        causes.push(StatusCause::new(
            "FieldValueRequired",
            "metadata.name",
            "Required value: name or generateName is required",
        ));
    } else if let Some(why) = crd::names::bad_object_name(object::name(object)).filter(|_| served.custom.is_some()) {
        causes.push(StatusCause::new(
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
