//! Tests of tables: precedence, and the index of exact paths.

use http::{HeaderMap, StatusCode};
use proptest::prelude::*;

use super::*;

fn route(name: &str, matches: Vec<HttpMatch>) -> HttpRoute {
    HttpRoute {
        name: name.into(),
        matches: matches.into(),
        action: Action::Respond(DirectResponse { status: StatusCode::OK, body: bytes::Bytes::new() }),
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
        cors: None,
        fault: Fault::default(),
        classes: None,
    }
}

fn path(pattern: StringMatch) -> HttpMatch {
    HttpMatch { path: Some(pattern), ..HttpMatch::default() }
}

fn table(routes: Vec<HttpRoute>) -> Table {
    Table::new("shop/reviews".into(), routes, Vec::new(), Vec::new())
}

fn facts<'a>(path: &'a str, method: &'a str, headers: &'a HeaderMap) -> RequestFacts<'a> {
    RequestFacts { path, query: None, scheme: "http", method, authority: "reviews", headers, port: 80, claims: None }
}

fn chosen(table: &Table, path: &str, method: &str) -> Option<String> {
    let headers = HeaderMap::new();
    table.http(&facts(path, method, &headers)).map(|chosen| chosen.route.name.to_string())
}

#[test]
fn the_first_route_that_matches_is_used() {
    let table = table(vec![
        route("a", vec![path(StringMatch::Exact("/a".into())), path(StringMatch::Prefix("/aa".into()))]),
        route("b", vec![path(StringMatch::Prefix("/a".into()))]),
        route("c", vec![]),
        route("never", vec![path(StringMatch::Exact("/c".into()))]),
    ]);
    for (path, expected) in [("/a", "a"), ("/aab", "a"), ("/ab", "b"), ("/c", "c"), ("", "c")] {
        assert_eq!(chosen(&table, path, "GET").as_deref(), Some(expected), "{path}");
    }
    let headers = HeaderMap::new();
    assert_eq!(table.http(&facts("/aab", "GET", &headers)).unwrap().prefix, Some(3));
    assert_eq!(table.http(&facts("/a", "GET", &headers)).unwrap().prefix, None);
    assert_eq!(table.http(&facts("/c", "GET", &headers)).unwrap().prefix, Some(1));
}

#[test]
fn a_request_that_no_route_matches_has_none() {
    let table = table(vec![route("a", vec![path(StringMatch::Exact("/a".into()))])]);
    assert_eq!(chosen(&table, "/b", "GET"), None);
}

#[test]
fn a_host_has_routes_for_the_ports_that_conditions_name() {
    let on = |port| HttpMatch { port: Some(port), ..HttpMatch::default() };
    let ports = table(vec![route("a", vec![on(80)]), route("b", vec![on(81), on(82)])]);
    assert_eq!([79, 80, 81, 82].map(|port| ports.has_http(port)), [false, true, true, true]);
    assert!(table(vec![route("a", vec![on(80)]), route("b", vec![])]).has_http(79));
    assert!(!table(vec![]).has_http(80));
}

#[test]
fn exact_paths_are_found_by_an_index_in_order() {
    let mut routes: Vec<HttpRoute> =
        (0..1000).map(|n| route(&n.to_string(), vec![path(StringMatch::Exact(format!("/{n}").into()))])).collect();
    let post = HttpMatch { method: Some(StringMatch::Exact("POST".into())), ..path(StringMatch::Exact("/7".into())) };
    routes.insert(0, route("post", vec![post]));
    routes.push(route("rest", vec![]));
    let table = table(routes);
    assert_eq!(table.steps.len(), 2, "an index, and the rest");
    for (path, method, expected) in
        [("/0", "GET", "0"), ("/999", "GET", "999"), ("/7", "POST", "post"), ("/7", "GET", "7"), ("/x", "GET", "rest")]
    {
        assert_eq!(chosen(&table, path, method).as_deref(), Some(expected), "{path}");
    }
}

fn any_match() -> impl Strategy<Value = HttpMatch> {
    let pattern = prop_oneof![
        6 => "/[ab]{0,2}".prop_map(|text| StringMatch::Exact(text.into())),
        1 => "/[ab]{0,2}".prop_map(|text| StringMatch::Prefix(text.into())),
        1 => "/[ab]{0,2}".prop_map(|text| StringMatch::ExactIgnoreCase(text.into())),
    ];
    let method = proptest::option::weighted(0.3, Just(StringMatch::Exact("POST".into())));
    (proptest::option::weighted(0.9, pattern), method).prop_map(|(path, method)| HttpMatch {
        path,
        method,
        ..HttpMatch::default()
    })
}

proptest! {
    /// The index finds what a search through all routes finds.
    #[test]
    fn the_index_changes_nothing(
        matches in proptest::collection::vec(proptest::collection::vec(any_match(), 0..3), 0..40),
        requested in "/[abA]{0,2}",
        post in any::<bool>(),
    ) {
        let routes: Vec<HttpRoute> =
            matches.into_iter().enumerate().map(|(n, matches)| route(&n.to_string(), matches)).collect();
        let headers = HeaderMap::new();
        let facts = facts(&requested, if post { "POST" } else { "GET" }, &headers);
        let expected = routes
            .iter()
            .find(|route| route.matches.is_empty() || route.matches.iter().any(|of| of.is_met(&facts)))
            .map(|route| route.name.clone());
        let table = table(routes);
        prop_assert_eq!(table.http(&facts).map(|chosen| chosen.route.name.clone()), expected);
    }
}
