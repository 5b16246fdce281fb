//! Creation.

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::Value;

use crate::admission::{self, Operation};
use crate::api::refused_to_status;
use crate::body::Body;
use crate::call::Call;
use crate::encode;
use crate::patch::managed::{self, Manager};
use crate::status::{Result, Status};
use crate::storage::{Object, Refused};
use crate::strategy::{decode, prepare};
use crate::{allocator, crd, object};

/// How often a generated name is chosen anew when it is taken.
const NAME_ATTEMPTS: usize = 8;

/// `POST` to a collection.
pub(crate) async fn create(call: &Call, body: Bytes) -> Result<Response<Body>> {
    if call.served.kind.namespaced && call.route.namespace.is_empty() {
        return Err(Status::bad_request("an empty namespace may not be set during creation"));
    }
    let mut object = decode::decode(call, &body)?;
    decode::conform(call, &mut object)?;
    let created = keep(call, object, false).await?;
    Ok(encode::object_response(&call.served, call.form, StatusCode::CREATED, &created))
}

/// Admits a new object and keeps it. An `applied` one has its manager's fields noted already.
pub(crate) async fn keep(call: &Call, mut object: Value, applied: bool) -> Result<Object> {
    let (api, served) = (&call.api, &*call.served);
    let dry_run = call.query.dry_run()?;
    admission::namespace::check_create(api, served, &object)?;
    prepare::for_create(served, &mut object);
    if !applied {
        // What admission adds belongs to nobody, as in Kubernetes.
        let manager = Manager { name: call.manager(), subresource: String::new() };
        managed::note_update(served, &Value::Null, &mut object, &manager);
    }
    admission::mutate(call, Operation::Create, &mut object, None).await?;
    object::set_metadata(
        &mut object,
        "namespace",
        served.kind.namespaced.then(|| call.route.namespace.as_str().into()),
    );
    prepare::identify(&mut object);
    if served.kind.is("apiextensions.k8s.io", "CustomResourceDefinition") {
        crd::complete(&api.store, &mut object);
    }
    decode::tell_limits(call, &object);
    decode::admissible(served, &object, None)?;
    admission::validate(call, Operation::Create, Some(&object), None).await?;

    let _service_writes = allocator::reserve(api, served).await;
    allocator::assign(api, served, &mut object, None)?;
    encode::as_stored(served, &mut object);
    if dry_run {
        if api.store.get(&served.stored, object::namespace(&object), object::name(&object)).is_some() {
            return Err(Status::already_exists(&served.kind, object::name(&object)));
        }
        return Ok(object.into());
    }
    let generated = !object::text(&object, "/metadata/generateName").is_empty();
    for _ in 1..NAME_ATTEMPTS {
        let taken = api.store.get(&served.stored, object::namespace(&object), object::name(&object)).is_some();
        if !(generated && taken) {
            break;
        }
        object::set_metadata(&mut object, "name", None);
        prepare::identify(&mut object);
    }
    // Once more, now that nothing else is waited for: the namespace may have gone meanwhile.
    admission::namespace::check_create(api, served, &object)?;
    let name = object::name(&object).to_owned();
    api.insert(served, object).map_err(|status| match status.code {
        409 => refused_to_status(Refused::Exists, &served.kind, &name),
        _ => status,
    })
}
