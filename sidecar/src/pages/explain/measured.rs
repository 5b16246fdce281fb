//! Connections that were made for measurement.

use proxy::exchange::outbound::measure::{Measured, UnknownName};
use serde_json::{Value, json};

/// Returns a connection, and what a gateway did with a name that no service has.
pub(super) fn document(measured: &Measured) -> Value {
    let answered = measured.outcome.as_ref().ok();
    let (unknown, why) = match &measured.unknown_name {
        None => (Value::Null, Value::Null),
        Some(UnknownName::Refused) => (json!("refused"), Value::Null),
        Some(UnknownName::Answered) => (json!("answered"), Value::Null),
        Some(UnknownName::Unreachable(error)) => (json!("unreachable"), json!(error.to_string())),
    };
    json!({
        "address": measured.address.to_string(),
        "cluster": &*measured.cluster,
        "throughGateway": measured.through_gateway,
        "milliseconds": answered.map(|answered| answered.time.as_secs_f64() * 1000.0),
        "identity": answered.and_then(|answered| answered.identity.as_deref()),
        "issuer": answered.and_then(|answered| answered.issuer.as_deref()),
        "error": measured.outcome.as_ref().err().map(ToString::to_string),
        "unknownName": unknown,
        "unknownNameError": why,
    })
}
