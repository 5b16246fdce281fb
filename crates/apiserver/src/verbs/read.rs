//! Reading objects and lists, also in pages.
//!
//! All pages of a list are of one revision: later pages are computed from the log of changes, and expire with it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};

use crate::body::ResponseBody;
use crate::call::ApiCall;
use crate::encode::{self, ListPage};
use crate::object;
use crate::selectors::{self, Selector};
use crate::status::{Result, Status};
use crate::storage::StoredObject;

/// Start of the next page.
#[derive(Debug, Serialize, Deserialize)]
struct ContinueToken {
    #[serde(rename = "rv")]
    revision: u64,
    namespace: String,
    name: String,
}

/// `GET` of one object.
pub(crate) fn get(call: &ApiCall) -> Result<Response<ResponseBody>> {
    let object = call.api.get(&call.served, &call.route.namespace, &call.route.name)?;
    if let Some(wanted) = revision_parameter(call)? {
        not_of_the_future(call, wanted)?;
    }
    Ok(encode::object_response(&call.served, call.format, StatusCode::OK, &object))
}

/// `GET` of a collection.
pub(crate) fn list(call: &ApiCall) -> Result<Response<ResponseBody>> {
    let selector = selector(call)?;
    let limit = usize::try_from(call.query.number("limit")?.unwrap_or(0)).unwrap_or(usize::MAX);
    let start = call.query.get("continue").map(decode_continue).transpose()?;
    let (revision, objects) = snapshot(call, start.as_ref())?;
    let after_start = |object: &StoredObject| {
        start.as_ref().is_none_or(|start| {
            (object::namespace(object), object::name(object)) > (start.namespace.as_str(), start.name.as_str())
        })
    };
    let mut objects: Vec<StoredObject> = objects
        .into_iter()
        .filter(|object| after_start(object) && selector.matches(&encode::present(&call.served, object)))
        .collect();
    let (mut next, mut remaining) = (None, None);
    if limit > 0 && objects.len() > limit {
        // As in Kubernetes, lists with a selector have no count of remaining items.
        remaining = selector.is_empty().then(|| objects.len() - limit);
        objects.truncate(limit);
        next = objects.last().map(|last| encode_continue(revision, last));
    }
    let page = ListPage { revision: Some(revision), objects: &objects, next, remaining };
    Ok(encode::list_response(&call.served, call.format, &page))
}

/// The label and field selectors of a request.
pub(crate) fn selector(call: &ApiCall) -> Result<Selector> {
    let known = |path: &str| match &call.served.custom {
        None => selectors::builtin_field(&call.served.kind.group, &call.served.kind.plural, path),
        Some(custom) => custom.selectable.iter().any(|field| field.trim_start_matches('.') == path),
    };
    let (labels, fields) = (call.query.get("labelSelector"), call.query.get("fieldSelector"));
    let selector = Selector::parse(labels.unwrap_or(""), fields.unwrap_or(""), known)?;
    match (call.route.name.as_str(), selector.name()) {
        ("", _) | (_, Some(_)) => Ok(selector),
        // A watch of one object's URL.
        (name, None) => {
            let fields = format!("metadata.name={name}");
            Selector::parse(labels.unwrap_or(""), &fields, known)
        }
    }
}

/// The namespace of a request, or None for all namespaces.
pub(crate) fn namespace(call: &ApiCall) -> Option<&str> {
    (call.served.kind.namespaced && !call.route.namespace.is_empty()).then_some(call.route.namespace.as_str())
}

fn snapshot(call: &ApiCall, start: Option<&ContinueToken>) -> Result<(u64, Vec<StoredObject>)> {
    let (store, stored) = (&call.api.store, &call.served.stored);
    let wanted = revision_parameter(call)?;
    let exact = match (call.query.get("resourceVersionMatch"), start) {
        (Some(_), Some(_)) => {
            return Err(Status::bad_request(
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for continue",
            ));
        }
        (Some("Exact"), None) => {
            let wanted = wanted.filter(|wanted| *wanted > 0);
            Some(wanted.ok_or_else(|| {
                Status::bad_request("resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"")
            })?)
        }
        (Some("NotOlderThan") | None, None) => None,
        (Some(other), None) => {
            let why = format!(
                "resourceVersionMatch: Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\""
            );
            return Err(Status::bad_request(why));
        }
        (None, Some(start)) => Some(start.revision),
    };
    let Some(exact) = exact else {
        if let Some(wanted) = wanted {
            not_of_the_future(call, wanted)?;
        }
        return Ok(store.list(stored, namespace(call)));
    };
    not_of_the_future(call, exact)?;
    let objects = store.list_at(stored, namespace(call), exact).map_err(|compacted| match start {
        Some(_) => Status::expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new list without \
             the continue parameter.",
        ),
        None => Status::too_old(exact, compacted.oldest),
    })?;
    Ok((exact, objects))
}

/// The `resourceVersion` parameter.
pub(crate) fn revision_parameter(call: &ApiCall) -> Result<Option<u64>> {
    let Some(text) = call.query.get("resourceVersion") else { return Ok(None) };
    let revision = text.parse().map_err(|_| Status::bad_request(format!("invalid resource version {text:?}")))?;
    Ok(Some(revision))
}

/// Returns an error for revisions that do not exist yet.
pub(crate) fn not_of_the_future(call: &ApiCall, revision: u64) -> Result<()> {
    let current = call.api.store.revision();
    if revision > current { Err(Status::too_large_revision(revision, current)) } else { Ok(()) }
}

fn encode_continue(revision: u64, last: &StoredObject) -> String {
    let start =
        ContinueToken { revision, namespace: object::namespace(last).to_owned(), name: object::name(last).to_owned() };
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&start).unwrap_or_default())
}

fn decode_continue(token: &str) -> Result<ContinueToken> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok();
    let start = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    start.ok_or_else(|| Status::bad_request("continue key is not valid"))
}
