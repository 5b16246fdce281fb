//! Objects live in namespaces that exist and are not being deleted; some namespaces are not deleted at all.

use serde_json::Value;

use crate::api::Api;
use crate::registry::Served;
use crate::status::{Cause, Result, Status};
use crate::storage::GroupResource;
use crate::{kinds, object};

/// Namespaces that the cluster cannot do without.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// Refuses to create in a namespace that is not there or going away.
pub(crate) fn check_create(api: &Api, served: &Served, object: &Value) -> Result<()> {
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
        details.causes = vec![Cause::new("NamespaceTerminating", "metadata.namespace", message)];
    }
    Err(status)
}

/// Refuses to delete the cluster's own namespaces.
pub(crate) fn check_delete(served: &Served, object: &Value) -> Result<()> {
    let name = object::name(object);
    if served.kind.is("", "Namespace") && IMMORTAL.contains(&name) {
        return Err(Status::forbidden(&served.kind, name, "this namespace may not be deleted"));
    }
    Ok(())
}
