//! Creation of objects.

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::Value;

use crate::admission::{self, AdmissionOperation};
use crate::api::write_error_to_status;
use crate::body::ResponseBody;
use crate::call::ApiCall;
use crate::encode;
use crate::patch::managed::{self, FieldManager};
use crate::status::{Result, Status};
use crate::storage::{StoredObject, WriteError};
use crate::strategy::{decode, prepare};
use crate::{allocator, crd, object};

/// Attempts to generate a name that is free.
const NAME_ATTEMPTS: usize = 8;

/// `POST` to a collection.
pub(crate) async fn create(call: &ApiCall, body: Bytes) -> Result<Response<ResponseBody>> {
    if call.served.kind.namespaced && call.route.namespace.is_empty() {
        return Err(Status::bad_request("an empty namespace may not be set during creation"));
    }
    let mut object = decode::decode(call, &body)?;
    decode::conform(call, &mut object)?;
    let created = store(call, object, false).await?;
    Ok(encode::object_response(&call.served, call.format, StatusCode::CREATED, &created))
}

/// Admits and stores a new object. The managed fields of an `applied` object are recorded already.
pub(crate) async fn store(call: &ApiCall, mut object: Value, applied: bool) -> Result<StoredObject> {
    let (api, served) = (&call.api, &*call.served);
    let dry_run = call.query.dry_run()?;
    admission::namespace::check_create(api, served, &object)?;
    prepare::for_create(served, &mut object);
    if !applied {
        // Changes by admission have no owner, as in Kubernetes.
        let manager = FieldManager { name: call.manager(), subresource: String::new() };
        managed::note_update(served, &Value::Null, &mut object, &manager);
    }
    admission::mutate(call, AdmissionOperation::Create, &mut object, None).await?;
    object::set_metadata(
        &mut object,
        "namespace",
        served.kind.namespaced.then(|| call.route.namespace.as_str().into()),
    );
    prepare::identify(&mut object);
    if served.kind.is("apiextensions.k8s.io", "CustomResourceDefinition") {
        crd::complete(&api.store, &mut object);
    }
    decode::warn_of_unsupported_fields(call, &object);
    decode::validate(served, &object, None)?;
    admission::validate(call, AdmissionOperation::Create, Some(&object), None).await?;

    let _service_writes = allocator::lock_services(api, served).await;
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
    // Checked again before the write: the namespace may be deleted meanwhile.
    admission::namespace::check_create(api, served, &object)?;
    let name = object::name(&object).to_owned();
    api.insert(served, object).map_err(|status| match status.code {
        409 => write_error_to_status(WriteError::Exists, &served.kind, &name),
        _ => status,
    })
}
