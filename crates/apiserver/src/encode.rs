//! Encoding of objects in responses: as objects, as tables for `kubectl get`, or as metadata only.

use http::header::{ACCEPT, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use time::OffsetDateTime;

use crate::body::{self, ResponseBody};
use crate::kinds::{self, events};
use crate::object;
use crate::registry::ServedResource;
use crate::route::QueryParameters;
use crate::status::{Result, Status};
use crate::table::{self, IncludeObject};

/// The format of a response, from the Accept header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResponseFormat {
    Object,
    Table(IncludeObject),
    Metadata,
}

/// One page of a list.
pub(crate) struct ListPage<'a> {
    /// Revision of the list, if its objects are stored.
    pub(crate) revision: Option<u64>,
    pub(crate) objects: &'a [std::sync::Arc<Value>],
    pub(crate) next: Option<String>,
    pub(crate) remaining: Option<usize>,
}

impl ResponseFormat {
    /// The first supported format of the Accept header.
    pub(crate) fn negotiate(headers: &HeaderMap, query: &QueryParameters) -> Result<Self> {
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
                        let include = IncludeObject::from_parameter(query.get("includeObject"));
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

/// The object in the requested version.
pub(crate) fn present<'a>(served: &ServedResource, object: &'a Value) -> Cow<'a, Value> {
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

/// Converts an object to the stored version: the reverse of [`present`].
pub(crate) fn as_stored(served: &ServedResource, object: &mut Value) {
    let kind = &served.kind;
    if kind.is("events.k8s.io", "Event") {
        events::to_stored(object);
    }
    let stored = kinds::stored_as(kind);
    object["apiVersion"] = json!(stored.api_version());
    object["kind"] = json!(stored.kind);
}

/// One object in the requested format.
pub(crate) fn formatted<'a>(served: &ServedResource, format: ResponseFormat, object: &'a Value) -> Cow<'a, Value> {
    let object = present(served, object);
    match format {
        ResponseFormat::Object => object,
        ResponseFormat::Metadata => Cow::Owned(metadata_only(&object)),
        ResponseFormat::Table(include) => {
            let mut table = render(served, include, std::iter::once(&*object));
            table["metadata"] = json!({ "resourceVersion": object::text(&object, "/metadata/resourceVersion") });
            Cow::Owned(table)
        }
    }
}

/// The response with one object.
pub(crate) fn object_response(
    served: &ServedResource,
    format: ResponseFormat,
    code: StatusCode,
    object: &Value,
) -> Response<ResponseBody> {
    body::json(code, &formatted(served, format, object))
}

/// The response with a list.
pub(crate) fn list_response(
    served: &ServedResource,
    format: ResponseFormat,
    page: &ListPage<'_>,
) -> Response<ResponseBody> {
    let mut metadata = Map::new();
    if let Some(revision) = page.revision {
        metadata.insert("resourceVersion".into(), json!(revision.to_string()));
    }
    if let Some(next) = &page.next {
        metadata.insert("continue".into(), json!(next));
    }
    if let Some(remaining) = page.remaining {
        metadata.insert("remainingItemCount".into(), json!(remaining));
    }
    let metadata = Value::Object(metadata);
    if let ResponseFormat::Table(include) = format {
        let presented: Vec<Cow<'_, Value>> = page.objects.iter().map(|object| present(served, object)).collect();
        let mut table = render(served, include, presented.iter().map(|object| &**object));
        table["metadata"] = metadata;
        return body::json(StatusCode::OK, &table);
    }
    let (kind, version) = match format {
        ResponseFormat::Metadata => (json!("PartialObjectMetadataList"), json!("meta.k8s.io/v1")),
        _ => (json!(served.kind.list_kind), json!(served.kind.api_version())),
    };
    // Serialized item by item, because a list is often the largest value in memory.
    let mut text = format!("{{\"kind\":{kind},\"apiVersion\":{version},\"metadata\":{metadata},\"items\":[");
    for (at, object) in page.objects.iter().enumerate() {
        if at > 0 {
            text.push(',');
        }
        text.push_str(&formatted(served, format, object).to_string());
    }
    text.push_str("]}\n");
    let mut response = Response::new(body::full(text));
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn render<'a>(served: &ServedResource, include: IncludeObject, objects: impl Iterator<Item = &'a Value>) -> Value {
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

    fn negotiate(accept: &str) -> Result<ResponseFormat> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept.parse().expect("legal"));
        ResponseFormat::negotiate(&headers, &QueryParameters::default())
    }

    #[test]
    fn the_first_supported_format_is_chosen() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(negotiate(kubectl), Ok(ResponseFormat::Table(IncludeObject::Metadata)));
        assert_eq!(negotiate("application/vnd.kubernetes.protobuf,application/json"), Ok(ResponseFormat::Object));
        assert_eq!(
            negotiate("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"),
            Ok(ResponseFormat::Metadata)
        );
        assert_eq!(negotiate("*/*"), Ok(ResponseFormat::Object));
        assert_eq!(negotiate("application/vnd.kubernetes.protobuf").expect_err("not ours").code, 406);
    }
}
