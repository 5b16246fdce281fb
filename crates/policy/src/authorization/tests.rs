use std::collections::HashMap;

use super::*;

impl Headers for HashMap<&str, &str> {
    fn value(&self, name: &str) -> Option<Cow<'_, str>> {
        self.get(name).map(|value| Cow::Borrowed(*value))
    }
}

fn any_of<T, E: std::fmt::Debug>(values: &[&str], parse: impl Fn(&str) -> Result<T, E>) -> Field<T> {
    Field { any_of: values.iter().map(|value| parse(value).unwrap()).collect(), none_of: Vec::new() }
}

fn none_of<T, E: std::fmt::Debug>(values: &[&str], parse: impl Fn(&str) -> Result<T, E>) -> Field<T> {
    let Field { any_of, none_of } = any_of(values, parse);
    Field { any_of: none_of, none_of: any_of }
}

fn from(source: Source) -> Rule {
    Rule { from: vec![source], ..Rule::default() }
}

fn to(operation: Operation) -> Rule {
    Rule { to: vec![operation], ..Rule::default() }
}

/// Returns whether a rule matches a request of `frontend` in `west` (GET reviews:9080/ratings/7, header x-user: jason),
/// the same request without an identity, and the same connection without a request, for ALLOW and for DENY.
fn outcomes(rule: &Rule) -> [bool; 4] {
    let id: SpiffeId = "spiffe://cluster.local/ns/default/sa/frontend".parse().unwrap();
    let headers = HashMap::from([("x-user", "jason")]);
    let request = Request { method: "GET", path: "/ratings/7", host: "reviews:9080", headers: &headers };
    let facts = Facts {
        principal: Some(&id),
        cluster: Some("west"),
        source: "10.244.1.2".parse().unwrap(),
        port: 9080,
        request: Some(request),
    };
    let anonymous = Facts { principal: None, cluster: None, ..facts };
    let opaque = Facts { request: None, ..facts };
    [
        rule.matches(&facts, Action::Allow),
        rule.matches(&anonymous, Action::Allow),
        rule.matches(&opaque, Action::Allow),
        rule.matches(&opaque, Action::Deny),
    ]
}

#[test]
fn each_field_matches_as_documented() {
    let table: Vec<(&str, Rule, [bool; 4])> = vec![
        ("everything", Rule::default(), [true; 4]),
        (
            "principal",
            from(Source {
                principals: any_of(&["cluster.local/ns/default/sa/frontend"], Pattern::parse),
                ..Source::default()
            }),
            [true, false, true, true],
        ),
        (
            "any principal",
            from(Source { principals: any_of(&["*"], Pattern::parse), ..Source::default() }),
            [true, false, true, true],
        ),
        (
            "other principal",
            from(Source { principals: any_of(&["*/sa/ratings"], Pattern::parse), ..Source::default() }),
            [false; 4],
        ),
        (
            "not this principal",
            from(Source { principals: none_of(&["*/sa/frontend"], Pattern::parse), ..Source::default() }),
            [false, true, false, false],
        ),
        (
            "namespace",
            from(Source { namespaces: any_of(&["default"], Pattern::parse), ..Source::default() }),
            [true, false, true, true],
        ),
        (
            "not its namespace, as a part of its name",
            from(Source { namespaces: any_of(&["defaul"], Pattern::parse), ..Source::default() }),
            [false; 4],
        ),
        (
            "cluster",
            from(Source { clusters: any_of(&["west"], Pattern::parse), ..Source::default() }),
            [true, false, true, true],
        ),
        ("block", from(Source { ip_blocks: any_of(&["10.244.0.0/16"], str::parse), ..Source::default() }), [true; 4]),
        (
            "other block",
            from(Source { ip_blocks: none_of(&["10.0.0.0/8", "::/0"], str::parse), ..Source::default() }),
            [false; 4],
        ),
        ("port", to(Operation { ports: any_of(&["80", "9080"], str::parse), ..Operation::default() }), [true; 4]),
        ("other port", to(Operation { ports: any_of(&["80"], str::parse), ..Operation::default() }), [false; 4]),
        (
            "method",
            to(Operation { methods: any_of(&["GET"], Pattern::parse), ..Operation::default() }),
            [true, true, false, true],
        ),
        (
            "method in lower case",
            to(Operation { methods: any_of(&["get"], Pattern::parse), ..Operation::default() }),
            [false, false, false, true],
        ),
        (
            "host",
            to(Operation { hosts: any_of(&["REVIEWS:*"], Pattern::parse), ..Operation::default() }),
            [true, true, false, true],
        ),
        (
            "path",
            to(Operation { paths: any_of(&["/ratings/{*}"], PathPattern::parse), ..Operation::default() }),
            [true, true, false, true],
        ),
        (
            "not this path",
            to(Operation { paths: none_of(&["/ratings*"], PathPattern::parse), ..Operation::default() }),
            [false, false, false, true],
        ),
        (
            "header",
            Rule {
                when: vec![Header { name: "x-user".into(), value: any_of(&["jason"], Pattern::parse) }],
                ..Rule::default()
            },
            [true, true, false, true],
        ),
        (
            "absent header",
            Rule {
                when: vec![Header { name: "x-other".into(), value: any_of(&["*"], Pattern::parse) }],
                ..Rule::default()
            },
            [false, false, false, true],
        ),
    ];
    for (name, rule, expected) in table {
        assert_eq!(outcomes(&rule), expected, "{name}");
    }
}

#[test]
fn deny_comes_first_and_allow_makes_the_rest_refused() {
    let policy = |name: &str, action, rules: Vec<Rule>| Policy { name: name.into(), action, rules };
    let methods = |method| to(Operation { methods: any_of(&[method], Pattern::parse), ..Operation::default() });
    let denied = |name: &str, rule| Decision::Denied { policy: name.into(), rule };
    let table: Vec<(&str, Vec<Policy>, Decision)> = vec![
        ("no policy", vec![], Decision::Allowed),
        ("allow nothing", vec![policy("a", Action::Allow, vec![])], Decision::NotAllowed),
        ("allow all", vec![policy("a", Action::Allow, vec![Rule::default()])], Decision::Allowed),
        ("allow others", vec![policy("a", Action::Allow, vec![methods("POST")])], Decision::NotAllowed),
        (
            "one of two allows",
            vec![policy("a", Action::Allow, vec![methods("POST")]), policy("b", Action::Allow, vec![methods("GET")])],
            Decision::Allowed,
        ),
        ("deny nothing", vec![policy("d", Action::Deny, vec![])], Decision::Allowed),
        (
            "deny beats allow",
            vec![
                policy("a", Action::Allow, vec![Rule::default()]),
                policy("d", Action::Deny, vec![methods("PUT"), methods("GET")]),
            ],
            denied("d", 1),
        ),
        ("deny others", vec![policy("d", Action::Deny, vec![methods("PUT")])], Decision::Allowed),
    ];
    let headers = HashMap::new();
    for (name, policies, expected) in table {
        let facts = Facts {
            principal: None,
            cluster: None,
            source: "::1".parse().unwrap(),
            port: 80,
            request: Some(Request { method: "GET", path: "/", host: "a", headers: &headers }),
        };
        assert_eq!(Authorization::compile(policies).evaluate(&facts), expected, "{name}");
    }
}
