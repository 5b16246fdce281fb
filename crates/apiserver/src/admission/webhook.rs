//! Admission webhooks: which webhooks match a request, the order of calls, and failure policies.

use serde_json::Value;

use super::operation::AdmissionOperation;
use super::review;
use crate::call::ApiCall;
use crate::encode;
use crate::object;
use crate::patch::json;
use crate::registry::ServedResource;
use crate::selectors::label_selector_matches;
use crate::status::{Result, Status};
use crate::storage::GroupResource;

const GROUP: &str = "admissionregistration.k8s.io";

/// A webhook whose rules and selectors match the request.
struct MatchingWebhook {
    /// The webhook's entry in its configuration.
    webhook: Value,
    /// The version of the resource that its rules name.
    served: std::sync::Arc<ServedResource>,
}

/// Calls the mutating webhooks in sequence. Webhooks with `reinvocationPolicy: IfNeeded` are called again if a later
/// webhook changed it.
pub(super) async fn mutate(
    call: &ApiCall,
    operation: AdmissionOperation,
    object: &mut Value,
    old: Option<&Value>,
) -> Result<()> {
    let matching_webhooks = matching_webhooks(call, "mutatingwebhookconfigurations", operation, Some(object), old);
    let mut changed_after = vec![false; matching_webhooks.len()];
    for (at, matching) in matching_webhooks.iter().enumerate() {
        let before = object.clone();
        call_mutating(call, operation, matching, object, old).await?;
        if *object != before {
            changed_after[..at].fill(true);
        }
    }
    for (matching, changed) in matching_webhooks.iter().zip(changed_after) {
        if changed && object::text(&matching.webhook, "/reinvocationPolicy") == "IfNeeded" {
            call_mutating(call, operation, matching, object, old).await?;
        }
    }
    Ok(())
}

/// Calls the validating webhooks. Returns an error if one denies the request.
pub(super) async fn validate(
    call: &ApiCall,
    operation: AdmissionOperation,
    object: Option<&Value>,
    old: Option<&Value>,
) -> Result<()> {
    for matching in matching_webhooks(call, "validatingwebhookconfigurations", operation, object, old) {
        let sent = in_served_version(&matching, object);
        let before = in_served_version(&matching, old);
        if let Some(response) = call_webhook(call, operation, &matching, sent.as_ref(), before.as_ref()).await? {
            response.warnings.into_iter().for_each(|warning| call.warn(warning));
            if let Some(denial) = response.denial {
                return Err(denial);
            }
        }
    }
    Ok(())
}

async fn call_mutating(
    call: &ApiCall,
    operation: AdmissionOperation,
    matching: &MatchingWebhook,
    object: &mut Value,
    old: Option<&Value>,
) -> Result<()> {
    let sent = in_served_version(matching, Some(object));
    let before = in_served_version(matching, old);
    let Some(response) = call_webhook(call, operation, matching, sent.as_ref(), before.as_ref()).await? else {
        return Ok(());
    };
    response.warnings.into_iter().for_each(|warning| call.warn(warning));
    if let Some(denial) = response.denial {
        return Err(denial);
    }
    if let (Some(patch), Some(mut patched)) = (response.patch, sent) {
        let name = object::text(&matching.webhook, "/name");
        json::apply(&mut patched, &patch).map_err(|error| {
            Status::internal(format!("failed calling webhook {name:?}: its patch cannot be applied: {error}"))
        })?;
        *object = encode::present(&call.served, &patched).into_owned();
    }
    Ok(())
}

fn in_served_version(matching: &MatchingWebhook, object: Option<&Value>) -> Option<Value> {
    object.map(|object| encode::present(&matching.served, object).into_owned())
}

/// Calls one webhook. Returns None if the call failed and the failure policy is `Ignore`.
async fn call_webhook(
    call: &ApiCall,
    operation: AdmissionOperation,
    matching: &MatchingWebhook,
    object: Option<&Value>,
    old: Option<&Value>,
) -> Result<Option<review::WebhookResponse>> {
    let webhook = &matching.webhook;
    let name = object::text(webhook, "/name");
    let dry_run = call.query.dry_run()?;
    if dry_run && !matches!(object::text(webhook, "/sideEffects"), "None" | "NoneOnDryRun") {
        return Err(Status::bad_request(format!("admission webhook {name:?} does not support dry run")));
    }
    let request = review::AdmissionRequest { call, operation, served: &matching.served, object, old, dry_run };
    match review::call(webhook, &request).await {
        Ok(response) => Ok(Some(response)),
        Err(error) if object::text(webhook, "/failurePolicy") == "Ignore" => {
            tracing::warn!(webhook = name, %error, "webhook failed, ignored by its failure policy");
            Ok(None)
        }
        Err(error) => Err(Status::internal(format!("failed calling webhook {name:?}: {error}"))),
    }
}

