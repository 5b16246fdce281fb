//! Admission by namespace: objects are created only in namespaces that exist and are not being deleted.

use serde_json::Value;

use crate::api::Api;
use crate::registry::ServedResource;
use crate::status::{Result, Status, StatusCause};
use crate::storage::GroupResource;
use crate::{kinds, object};

/// Namespaces that cannot be deleted.
const PROTECTED: [&str; 3] = ["default", "kube-system", "kube-public"];

/// Returns an error if the object's namespace does not exist or is being deleted.
pub(crate) fn check_create(api: &Api, served: &ServedResource, object: &Value) -> Result<()> {
    if !served.kind.namespaced {
        return Ok(());
    }
    let name = object::namespace(object);
    let namespace = api.store.get(&GroupResource::new("", "namespaces"), "", name);
    let Some(namespace) = namespace else {
        let kind = kinds::by_resource("", "v1", "namespaces");
        return Err(kind.map_or_else(Status::no_such_resource, |kind| Status::not_found(kind, name)));
    };
    if !object::is_deleting(&namespace) {
        return Ok(());
    }
    let why = format!("unable to create new content in namespace {name} because it is being terminated");
    let mut status = Status::forbidden(&served.kind, object::name(object), &why);
    if let Some(details) = &mut status.details {
        let message = format!("namespace {name} is being terminated");
        details.causes = vec![StatusCause::new("NamespaceTerminating", "metadata.namespace", message)];
    }
    Err(status)
}

/// Returns an error if the object is a namespace that cannot be deleted.
pub(crate) fn check_delete(served: &ServedResource, object: &Value) -> Result<()> {
    let name = object::name(object);
    if served.kind.is("", "Namespace") && PROTECTED.contains(&name) {
        return Err(Status::forbidden(&served.kind, name, "this namespace may not be deleted"));
    }
    Ok(())
}
