use std::borrow::Cow;

use identity::SpiffeId;

use super::*;
use crate::{Claims, Headers, PathPattern, Pattern, Request, TokenPrincipal};

/// The lines of headers, or the values of claims.
struct Pairs(&'static [(&'static str, &'static str)]);

impl Headers for Pairs {
    fn any(&self, name: &str, matches: &mut dyn FnMut(Cow<'_, str>) -> bool) -> bool {
        self.0.iter().any(|(of, value)| *of == name && matches((*value).into()))
    }
}

impl Claims for Pairs {
    fn issuer(&self) -> Option<&str> {
        self.0.iter().find(|(of, _)| *of == "iss").map(|(_, value)| *value)
    }

    fn subject(&self) -> Option<&str> {
        self.0.iter().find(|(of, _)| *of == "sub").map(|(_, value)| *value)
    }

    fn any(&self, path: &[Arc<str>], matches: &mut dyn FnMut(&str) -> bool) -> bool {
        let path = path.join(".");
        self.0.iter().any(|(of, value)| *of == path && matches(value))
    }
}

const CLAIMS: Pairs =
    Pairs(&[("iss", "https://issuer.example/a"), ("sub", "ada"), ("groups", "dev"), ("groups", "ops"), ("a.b", "c")]);

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

fn when(condition: Condition) -> Rule {
    Rule { when: vec![condition], ..Rule::default() }
}

fn to(operation: Operation) -> Rule {
    Rule { to: vec![operation], ..Rule::default() }
}

/// Returns whether a rule matches a request of `frontend` in `west` (GET reviews:9080/ratings/7, header x-user: jason),
/// the same request without an identity, and the same connection without a request, for ALLOW and for DENY.
fn outcomes(rule: &Rule) -> [bool; 4] {
    let id: SpiffeId = "spiffe://cluster.local/ns/default/sa/frontend".parse().unwrap();
    let headers = Pairs(&[("x-user", "jason"), ("x-user", "ada")]);
    let (method, path, host) = ("GET", "/ratings/7", "reviews:9080");
    let request = Request { method, path, host, headers: &headers, claims: Some(&CLAIMS) };
    let facts = Facts {
        principal: Some(&id),
        cluster: Some("west"),
        source: "10.244.1.2".parse().unwrap(),
        remote: "203.0.113.7".parse().unwrap(),
        destination: "10.244.1.9".parse().unwrap(),
        port: 9080,
        server_name: Some("outbound_.9080_._.reviews.default.svc.cluster.local"),
        request: Some(request),
    };
    let anonymous = Facts { principal: None, cluster: None, ..facts };
    let opaque = Facts { request: None, ..facts };
    [
        rule.matches(&facts, true),
        rule.matches(&anonymous, true),
        rule.matches(&opaque, true),
        rule.matches(&opaque, false),
    ]
}

fn account(text: &str) -> Result<(Arc<str>, Arc<str>), ()> {
    text.split_once('/').map(|(namespace, name)| (namespace.into(), name.into())).ok_or(())
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
            when(Condition::Header("x-user".into(), any_of(&["ada"], Pattern::parse))),
            [true, true, false, true],
        ),
        (
            "absent header",
            when(Condition::Header("x-other".into(), any_of(&["*"], Pattern::parse_header))),
            [false, false, false, true],
        ),
        (
            "lines of a header are values of their own",
            when(Condition::Header("x-user".into(), any_of(&["jason,ada"], Pattern::parse))),
            [false, false, false, true],
        ),
        (
            "not this header, on any line",
            when(Condition::Header("x-user".into(), none_of(&["ada"], Pattern::parse))),
            [false, false, false, true],
        ),
        (
            "namespace with wildcards",
            from(Source { namespaces: any_of(&["d*fau*t"], Pattern::parse_glob), ..Source::default() }),
            [true, false, true, true],
        ),
        (
            "account",
            from(Source { service_accounts: any_of(&["default/frontend"], account), ..Source::default() }),
            [true, false, true, true],
        ),
        (
            "account of another namespace",
            from(Source { service_accounts: any_of(&["shop/frontend"], account), ..Source::default() }),
            [false; 4],
        ),
        (
            "trust domain",
            from(Source { trust_domains: any_of(&["cluster.*"], Pattern::parse), ..Source::default() }),
            [true, false, true, true],
        ),
        (
            "not this cluster; an unknown one may be it",
            from(Source { clusters: none_of(&["east"], Pattern::parse), ..Source::default() }),
            [true, false, true, true],
        ),
        (
            "original client",
            from(Source { remote_ip_blocks: any_of(&["203.0.113.0/24"], str::parse), ..Source::default() }),
            [true; 4],
        ),
        (
            "token",
            from(Source {
                request_principals: any_of(&["https://issuer.example/a/ada"], TokenPrincipal::parse),
                ..Source::default()
            }),
            [true, true, false, true],
        ),
        (
            "not this token",
            from(Source { request_principals: none_of(&["*/ada"], TokenPrincipal::parse), ..Source::default() }),
            [false, false, false, true],
        ),
        (
            "claim in a list",
            when(Condition::Claim(vec!["groups".into()], any_of(&["ops"], Pattern::parse))),
            [true, true, false, true],
        ),
        (
            "nested claim",
            when(Condition::Claim(vec!["a".into(), "b".into()], any_of(&["c*"], Pattern::parse))),
            [true, true, false, true],
        ),
        (
            "absent claim",
            when(Condition::Claim(vec!["x".into()], none_of(&["*"], Pattern::parse))),
            [true, true, false, true],
        ),
        ("own address", when(Condition::DestinationIp(any_of(&["10.244.1.9/32"], str::parse))), [true; 4]),
        ("port as a condition", when(Condition::DestinationPort(none_of(&["9080"], str::parse))), [false; 4]),
        ("server name", when(Condition::ServerName(any_of(&["outbound_*"], Pattern::parse))), [true; 4]),
    ];
    for (name, rule, expected) in table {
        assert_eq!(outcomes(&rule), expected, "{name}");
    }
}

