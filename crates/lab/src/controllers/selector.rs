//! Label selectors: `LabelSelector` of the Kubernetes API.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// Reports whether `labels` meet every requirement of `selector`. An empty selector selects everything.
#[must_use]
pub fn matches(selector: &LabelSelector, labels: &Labels) -> bool {
    let equal = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    equal
        && selector.match_expressions.iter().flatten().all(|requirement| {
            let values = requirement.values.as_deref().unwrap_or_default();
            meets(labels.get(&requirement.key), &requirement.operator, values)
        })
}

/// Reports whether `labels` contain every pair of `wanted`. An empty map selects nothing, as in a Service.
#[must_use]
pub fn holds(wanted: &Labels, labels: &Labels) -> bool {
    !wanted.is_empty() && wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Reports whether a node with these labels and this name meets one term of a node affinity.
#[must_use]
pub fn node_meets(term: &NodeSelectorTerm, labels: &Labels, name: &str) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let name = name.to_owned();
    let meets_one = |requirement: &NodeSelectorRequirement, value: Option<&String>| {
        meets(value, &requirement.operator, requirement.values.as_deref().unwrap_or_default())
    };
    expressions.iter().all(|requirement| meets_one(requirement, labels.get(&requirement.key)))
        && fields.iter().all(|requirement| {
            let value = (requirement.key == "metadata.name").then_some(&name);
            meets_one(requirement, value)
        })
}

fn meets(value: Option<&String>, operator: &str, values: &[String]) -> bool {
    let number = |text: &String| text.parse::<i64>().ok();
    match operator {
        "In" => value.is_some_and(|value| values.contains(value)),
        "NotIn" => value.is_none_or(|value| !values.contains(value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => value.and_then(number) > values.first().and_then(number) && value.and_then(number).is_some(),
        "Lt" => match (value.and_then(number), values.first().and_then(number)) {
            (Some(value), Some(bound)) => value < bound,
            _ => false,
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements() {
        let labels: Labels = [("app".to_owned(), "a".to_owned()), ("rank".to_owned(), "5".to_owned())].into();
        let cases: &[(&str, bool)] = &[
            ("{}", true),
            (r#"{"matchLabels":{"app":"a"}}"#, true),
            (r#"{"matchLabels":{"app":"b"}}"#, false),
            (r#"{"matchExpressions":[{"key":"app","operator":"In","values":["a","b"]}]}"#, true),
            (r#"{"matchExpressions":[{"key":"app","operator":"NotIn","values":["a"]}]}"#, false),
            (r#"{"matchExpressions":[{"key":"tier","operator":"NotIn","values":["a"]}]}"#, true),
            (r#"{"matchExpressions":[{"key":"tier","operator":"Exists"}]}"#, false),
            (r#"{"matchExpressions":[{"key":"tier","operator":"DoesNotExist"}]}"#, true),
            (r#"{"matchExpressions":[{"key":"rank","operator":"Gt","values":["4"]}]}"#, true),
            (r#"{"matchExpressions":[{"key":"rank","operator":"Lt","values":["4"]}]}"#, false),
            (r#"{"matchExpressions":[{"key":"app","operator":"Near"}]}"#, false),
        ];
        for (text, expected) in cases {
            let selector: LabelSelector = serde_json::from_str(text).expect(text);
            assert_eq!(matches(&selector, &labels), *expected, "{text}");
        }
        assert!(!holds(&Labels::new(), &labels));
        assert!(holds(&[("app".to_owned(), "a".to_owned())].into(), &labels));
    }
}
