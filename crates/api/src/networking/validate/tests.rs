use serde_json::json;

use crate::networking::{DestinationRule, Problem, VirtualService};

mod any;
mod envoy;
mod rules;
mod services;
mod sidecars;

/// Problems as `Error spec.hosts[0]`.
fn fields(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(|problem| format!("{:?} {}", problem.severity, problem.field)).collect()
}

fn service(spec: &str) -> Vec<Problem> {
    let object = crate::yaml::from_str(&format!("metadata: {{namespace: shop}}\nspec: {spec}")).expect(spec);
    VirtualService::from_value(&object).validate()
}

fn rule(spec: &str) -> Vec<Problem> {
    let object = crate::yaml::from_str(&format!("metadata: {{namespace: shop}}\nspec: {spec}")).expect(spec);
    DestinationRule::from_value(&object).validate()
}

/// Objects that users have, as they are.
#[test]
fn what_users_have_is_accepted() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../install/tests/accepted");
    let mut read = 0;
    for entry in std::fs::read_dir(folder).expect("the folder") {
        let path = entry.expect("an entry").path();
        let text = std::fs::read_to_string(&path).expect("text");
        let options = serde_saphyr::options! { strict_booleans: true };
        let objects: Vec<serde_json::Value> = serde_saphyr::from_multiple_with_options(&text, options).expect("YAML");
        for object in objects {
            let problems = match object["kind"].as_str() {
                Some("VirtualService") => VirtualService::from_value(&object).validate(),
                Some("DestinationRule") => DestinationRule::from_value(&object).validate(),
                _ => continue,
            };
            read += 1;
            let errors: Vec<_> = problems.iter().filter(|problem| problem.is_error()).collect();
            assert!(errors.is_empty(), "{}: {errors:?}", path.display());
        }
    }
    assert!(read >= 6, "{read} objects");
}

/// A message says what is wrong and what to do, and is of bounded length even for a hostile value.
#[test]
fn messages_are_bounded() {
    let long = &*"x*".repeat(100_000);
    let object = json!({"spec": {
        "hosts": [long], "gateways": [long], "exportTo": [long],
        "http": [{
            "name": long,
            "match": [{"headers": {long: {"exact": "a"}}, "queryParams": {long: {"regex": ""}}, "sourceNamespace": long}],
            "retries": {"attempts": 1, "retryOn": long},
            "headers": {"request": {"set": {long: "%", ":": "a"}}},
            "route": [{"destination": {"host": long, "subset": long}, "weight": long}],
            long: 7,
        }],
    }});
    let problems = VirtualService::from_value(&object).validate();
    assert!(problems.len() > 8, "{}", problems.len());
    for problem in problems {
        let text = problem.to_string();
        assert!(text.len() < 1000, "{} characters: {}", text.len(), text.chars().take(300).collect::<String>());
    }
}
