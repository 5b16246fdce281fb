//! The forms in which objects are answered: as they are, as tables for `kubectl get`, as bare metadata.

use http::header::{ACCEPT, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use time::OffsetDateTime;

use crate::body::{self, Body};
use crate::kinds::{self, events};
use crate::object;
use crate::registry::Served;
use crate::route::Query;
use crate::status::{Result, Status};
use crate::table::{self, Include};

/// The form that a client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Object,
    Table(Include),
    Metadata,
}

/// A part of a list.
pub(crate) struct Page<'a> {
    pub(crate) revision: u64,
    pub(crate) objects: &'a [std::sync::Arc<Value>],
    pub(crate) next: Option<String>,
    pub(crate) remaining: Option<usize>,
}

impl Form {
    /// The first form of the Accept header that can be answered.
    pub(crate) fn negotiate(headers: &HeaderMap, query: &Query) -> Result<Self> {
        let mut any = false;
        for header in headers.get_all(ACCEPT) {
            for offer in header.to_str().unwrap_or("").split(',') {
                any = true;
                let mut parts = offer.split(';').map(str::trim);
                let media_type = parts.next().unwrap_or("");
                if !matches!(media_type, "application/json" | "application/*" | "*/*" | "") {
                    continue;
                }
                let parameter = |key: &str| {
                    offer
                        .split(';')
                        .skip(1)
                        .find_map(|part| part.trim().split_once('=').filter(|(known, _)| *known == key))
                        .map(|(_, value)| value)
                };
                match (parameter("as"), parameter("g"), parameter("v")) {
                    (None, ..) => return Ok(Self::Object),
                    (Some("Table"), Some("meta.k8s.io"), Some("v1")) => {
                        let include = Include::from_parameter(query.get("includeObject"));
                        let include = include.ok_or_else(|| {
                            Status::bad_request("includeObject must be one of Metadata, Object, None")
                        })?;
                        return Ok(Self::Table(include));
                    }
                    (Some("PartialObjectMetadata" | "PartialObjectMetadataList"), Some("meta.k8s.io"), Some("v1")) => {
                        return Ok(Self::Metadata);
                    }
                    _ => {}
                }
            }
        }
        if any { Err(Status::not_acceptable(&["application/json"])) } else { Ok(Self::Object) }
    }
}

/// The object in the version that was asked for.
pub(crate) fn present<'a>(served: &Served, object: &'a Value) -> Cow<'a, Value> {
    let kind = &served.kind;
    let version = kind.api_version();
    if object.get("apiVersion").and_then(Value::as_str) == Some(&version)
        && object.get("kind").and_then(Value::as_str) == Some(&kind.kind)
    {
        return Cow::Borrowed(object);
    }
    let mut object = object.clone();
    if kind.is("events.k8s.io", "Event") {
        events::from_stored(&mut object);
    }
    object["apiVersion"] = json!(version);
    object["kind"] = json!(kind.kind);
    Cow::Owned(object)
}

/// The object as it is kept: the reverse of [`present`].
pub(crate) fn as_stored(served: &Served, object: &mut Value) {
    let kind = &served.kind;
    if kind.is("events.k8s.io", "Event") {
        events::to_stored(object);
    }
    let stored = kinds::stored_as(kind);
    object["apiVersion"] = json!(stored.api_version());
    object["kind"] = json!(stored.kind);
}

/// One object in the form that was asked for.
pub(crate) fn formed<'a>(served: &Served, form: Form, object: &'a Value) -> Cow<'a, Value> {
    let object = present(served, object);
    match form {
        Form::Object => object,
        Form::Metadata => Cow::Owned(metadata_only(&object)),
        Form::Table(include) => {
            let mut table = render(served, include, std::iter::once(&*object));
            table["metadata"] = json!({ "resourceVersion": object::text(&object, "/metadata/resourceVersion") });
            Cow::Owned(table)
        }
    }
}

/// The response for one object.
pub(crate) fn object_response(served: &Served, form: Form, code: StatusCode, object: &Value) -> Response<Body> {
    body::json(code, &formed(served, form, object))
}

/// The response for a list.
pub(crate) fn list_response(served: &Served, form: Form, page: &Page<'_>) -> Response<Body> {
    let mut metadata = Map::new();
    metadata.insert("resourceVersion".into(), json!(page.revision.to_string()));
    if let Some(next) = &page.next {
        metadata.insert("continue".into(), json!(next));
    }
    if let Some(remaining) = page.remaining {
        metadata.insert("remainingItemCount".into(), json!(remaining));
    }
    let metadata = Value::Object(metadata);
    if let Form::Table(include) = form {
        let presented: Vec<Cow<'_, Value>> = page.objects.iter().map(|object| present(served, object)).collect();
        let mut table = render(served, include, presented.iter().map(|object| &**object));
        table["metadata"] = metadata;
        return body::json(StatusCode::OK, &table);
    }
    let (kind, version) = match form {
        Form::Metadata => (json!("PartialObjectMetadataList"), json!("meta.k8s.io/v1")),
        _ => (json!(served.kind.list_kind), json!(served.kind.api_version())),
    };
    // Written item by item: a list is often the largest thing in the process.
    let mut text = format!("{{\"kind\":{kind},\"apiVersion\":{version},\"metadata\":{metadata},\"items\":[");
    for (at, object) in page.objects.iter().enumerate() {
        if at > 0 {
            text.push(',');
        }
        text.push_str(&formed(served, form, object).to_string());
    }
    text.push_str("]}\n");
    let mut response = Response::new(body::full(text));
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn render<'a>(served: &Served, include: Include, objects: impl Iterator<Item = &'a Value>) -> Value {
    let columns = served.custom.as_ref().map_or(&[][..], |custom| &custom.columns);
    table::render(&served.kind, objects, columns, include, OffsetDateTime::now_utc())
}

fn metadata_only(object: &Value) -> Value {
    let metadata = object.get("metadata").cloned().unwrap_or_else(|| json!({}));
    json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn negotiate(accept: &str) -> Result<Form> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept.parse().expect("legal"));
        Form::negotiate(&headers, &Query::default())
    }

    #[test]
    fn the_first_form_that_is_known_wins() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(negotiate(kubectl), Ok(Form::Table(Include::Metadata)));
        assert_eq!(negotiate("application/vnd.kubernetes.protobuf,application/json"), Ok(Form::Object));
        assert_eq!(negotiate("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"), Ok(Form::Metadata));
        assert_eq!(negotiate("*/*"), Ok(Form::Object));
        assert_eq!(negotiate("application/vnd.kubernetes.protobuf").expect_err("not ours").code, 406);
    }
}
