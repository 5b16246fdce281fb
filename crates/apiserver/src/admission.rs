//! Admission of objects before they are stored: the server's own changes, then mutating webhooks, then validating
//! webhooks.

mod client;
mod escalation;
pub(crate) mod namespace;
mod operation;
mod review;
mod service_account;
mod webhook;

pub(crate) use operation::AdmissionOperation;
pub(crate) use service_account::ROOT_CA;

use serde_json::Value;

use crate::call::ApiCall;
use crate::object;
use crate::status::Result;
use crate::strategy::decode;

/// Applies the server's own changes and the mutating webhooks to the object.
pub(crate) async fn mutate(
    call: &ApiCall,
    operation: AdmissionOperation,
    object: &mut Value,
    old: Option<&Value>,
) -> Result<()> {
    own_additions(call, operation, object).await?;
    let before = object.clone();
    webhook::mutate(call, operation, object, old).await?;
    if *object != before {
        // The result of a webhook is treated as an object from a client: decoded, defaulted, and given the service
        // account's token in added containers too.
        decode::set_type_and_namespace(call, object)?;
        decode::conform(call, object)?;
        own_additions(call, operation, object).await?;
        for key in [
            "resourceVersion",
            "uid",
            "generation",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "managedFields",
        ] {
            object::copy_metadata(object, &before, key);
        }
    }
    Ok(())
}

/// Returns an error if the object grants permissions that the caller does not hold, or if a validating webhook denies
/// the request.
pub(crate) async fn validate(
    call: &ApiCall,
    operation: AdmissionOperation,
    object: Option<&Value>,
    old: Option<&Value>,
) -> Result<()> {
    if let Some(object) = object {
        escalation::check(call, object, old)?;
    }
    webhook::validate(call, operation, object, old).await
}

async fn own_additions(call: &ApiCall, operation: AdmissionOperation, object: &mut Value) -> Result<()> {
    let new_pod =
        operation == AdmissionOperation::Create && call.served.kind.is("", "Pod") && call.route.subresource.is_empty();
    if new_pod { service_account::admit(&call.api, &call.served.kind, object).await } else { Ok(()) }
}
