//! Patches: JSON patch, JSON merge patch, strategic merge patch, server-side apply.

pub(crate) mod apply;
pub(crate) mod fields;
pub(crate) mod json;
mod keys;
pub(crate) mod managed;
pub(crate) mod merge_schema;
mod order;
mod strategic;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use serde_json::Value;

use crate::body;
use crate::registry::ServedResource;
use crate::status::{Result, Status};

/// A decoded patch request.
#[derive(Clone, Debug)]
pub(crate) enum ResourcePatch {
    Json(json_patch::Patch),
    Merge(Value),
    Strategic(Value),
    Apply(Value),
}

impl ResourcePatch {
    pub(crate) fn decode(content_type: &str, bytes: &Bytes, served: &ServedResource) -> Result<Self> {
        const BUILTIN: [&str; 4] = [
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/strategic-merge-patch+json",
            "application/apply-patch+yaml",
        ];
        let custom = ["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"];
        match content_type {
            "application/json-patch+json" => {
                let patch = json::decode(&body::parse_json(bytes)?)
                    .map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?;
                Ok(Self::Json(patch))
            }
            "application/merge-patch+json" => object(body::parse_json(bytes)?).map(Self::Merge),
            "application/strategic-merge-patch+json" if served.custom.is_none() => {
                object(body::parse_json(bytes)?).map(Self::Strategic)
            }
            "application/apply-patch+yaml" => object(body::decode("application/yaml", bytes)?).map(Self::Apply),
            _ if served.custom.is_some() => Err(Status::unsupported_media_type(&custom)),
            _ => Err(Status::unsupported_media_type(&BUILTIN)),
        }
    }

    /// Applies the patch to an object. For server-side apply see [`apply`].
    pub(crate) fn to(&self, served: &ServedResource, current: &Value) -> Result<Value> {
        let mut changed = current.clone();
        match self {
            Self::Json(patch) => json::apply(&mut changed, patch).map_err(|refusal| match refusal {
                json::JsonPatchError::Inapplicable(why) => {
                    let why = format!("the server rejected our request due to an error in our request: {why}");
                    Status::other(422, "Invalid", why)
                }
                refusal => Status::other(413, "RequestEntityTooLarge", refusal.to_string()),
            })?,
            Self::Merge(patch) | Self::Apply(patch) => json_patch::merge(&mut changed, patch),
            Self::Strategic(patch) => strategic::merge(served, &mut changed, patch)?,
        }
        if changed.is_object() {
            Ok(changed)
        } else {
            Err(Status::bad_request("the patched object is not a JSON object"))
        }
    }
}

fn object(value: Value) -> Result<Value> {
    if value.is_object() { Ok(value) } else { Err(Status::bad_request("the patch is not a JSON object")) }
}