fn matching_webhooks(
    call: &ApiCall,
    plural: &str,
    operation: AdmissionOperation,
    object: Option<&Value>,
    old: Option<&Value>,
) -> Vec<MatchingWebhook> {
    if call.served.kind.group == GROUP {
        // A broken webhook must not prevent its own removal.
        return Vec::new();
    }
    let configurations = call.api.store.list(&GroupResource::new(GROUP, plural), None).1;
    let mut matching_webhooks = Vec::new();
    for configuration in configurations {
        for webhook in object::list(&configuration, "/webhooks") {
            let selected = namespace_selected(call, webhook, object.or(old)) && object_selected(webhook, object, old);
            if let Some(served) = matching_version(call, webhook, operation).filter(|_| selected) {
                matching_webhooks.push(MatchingWebhook { webhook: webhook.clone(), served });
            }
        }
    }
    matching_webhooks
}

/// The version of the resource that the webhook receives: the request's, or with `matchPolicy: Equivalent` another
/// version of the same resource.
fn matching_version(
    call: &ApiCall,
    webhook: &Value,
    operation: AdmissionOperation,
) -> Option<std::sync::Arc<ServedResource>> {
    let rules = object::list(webhook, "/rules");
    let matches = |served: &ServedResource| {
        rules.iter().any(|rule| rule_matches(rule, served, &call.route.subresource, operation))
    };
    if matches(&call.served) {
        return Some(call.served.clone());
    }
    if object::text(webhook, "/matchPolicy") == "Exact" {
        return None;
    }
    let snapshot = call.api.registry.snapshot();
    snapshot.all().iter().find(|served| served.stored == call.served.stored && matches(served)).cloned()
}

fn rule_matches(rule: &Value, served: &ServedResource, subresource: &str, operation: AdmissionOperation) -> bool {
    let has =
        |pointer: &str, wanted: &str| object::list(rule, pointer).iter().any(|known| known == "*" || known == wanted);
    let scope = match object::text(rule, "/scope") {
        "Cluster" => !served.kind.namespaced,
        "Namespaced" => served.kind.namespaced,
        _ => true,
    };
    let resource = |pattern: &str| match pattern.split_once('/') {
        None => subresource.is_empty() && (pattern == "*" || pattern == served.kind.plural),
        Some((of, part)) => (of == "*" || of == served.kind.plural) && (part == "*" || part == subresource),
    };
    scope
        && has("/operations", operation.name())
        && has("/apiGroups", &served.kind.group)
        && has("/apiVersions", &served.kind.version)
        && object::list(rule, "/resources").iter().filter_map(Value::as_str).any(resource)
}

fn namespace_selected(call: &ApiCall, webhook: &Value, object: Option<&Value>) -> bool {
    let Some(selector) = webhook.get("namespaceSelector").filter(|selector| !selector.is_null()) else { return true };
    if call.served.kind.is("", "Namespace") {
        return label_selector_matches(selector, object.and_then(|namespace| namespace.pointer("/metadata/labels")));
    }
    if !call.served.kind.namespaced {
        return true;
    }
    let namespace = call.api.store.get(&GroupResource::new("", "namespaces"), "", &call.route.namespace);
    label_selector_matches(selector, namespace.as_ref().and_then(|namespace| namespace.pointer("/metadata/labels")))
}

fn object_selected(webhook: &Value, object: Option<&Value>, old: Option<&Value>) -> bool {
    let Some(selector) = webhook.get("objectSelector").filter(|selector| !selector.is_null()) else { return true };
    [object, old]
        .into_iter()
        .flatten()
        .any(|object| label_selector_matches(selector, object.pointer("/metadata/labels")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;
    use serde_json::json;

    fn served(group: &str, plural: &str) -> ServedResource {
        let kind = kinds::by_resource(group, "v1", plural).expect("built in").clone();
        let stored = GroupResource::of(&kind);
        ServedResource { kind, stored, custom: None }
    }

    #[test]
    fn rules() {
        let rule = |resources: Value| json!({"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": resources});
        let matches = |rule: &Value, subresource: &str| {
            rule_matches(rule, &served("", "pods"), subresource, AdmissionOperation::Create)
        };
        assert!(matches(&rule(json!(["pods"])), ""));
        assert!(!matches(&rule(json!(["pods"])), "status"));
        assert!(matches(&rule(json!(["pods/*"])), "status"));
        assert!(matches(&rule(json!(["*"])), ""));
        assert!(!matches(&rule(json!(["services"])), ""));
        assert!(!rule_matches(&rule(json!(["*"])), &served("apps", "deployments"), "", AdmissionOperation::Create));
        assert!(!rule_matches(&rule(json!(["*"])), &served("", "pods"), "", AdmissionOperation::Delete));
    }
}
