//! Finalization: a namespace is removed when it is empty, a CustomResourceDefinition when no object of its kind is
//! left.

use serde_json::{Value, json};

use crate::api::Api;
use crate::crd;
use crate::object;
use crate::storage::AllObjects;
use crate::verbs::delete::{self, CUSTOM_RESOURCES, PropagationPolicy};

/// Deletes the objects in namespaces that are being deleted, and removes the finalizer of empty ones.
pub(super) fn namespaces(api: &Api, objects: &AllObjects) {
    let is_namespace =
        |resource: &crate::storage::GroupResource| resource.group.is_empty() && &*resource.resource == "namespaces";
    for (resource, namespace) in
        objects.iter().filter(|(resource, object)| is_namespace(resource) && object::is_deleting(object))
    {
        let name = object::name(namespace);
        let mut empty = true;
        for (resource, object) in objects.iter().filter(|(_, object)| object::namespace(object) == name) {
            empty = false;
            if !object::is_deleting(object) {
                delete::by_server(api, resource, object, PropagationPolicy::Background);
            }
        }
        if empty && !object::list(namespace, "/spec/finalizers").is_empty() {
            api.modify(resource, "", name, |current| {
                let finalizers = object::list(current, "/spec/finalizers");
                let kept: Vec<Value> =
                    finalizers.iter().filter(|finalizer| *finalizer != "kubernetes").cloned().collect();
                let mut changed = current.clone();
                changed["spec"]["finalizers"] = json!(kept);
                (kept.len() < finalizers.len()).then_some(changed)
            });
        }
    }
}

/// Deletes the objects of definitions that are being deleted, and removes the finalizer of definitions without objects.
pub(super) fn definitions(api: &Api, objects: &AllObjects) {
    let stored = crd::stored();
    for (_, definition) in
        objects.iter().filter(|(resource, object)| *resource == stored && object::is_deleting(object))
    {
        let of = crd::resource_of(definition);
        let mut empty = true;
        for (resource, object) in objects.iter().filter(|(resource, _)| *resource == of) {
            empty = false;
            if !object::is_deleting(object) {
                delete::by_server(api, resource, object, PropagationPolicy::Background);
            }
        }
        api.modify(&stored, "", object::name(definition), |current| {
            let mut changed = current.clone();
            if empty {
                object::remove_finalizer(&mut changed, CUSTOM_RESOURCES);
            } else if !crd::has_condition(current, "Terminating") {
                let mut conditions = object::list(current, "/status/conditions").to_vec();
                let why = ("True", "InstanceDeletionInProgress", "CustomResource deletion is in progress".to_owned());
                crd::set_condition(&mut conditions, "Terminating", why);
                changed["status"]["conditions"] = json!(conditions);
            }
            (changed != *current).then_some(changed)
        });
    }
}