/// Dots and other metacharacters of expressions are literal, and wildcards have effect on opaque connections as well.
#[test]
fn names_are_literal_and_wildcards_match_in_requests_and_on_connections() {
    let principals = |text: &str| Source { principals: any_of(&[text], Pattern::parse), ..Source::default() };
    let namespaces = |text: &str| Source { namespaces: any_of(&[text], Pattern::parse_glob), ..Source::default() };
    let accounts = |text: &str| Source { service_accounts: any_of(&[text], account), ..Source::default() };
    let (matched, not) = ([true, false, true, true], [false; 4]);
    for (source, expected) in [
        (principals("*/sa/frontend"), matched),
        (principals("cluster.local/ns/default/*"), matched),
        (principals("*/sa/front.nd"), not),
        (principals("cluster.local/ns/defa.lt/sa/frontend"), not),
        (principals("clusterxlocal/ns/default/*"), not),
        (principals("*/sa/(frontend)"), not),
        (namespaces("*fault"), matched),
        (namespaces("*efaul*"), matched),
        (namespaces("d.fault"), not),
        (namespaces("*.ault"), not),
        (namespaces("default|shop"), not),
        (accounts("default/frontend"), matched),
        (accounts("default/front.nd"), not),
        (accounts("d.fault/frontend"), not),
    ] {
        assert_eq!(outcomes(&from(source.clone())), expected, "{source:?}");
    }
}

#[test]
fn deny_comes_first_and_allow_makes_the_rest_refused() {
    let policy = |name: &str, action, rules: Vec<Rule>| Policy { name: name.into(), action, rules, dry_run: false };
    let methods = |method| to(Operation { methods: any_of(&[method], Pattern::parse), ..Operation::default() });
    let denied = |name: &str, rule| Decision::Denied(Matched { policy: name.into(), rule });
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
    for (name, policies, expected) in table {
        assert_eq!(Authorization::compile(policies).evaluate(&a_get()), expected, "{name}");
    }
}

#[test]
fn policies_that_do_not_decide_are_evaluated_apart() {
    let policy = |name: &str, action, dry_run| Policy {
        name: name.into(),
        action,
        rules: vec![to(Operation { methods: any_of(&["GET"], Pattern::parse), ..Operation::default() })],
        dry_run,
    };
    let denied = |name: &str| Decision::Denied(Matched { policy: name.into(), rule: 0 });
    let all = Authorization::compile([
        policy("deny", Action::Deny, true),
        policy("audit", Action::Audit, false),
        policy("ask", asks("provider", None), false),
    ]);
    assert!(!all.is_empty() && !all.only_enforces());
    assert_eq!(all.evaluate(&a_get()), Decision::Allowed);
    assert_eq!(all.evaluate_dry_run(&a_get()), Some(denied("deny")));
    assert!(all.audited(&a_get()).eq([&Arc::from("audit")]));
    assert_eq!(all.custom(&a_get()), Some(Matched { policy: "ask".into(), rule: 0 }));

    let enforced = Authorization::compile([policy("allow", Action::Allow, false)]);
    assert!(enforced.only_enforces() && !enforced.is_empty() && Authorization::default().is_empty());
    assert_eq!((enforced.evaluate_dry_run(&a_get()), enforced.custom(&a_get())), (None, None));
}

