//! The `scale` subresource of workloads and of custom resources that define it, as `autoscaling/v1` Scale.

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use time::OffsetDateTime;

use super::update::{self, Update};
use crate::body::{self, ResponseBody};
use crate::call::{ApiCall, Verb};
use crate::encode::ResponseFormat;
use crate::patch::ResourcePatch;
use crate::registry::{ScalePaths, ServedResource};
use crate::status::{Result, Status, StatusCause};
use crate::{encode, object, table};

/// `GET …/scale`.
pub(crate) fn get(call: &ApiCall) -> Result<Response<ResponseBody>> {
    let current = call.api.get(&call.served, &call.route.namespace, &call.route.name)?;
    let scale = scale_of(&call.served, &encode::present(&call.served, &current));
    Ok(answer(call, StatusCode::OK, &scale))
}

fn answer(call: &ApiCall, code: StatusCode, scale: &Value) -> Response<ResponseBody> {
    match call.format {
        ResponseFormat::Table(include) => body::json(code, &table::of_scale(scale, include, OffsetDateTime::now_utc())),
        ResponseFormat::Object | ResponseFormat::Metadata => body::json(code, scale),
    }
}

/// `PUT` or `PATCH …/scale`.
pub(crate) async fn update(call: &ApiCall, bytes: Bytes) -> Result<Response<ResponseBody>> {
    let served = &*call.served;
    let current = call.api.get(served, &call.route.namespace, &call.route.name)?;
    let before = scale_of(served, &encode::present(served, &current));
    let wanted = if call.verb == Verb::Patch {
        patched(call, &bytes, &before)?
    } else {
        body::decode(&call.content_type, &bytes)?
    };
    let replicas = match wanted.pointer("/spec/replicas") {
        None | Some(Value::Null) => 0,
        Some(replicas) => replicas.as_i64().ok_or_else(|| Status::bad_request("spec.replicas must be an integer"))?,
    };
    if replicas < 0 {
        let message = format!("Invalid value: {replicas}: must be greater than or equal to 0");
        let causes = vec![StatusCause::new("FieldValueInvalid", "spec.replicas", message)];
        return Err(Status::invalid(&served.kind, &call.route.name, causes));
    }
    let paths = paths(served);
    let mut patch = nested(&paths.spec_replicas, json!(replicas));
    // A resource version in the request must be the current one.
    let named = object::text(&wanted, "/metadata/resourceVersion");
    if !named.is_empty() && call.verb == Verb::Update {
        object::set_metadata(&mut patch, "resourceVersion", Some(json!(named)));
    }
    let (code, changed) = update::apply_update(call, &Update::Patch(ResourcePatch::Merge(patch))).await?;
    Ok(answer(call, code, &scale_of(served, &encode::present(served, &changed))))
}

fn patched(call: &ApiCall, bytes: &Bytes, before: &Value) -> Result<Value> {
    // A Scale has no lists, so that a strategic merge patch is a JSON merge patch.
    let merge = "application/merge-patch+json";
    let content_type = match call.content_type.as_str() {
        "application/strategic-merge-patch+json" | "application/apply-patch+yaml" => merge,
        other => other,
    };
    let bytes = if call.content_type == "application/apply-patch+yaml" {
        Bytes::from(body::decode("application/yaml", bytes)?.to_string())
    } else {
        bytes.clone()
    };
    ResourcePatch::decode(content_type, &bytes, &call.served)?.to(&call.served, before)
}

fn paths(served: &ServedResource) -> ScalePaths {
    let builtin = || ScalePaths {
        spec_replicas: ".spec.replicas".into(),
        status_replicas: ".status.replicas".into(),
        selector: None,
    };
    served.custom.as_ref().and_then(|custom| custom.scale.clone()).unwrap_or_else(builtin)
}

fn scale_of(served: &ServedResource, object: &Value) -> Value {
    let paths = paths(served);
    let number = |path: &str| at(object, path).and_then(Value::as_i64).unwrap_or(0);
    let mut metadata = json!({});
    for key in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object.pointer("/metadata").and_then(|metadata| metadata.get(key)) {
            metadata[key] = value.clone();
        }
    }
    let selector = match &paths.selector {
        Some(path) => at(object, path).and_then(Value::as_str).unwrap_or("").to_owned(),
        None if served.custom.is_some() => String::new(),
        None => selector_text(object.pointer("/spec/selector").unwrap_or(&Value::Null)),
    };
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
        "spec": { "replicas": number(&paths.spec_replicas) },
        "status": { "replicas": number(&paths.status_replicas), "selector": selector },
    })
}

/// A label selector as text.
fn selector_text(selector: &Value) -> String {
    let equal = selector.get("matchLabels").or_else(|| selector.get("matchExpressions").is_none().then_some(selector));
    let equal = equal.and_then(Value::as_object).into_iter().flatten();
    let mut parts: Vec<String> = equal.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or(""))).collect();
    for expression in object::list(selector, "/matchExpressions") {
        let key = object::text(expression, "/key");
        let values: Vec<&str> = object::list(expression, "/values").iter().filter_map(Value::as_str).collect();
        let values = values.join(",");
        parts.push(match object::text(expression, "/operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    parts.join(",")
}

fn steps(path: &str) -> impl DoubleEndedIterator<Item = &str> {
    path.trim_start_matches('.').split('.')
}

fn at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    steps(path).try_fold(object, |value, step| value.get(step))
}

fn nested(path: &str, value: Value) -> Value {
    steps(path).rev().fold(value, |inner, step| json!({ step: inner }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_as_text() {
        assert_eq!(selector_text(&json!({"app": "x"})), "app=x");
        let selector = json!({"matchLabels": {"app": "x"}, "matchExpressions": [{"key": "tier", "operator": "In", "values": ["a", "b"]}]});
        assert_eq!(selector_text(&selector), "app=x,tier in (a,b)");
    }

    #[test]
    fn paths_nest() {
        assert_eq!(nested(".spec.size", json!(3)), json!({"spec": {"size": 3}}));
    }
}
