//! Access control, webhooks, disruption budgets and autoscalers.

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::age;
use super::cell::{Cells, Heading, column, items, name, number, text, wide};
use crate::kinds::ResourceKind;

pub(super) fn printer(kind: &ResourceKind) -> Option<(&'static [Heading], Cells)> {
    Some(match (&*kind.group, &*kind.kind) {
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => (BINDING, binding),
        ("admissionregistration.k8s.io", "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration") => {
            (WEBHOOKS, webhooks)
        }
        ("policy", "PodDisruptionBudget") => (BUDGET, budget),
        ("autoscaling", "HorizontalPodAutoscaler") => (AUTOSCALER, autoscaler),
        _ => return None,
    })
}

const BINDING: &[Heading] = &[
    column("Name", "string"),
    column("Role", "string"),
    column("Age", "string"),
    wide("Users", "string"),
    wide("Groups", "string"),
    wide("ServiceAccounts", "string"),
];

fn binding(object: &Value, now: OffsetDateTime) -> Vec<Value> {
    let role = &object["roleRef"];
    let subjects = |kind: &str| -> Value {
        let named = items(&object["subjects"]).iter().filter(|subject| subject["kind"] == kind);
        let shown = named.map(|subject| match (kind, text(&subject["namespace"])) {
            ("ServiceAccount", namespace) => format!("{namespace}/{}", text(&subject["name"])),
            _ => text(&subject["name"]).to_owned(),
        });
        shown.collect::<Vec<_>>().join(", ").into()
    };
    vec![
        name(object),
        format!("{}/{}", text(&role["kind"]), text(&role["name"])).into(),
        age::of(object, now),
        subjects("User"),
        subjects("Group"),
        subjects("ServiceAccount"),
    ]
}

const WEBHOOKS: &[Heading] = &[column("Name", "string"), column("Webhooks", "integer"), column("Age", "string")];

fn webhooks(object: &Value, now: OffsetDateTime) -> Vec<Value> {
    vec![name(object), items(&object["webhooks"]).len().into(), age::of(object, now)]
}

const BUDGET: &[Heading] = &[
    column("Name", "string"),
    column("Min Available", "string"),
    column("Max Unavailable", "string"),
    column("Allowed Disruptions", "integer"),
    column("Age", "string"),
];

fn budget(object: &Value, now: OffsetDateTime) -> Vec<Value> {
    let bound = |field: &str| match &object["spec"][field] {
        Value::Null => json!("N/A"),
        Value::String(percentage) => percentage.as_str().into(),
        count => count.to_string().into(),
    };
    vec![
        name(object),
        bound("minAvailable"),
        bound("maxUnavailable"),
        number(&object["status"]["disruptionsAllowed"]).into(),
        age::of(object, now),
    ]
}

const AUTOSCALER: &[Heading] = &[
    column("Name", "string"),
    column("Reference", "string"),
    column("Targets", "string"),
    column("MinPods", "string"),
    column("MaxPods", "string"),
    column("Replicas", "integer"),
    column("Age", "string"),
];

fn autoscaler(object: &Value, now: OffsetDateTime) -> Vec<Value> {
    let (spec, target) = (&object["spec"], &object["spec"]["scaleTargetRef"]);
    // Without a metrics server the current values are unknown.
    let targets: Vec<String> = items(&spec["metrics"])
        .iter()
        .map(|metric| {
            let resource = &metric["resource"];
            match resource["target"]["averageUtilization"].as_i64() {
                Some(percent) => format!("{}: <unknown>/{percent}%", text(&resource["name"])),
                None => "<unknown>".to_owned(),
            }
        })
        .collect();
    vec![
        name(object),
        format!("{}/{}", text(&target["kind"]), text(&target["name"])).into(),
        if targets.is_empty() { json!("<none>") } else { targets.join(", ").into() },
        number(&spec["minReplicas"]).into(),
        number(&spec["maxReplicas"]).into(),
        number(&object["status"]["currentReplicas"]).into(),
        age::of(object, now),
    ]
}
