//! Admission webhooks: which of them a change concerns, in what order they are asked, and what their failure means.

use serde_json::Value;

use super::operation::Operation;
use super::review;
use crate::call::Call;
use crate::encode;
use crate::object;
use crate::patch::json;
use crate::registry::Served;
use crate::selectors::label_selector_matches;
use crate::status::{Result, Status};
use crate::storage::GroupResource;

const GROUP: &str = "admissionregistration.k8s.io";

/// A webhook that a change concerns.
struct Concerned {
    /// The webhook's entry in its configuration.
    webhook: Value,
    /// The version of the resource that its rules name.
    served: std::sync::Arc<Served>,
}

/// Asks the mutating webhooks, one after the other. Those that ask for it are asked once more if a later one changed the object.
pub(super) async fn mutate(call: &Call, operation: Operation, object: &mut Value, old: Option<&Value>) -> Result<()> {
    let concerned = concerned(call, "mutatingwebhookconfigurations", operation, Some(object), old);
    let mut changed_after = vec![false; concerned.len()];
    for (at, one) in concerned.iter().enumerate() {
        let before = object.clone();
        ask_to_mutate(call, operation, one, object, old).await?;
        if *object != before {
            changed_after[..at].fill(true);
        }
    }
    for (one, changed) in concerned.iter().zip(changed_after) {
        if changed && object::text(&one.webhook, "/reinvocationPolicy") == "IfNeeded" {
            ask_to_mutate(call, operation, one, object, old).await?;
        }
    }
    Ok(())
}

/// Asks the validating webhooks; the first refusal counts.
pub(super) async fn validate(
    call: &Call,
    operation: Operation,
    object: Option<&Value>,
    old: Option<&Value>,
) -> Result<()> {
    for one in concerned(call, "validatingwebhookconfigurations", operation, object, old) {
        let asked = presented(&one, object);
        let before = presented(&one, old);
        if let Some(answer) = ask(call, operation, &one, asked.as_ref(), before.as_ref()).await? {
            answer.warnings.into_iter().for_each(|warning| call.warn(warning));
            if let Some(refusal) = answer.refusal {
                return Err(refusal);
            }
        }
    }
    Ok(())
}

async fn ask_to_mutate(
    call: &Call,
    operation: Operation,
    one: &Concerned,
    object: &mut Value,
    old: Option<&Value>,
) -> Result<()> {
    let asked = presented(one, Some(object));
    let before = presented(one, old);
    let Some(answer) = ask(call, operation, one, asked.as_ref(), before.as_ref()).await? else { return Ok(()) };
    answer.warnings.into_iter().for_each(|warning| call.warn(warning));
    if let Some(refusal) = answer.refusal {
        return Err(refusal);
    }
    if let (Some(patch), Some(mut patched)) = (answer.patch, asked) {
        let name = object::text(&one.webhook, "/name");
        json::apply(&mut patched, &patch).map_err(|error| {
            Status::internal(format!("failed calling webhook {name:?}: its patch does not apply: {error}"))
        })?;
        *object = encode::present(&call.served, &patched).into_owned();
    }
    Ok(())
}

fn presented(one: &Concerned, object: Option<&Value>) -> Option<Value> {
    object.map(|object| encode::present(&one.served, object).into_owned())
}

/// Asks one webhook. None if it failed and is to be ignored then.
async fn ask(
    call: &Call,
    operation: Operation,
    one: &Concerned,
    object: Option<&Value>,
    old: Option<&Value>,
) -> Result<Option<review::Answer>> {
    let webhook = &one.webhook;
    let name = object::text(webhook, "/name");
    let dry_run = call.query.dry_run()?;
    if dry_run && !matches!(object::text(webhook, "/sideEffects"), "None" | "NoneOnDryRun") {
        return Err(Status::bad_request(format!("admission webhook {name:?} does not support dry run")));
    }
    let question = review::Question { call, operation, asked: &one.served, object, old, dry_run };
    match review::ask(webhook, &question).await {
        Ok(answer) => Ok(Some(answer)),
        Err(failure) if object::text(webhook, "/failurePolicy") == "Ignore" => {
            tracing::warn!(webhook = name, %failure, "webhook failed, which is ignored");
            Ok(None)
        }
        Err(failure) => Err(Status::internal(format!("failed calling webhook {name:?}: {failure}"))),
    }
}

fn concerned(
    call: &Call,
    plural: &str,
    operation: Operation,
    object: Option<&Value>,
    old: Option<&Value>,
) -> Vec<Concerned> {
    if call.served.kind.group == GROUP {
        // Nothing may keep a broken webhook from being removed.
        return Vec::new();
    }
    let configurations = call.api.store.list(&GroupResource::new(GROUP, plural), None).1;
    let mut concerned = Vec::new();
    for configuration in configurations {
        for webhook in object::list(&configuration, "/webhooks") {
            let selected = namespace_selected(call, webhook, object.or(old)) && object_selected(webhook, object, old);
            if let Some(served) = matching_version(call, webhook, operation).filter(|_| selected) {
                concerned.push(Concerned { webhook: webhook.clone(), served });
            }
        }
    }
    concerned
}

/// The version of the resource that the webhook wants to see: the request's, or with `matchPolicy: Equivalent` another of the same
/// objects.
fn matching_version(call: &Call, webhook: &Value, operation: Operation) -> Option<std::sync::Arc<Served>> {
    let rules = object::list(webhook, "/rules");
    let matches =
        |served: &Served| rules.iter().any(|rule| rule_matches(rule, served, &call.route.subresource, operation));
    if matches(&call.served) {
        return Some(call.served.clone());
    }
    if object::text(webhook, "/matchPolicy") == "Exact" {
        return None;
    }
    let snapshot = call.api.registry.snapshot();
    snapshot.all().iter().find(|served| served.stored == call.served.stored && matches(served)).cloned()
}

fn rule_matches(rule: &Value, served: &Served, subresource: &str, operation: Operation) -> bool {
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

fn namespace_selected(call: &Call, webhook: &Value, object: Option<&Value>) -> bool {
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

    fn served(group: &str, plural: &str) -> Served {
        let kind = kinds::by_resource(group, "v1", plural).expect("built in").clone();
        let stored = GroupResource::of(&kind);
        Served { kind, stored, custom: None }
    }

    #[test]
    fn rules() {
        let rule = |resources: Value| json!({"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": resources});
        let matches =
            |rule: &Value, subresource: &str| rule_matches(rule, &served("", "pods"), subresource, Operation::Create);
        assert!(matches(&rule(json!(["pods"])), ""));
        assert!(!matches(&rule(json!(["pods"])), "status"));
        assert!(matches(&rule(json!(["pods/*"])), "status"));
        assert!(matches(&rule(json!(["*"])), ""));
        assert!(!matches(&rule(json!(["services"])), ""));
        assert!(!rule_matches(&rule(json!(["*"])), &served("apps", "deployments"), "", Operation::Create));
        assert!(!rule_matches(&rule(json!(["*"])), &served("", "pods"), "", Operation::Delete));
    }
}
