use std::net::IpAddr;

use http::HeaderMap;
use policy::{Headers, Request};

use super::*;

struct NoHeaders;

impl Headers for NoHeaders {
    fn any(&self, _: &str, _: &mut dyn FnMut(Cow<'_, str>) -> bool) -> bool {
        false
    }
}

/// Returns the value of an action's entry; `None`: the request has no such descriptor.
fn value(source: Source, remote: &str) -> Option<String> {
    let headers: HeaderMap = [("x-user", "a"), ("x-many", "1"), ("x-many", "2")]
        .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
        .into_iter()
        .collect();
    let id: identity::SpiffeId = "spiffe://mesh/ns/shop/sa/web".parse().unwrap();
    let request = Request { method: "GET", path: "/a", host: "web:80", headers: &NoHeaders, claims: None };
    let remote: IpAddr = remote.parse().unwrap();
    let facts = Facts {
        principal: Some(&id),
        cluster: None,
        source: remote,
        remote,
        destination: remote,
        port: 80,
        server_name: None,
        request: Some(request),
    };
    let request = RequestFacts {
        facts: &facts,
        path_and_query: "/a?q=1&empty&q=2",
        headers: &headers,
        source_cluster: &"web.shop",
        destination_cluster: &"inbound|80||",
    };
    let action = Action { key: "k".into(), skip_if_absent: false, source };
    let actions = DescriptorActions { actions: [action].into(), stage: 0 };
    let found = actions.of(&request).map(|entries| entries[0].value.clone().into_owned());
    let skipping = Action { skip_if_absent: true, ..actions.actions[0].clone() };
    let constant = Action { key: "c".into(), skip_if_absent: false, source: Source::Constant("x".into()) };
    let both = DescriptorActions { actions: [skipping, constant].into(), stage: 0 };
    assert_eq!(both.of(&request).unwrap().len(), 1 + usize::from(found.is_some()), "an absent entry is left out");
    found
}

#[test]
fn actions_take_values_from_requests() {
    let header = |name: &str| Source::Header(HeaderOf::parse(name).unwrap());
    let remote = |v4_bits, v6_bits| Source::RemoteAddress { v4_bits, v6_bits };
    let matches = |name: &str, exact: &str, invert| Source::HeaderMatch {
        value: "yes".into(),
        conditions: [HeaderCondition {
            header: HeaderOf::parse(name).unwrap(),
            value: StringMatch::Exact(exact.into()),
            invert: false,
        }]
        .into(),
        invert,
    };
    for (source, ip, expected) in [
        (Source::Constant("x".into()), "10.1.2.3", Some("x")),
        (header(":path"), "10.1.2.3", Some("/a?q=1&empty&q=2")),
        (header(":method"), "10.1.2.3", Some("GET")),
        (header(":authority"), "10.1.2.3", Some("web:80")),
        (header("x-user"), "10.1.2.3", Some("a")),
        (header("x-many"), "10.1.2.3", Some("1,2")),
        (header("x-absent"), "10.1.2.3", None),
        (Source::Query("q".into()), "10.1.2.3", Some("1")),
        (Source::Query("empty".into()), "10.1.2.3", Some("")),
        (Source::Query("absent".into()), "10.1.2.3", None),
        (remote(32, 128), "10.1.2.3", Some("10.1.2.3")),
        (remote(16, 64), "10.1.2.3", Some("10.1.0.0/16")),
        (remote(16, 64), "2001:db8:1:2:3::4", Some("2001:db8:1:2::/64")),
        (matches("x-user", "a", false), "10.1.2.3", Some("yes")),
        (matches("x-user", "b", false), "10.1.2.3", None),
        (matches("x-user", "b", true), "10.1.2.3", Some("yes")),
        (matches("x-absent", "b", false), "10.1.2.3", None),
        (Source::Path, "10.1.2.3", Some("/a")),
        (Source::Identity, "10.1.2.3", Some("spiffe://mesh/ns/shop/sa/web")),
        (Source::SourceCluster, "10.1.2.3", Some("web.shop")),
        (Source::DestinationCluster, "10.1.2.3", Some("inbound|80||")),
    ] {
        assert_eq!(value(source.clone(), ip).as_deref(), expected, "{source:?}");
    }
}

#[test]
fn values_are_bounded() {
    let long = "é".repeat(LONGEST);
    assert_eq!(shortened(Cow::Borrowed(&long)).len(), LONGEST);
    assert_eq!(shortened(Cow::Owned(format!("x{long}"))).len(), LONGEST - 1, "not within a character");
    assert_eq!(shortened("short".into()), "short");
}
