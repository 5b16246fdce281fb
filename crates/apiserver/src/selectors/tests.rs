use super::*;
use crate::object;
use serde_json::json;

fn names(selector: &str, objects: &[Value]) -> Vec<String> {
    let selector = Selector::parse(selector, "", |_| false).expect("legal selector");
    objects.iter().filter(|o| selector.matches(o)).map(|o| object::name(o).to_owned()).collect()
}

fn objects() -> Vec<Value> {
    vec![
        json!({"metadata": {"name": "a", "labels": {"app": "x", "n": "3"}}}),
        json!({"metadata": {"name": "b", "labels": {"app": "y"}}}),
        json!({"metadata": {"name": "c"}}),
    ]
}

proptest::proptest! {
    #[test]
    fn any_selector_is_parsed_or_rejected(labels in ".{0,60}", fields in "[a-z.=!,\\\\]{0,40}") {
        let pod = json!({"metadata": {"name": "a", "labels": {"app": "x"}}});
        if let Ok(selector) = Selector::parse(&labels, &fields, |_| true) {
            selector.matches(&pod);
        }
    }
}

#[test]
fn label_syntax() {
    let table = [
        ("", "abc"),
        ("app=x", "a"),
        ("app==x", "a"),
        ("app!=x", "bc"),
        ("app", "ab"),
        ("!app", "c"),
        ("app in (x, y)", "ab"),
        ("app notin (x)", "bc"),
        ("app in (x,z),n>2", "a"),
        ("n<3", ""),
    ];
    for (selector, expected) in table {
        assert_eq!(names(selector, &objects()).concat(), expected, "{selector}");
    }
}

#[test]
fn malformed_selectors_are_rejected() {
    for selector in ["a b", "app in (x", "app like (x)", "n>x", "=x"] {
        assert_eq!(Selector::parse(selector, "", |_| true).expect_err(selector).code, 400);
    }
    assert_eq!(Selector::parse("", "spec.foo=1", |_| false).expect_err("unknown").code, 400);
    assert_eq!(Selector::parse("", "spec.foo", |_| true).expect_err("no operator").code, 400);
}

#[test]
fn field_selectors_compare_text() {
    let pod = json!({"metadata": {"name": "a"}, "spec": {"nodeName": "n1"}});
    let matches = |fields: &str| {
        Selector::parse("", fields, |path| builtin_field("", "pods", path)).expect("legal").matches(&pod)
    };
    assert!(matches("metadata.name=a,spec.nodeName=n1"));
    assert!(matches("spec.nodeName!="));
    assert!(!matches("spec.nodeName="));
    assert!(matches("status.phase!=Running"));
}

#[test]
fn label_selectors_of_objects() {
    let labels = json!({"app": "x"});
    let matches = |selector: Value| label_selector_matches(&selector, Some(&labels));
    assert!(matches(json!({})));
    assert!(!matches(Value::Null));
    assert!(matches(json!({"matchLabels": {"app": "x"}})));
    assert!(matches(json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["y"]}]})));
    assert!(!matches(json!({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]})));
}