#[test]
fn the_provider_of_all_policies_is_asked_and_nobody_if_they_name_several() {
    let known = |hostname: &str| {
        Arc::new(Provider {
            hostname: hostname.into(),
            port: 80,
            timeout: std::time::Duration::from_secs(1),
            fail_open: false,
            status_on_error: 403,
            body: None,
            protocol: CheckProtocol::Grpc,
        })
    };
    let policies = |names: &[(&str, bool)]| {
        let policy = |&(name, exists): &(&str, bool)| Policy {
            name: name.into(),
            action: asks(name, exists.then(|| known(name))),
            rules: Vec::new(),
            dry_run: false,
        };
        let authorization = Authorization::compile(names.iter().map(policy));
        authorization.provider().map(|provider| provider.hostname.to_string())
    };
    assert_eq!(policies(&[]), None);
    assert_eq!(policies(&[("a", false)]), None);
    assert_eq!(policies(&[("a", true)]).as_deref(), Some("a"));
    assert_eq!(policies(&[("a", true), ("a", true)]).as_deref(), Some("a"));
    assert_eq!(policies(&[("a", true), ("b", true)]), None);
    assert_eq!(policies(&[("a", true), ("b", true), ("a", true)]), None);
}

fn asks(name: &str, provider: Option<Arc<Provider>>) -> Action {
    Action::Custom(Custom { name: name.into(), provider })
}

fn a_get() -> Facts<'static> {
    Facts {
        principal: None,
        cluster: None,
        source: "::1".parse().unwrap(),
        remote: "::1".parse().unwrap(),
        destination: "::1".parse().unwrap(),
        port: 80,
        server_name: None,
        request: Some(Request { method: "GET", path: "/", host: "a", headers: &Pairs(&[]), claims: None }),
    }
}

proptest::proptest! {
    /// Of many rules, the same one matches as if each were looked at.
    #[test]
    fn many_rules_decide_as_each_by_itself(
        rules in proptest::collection::vec((0..4u8, 0..4u8, 0..4u8, 0..3u8, proptest::bool::ANY), 0..30),
        caller in 0..4u8,
        path in 0..3u8,
    ) {
        let rule = |(principal, namespace, path, method, _): &(u8, u8, u8, u8, bool)| {
            let principals = match principal {
                0 => Field::default(),
                1 => any_of(&["*/sa/b"], Pattern::parse),
                2 => any_of(&["cluster.local/ns/x/sa/a", "cluster.local/ns/y/sa/b"], Pattern::parse),
                _ => none_of(&["cluster.local/ns/x/sa/a"], Pattern::parse),
            };
            let namespaces = match namespace {
                0 | 1 => Field::default(),
                2 => any_of(&["x"], Pattern::parse_glob),
                _ => any_of(&["y", "z"], Pattern::parse_glob),
            };
            let paths = match path {
                0 | 1 => Field::default(),
                2 => any_of(&["/a"], PathPattern::parse),
                _ => any_of(&["/b", "/c*"], PathPattern::parse),
            };
            let methods = if *method == 0 { any_of(&["PUT"], Pattern::parse) } else { Field::default() };
            let source = Source { principals, namespaces, ..Source::default() };
            Rule { from: vec![source], ..to(Operation { paths, methods, ..Operation::default() }) }
        };
        let action = |deny| if deny { Action::Deny } else { Action::Allow };
        let policies: Vec<Policy> = rules
            .iter()
            .enumerate()
            .map(|(number, of)| Policy {
                name: number.to_string().into(),
                action: action(of.4),
                rules: vec![Rule { to: vec![Operation { ports: any_of(&["1"], str::parse), ..Operation::default() }], ..Rule::default() }, rule(of)],
                dry_run: false,
            })
            .collect();
        let id: Option<SpiffeId> = match caller {
            0 => None,
            1 => Some("spiffe://cluster.local/ns/x/sa/a".parse().unwrap()),
            2 => Some("spiffe://cluster.local/ns/y/sa/b".parse().unwrap()),
            _ => Some("spiffe://cluster.local/ns/z/sa/c".parse().unwrap()),
        };
        let path = ["/a", "/b", "/cd"][usize::from(path)];
        let request = Request { method: "GET", path, host: "a", headers: &Pairs(&[]), claims: None };
        for request in [Some(request), None] {
            let facts = Facts { principal: id.as_ref(), request, ..a_get() };
            let first = policies.iter().filter(|of| of.action == Action::Deny).find_map(|of| of.matched(&facts));
            let mut allows = policies.iter().filter(|of| of.action == Action::Allow).peekable();
            let expected = match first {
                Some(matched) => Decision::Denied(matched),
                None if allows.peek().is_none() => Decision::Allowed,
                None if allows.any(|of| of.rules.iter().any(|rule| rule.matches(&facts, true))) => Decision::Allowed,
                None => Decision::NotAllowed,
            };
            proptest::prop_assert_eq!(Authorization::compile(policies.clone()).evaluate(&facts), expected);
        }
    }
}
