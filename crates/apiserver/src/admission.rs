//! What happens to an object between being sent and being kept: the server's own additions, then webhooks that change it, then webhooks
//! that may refuse it.

mod client;
mod escalation;
pub(crate) mod namespace;
mod operation;
mod review;
mod service_account;
mod webhook;

pub(crate) use operation::Operation;
pub(crate) use service_account::ROOT_CA;

use serde_json::Value;

use crate::call::Call;
use crate::object;
use crate::status::Result;
use crate::strategy::decode;

/// Lets the server and the mutating webhooks change the object.
pub(crate) async fn mutate(call: &Call, operation: Operation, object: &mut Value, old: Option<&Value>) -> Result<()> {
    own_additions(call, operation, object)?;
    let before = object.clone();
    webhook::mutate(call, operation, object, old).await?;
    if *object != before {
        // What a webhook made is brought into the form that a client's object is in, and gets what a client's object gets: an added
        // container has the service account's token too.
        decode::settle_place(call, object)?;
        decode::conform(call, object)?;
        own_additions(call, operation, object)?;
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

/// Refuses rights that the caller has not itself, and lets the validating webhooks refuse the change.
pub(crate) async fn validate(
    call: &Call,
    operation: Operation,
    object: Option<&Value>,
    old: Option<&Value>,
) -> Result<()> {
    if let Some(object) = object {
        escalation::check(call, object, old)?;
    }
    webhook::validate(call, operation, object, old).await
}

fn own_additions(call: &Call, operation: Operation, object: &mut Value) -> Result<()> {
    let new_pod = operation == Operation::Create && call.served.kind.is("", "Pod") && call.route.subresource.is_empty();
    if new_pod { service_account::admit(&call.api, &call.served.kind, object) } else { Ok(()) }
}
