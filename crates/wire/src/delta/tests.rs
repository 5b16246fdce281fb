//! Tests of both state machines together: the rules of the protocol, and random histories that must converge.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::Kind;
use crate::discovery::{Endpoint, ProxyReport, Refusal, Service};
use crate::envoy::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};

/// A source in memory.
#[derive(Default)]
struct TestSource {
    items: BTreeMap<(Kind, String), Item>,
    log: Vec<(Kind, Arc<str>)>,
    /// The earliest cursor that the log reaches back to.
    log_start: usize,
    /// Whether the absence of every resource is uncertain.
    uncertain: bool,
}

impl TestSource {
    fn put(&mut self, kind: Kind, name: &str, content: u32, keys: &[&str]) {
        let body = match kind {
            Kind::Service => {
                Service { hostname: name.into(), name: content.to_string(), ..Default::default() }.encode_to_vec()
            }
            _ => Endpoint { service: name.into(), weight: content, ..Default::default() }.encode_to_vec(),
        };
        let keys = keys.iter().map(|key| Arc::from(*key)).collect();
        let item = Item { name: name.into(), version: u64::from(content) + 1, body: Bytes::from(body), keys };
        self.log.push((kind, item.name.clone()));
        self.items.insert((kind, name.into()), item);
    }

    fn delete(&mut self, kind: Kind, name: &str) {
        if self.items.remove(&(kind, name.to_string())).is_some() {
            self.log.push((kind, name.into()));
        }
    }
}

impl Source for TestSource {
    type Found<'a> = &'a Item;

    fn get(&self, kind: Kind, name: &str) -> Option<&Item> {
        self.items.get(&(kind, name.to_string()))
    }
    fn members(&self, kind: Kind, name: &str) -> impl Iterator<Item = &Item> {
        let matches = move |item: &Item| *item.name == *name || item.keys.iter().any(|key| **key == *name);
        self.items.iter().filter(move |((of, _), item)| *of == kind && matches(item)).map(|(_, item)| item)
    }
    fn end(&self, _: Kind) -> u64 {
        self.log.len() as u64
    }
    fn changed(&self, kind: Kind, since: u64) -> Option<Vec<Arc<str>>> {
        let since = since as usize;
        (since >= self.log_start)
            .then(|| self.log[since..].iter().filter(|(of, _)| *of == kind).map(|(_, name)| name.clone()).collect())
    }
    fn certain(&self, _: Kind, _: &str) -> bool {
        !self.uncertain
    }
}

/// A client with its store, a server, and the messages between them.
struct Pair {
    client: Client,
    server: Server,
    requests: VecDeque<DeltaDiscoveryRequest>,
    responses: VecDeque<DeltaDiscoveryResponse>,
    store: HashMap<(Kind, String), u32>,
    /// Changes of answers, in order.
    answers: Vec<(Kind, Box<str>, Answer)>,
    /// The number of bodies received.
    bodies: usize,
    /// Contents that the store rejects.
    reject: BTreeSet<u32>,
}

impl Pair {
    fn new() -> Self {
        let mut client = Client::new("sidecar~10.0.0.1~a.b~west".into(), "west".into());
        client.connected();
        Pair {
            client,
            server: Server::default(),
            requests: VecDeque::new(),
            responses: VecDeque::new(),
            store: HashMap::new(),
            answers: Vec::new(),
            bodies: 0,
            reject: BTreeSet::new(),
        }
    }

    fn reconnect(&mut self) {
        self.client.disconnected();
        self.server = Server::default();
        self.requests.clear();
        self.responses.clear();
        self.client.connected();
    }

    fn client_sends(&mut self) -> bool {
        self.client.next_request().map(|request| self.requests.push_back(request)).is_some()
    }

    fn server_reads(&mut self) -> bool {
        self.requests.pop_front().map(|request| self.server.receive(request).unwrap()).is_some()
    }

    fn server_sends(&mut self, source: &TestSource) -> bool {
        self.server.next(source, Instant::now()).map(|response| self.responses.push_back(response)).is_some()
    }

    fn client_reads(&mut self) -> bool {
        let Some(response) = self.responses.pop_front() else { return false };
        let (update, receipt) = self.client.receive(response).unwrap();
        let mut rejected = Vec::new();
        for changed in update.changed {
            self.bodies += 1;
            let content = match changed.body {
                Body::Service(service) => service.name.parse().unwrap(),
                Body::Endpoint(endpoint) => endpoint.weight,
                other => panic!("{other:?} is of a type that the source does not hold"),
            };
            if self.reject.contains(&content) {
                rejected.push(Rejection { name: changed.name, reason: "rejected by the test".into() });
            } else {
                self.store.insert((update.kind, changed.name), content);
            }
        }
        for name in update.removed {
            self.store.remove(&(update.kind, name));
        }
        let result = if rejected.is_empty() { Ok(()) } else { Err(Rejected(rejected)) };
        for (name, answer) in self.client.applied(receipt, result) {
            self.answers.push((update.kind, name, answer));
        }
        true
    }

    /// Exchanges messages until neither end sends any.
    fn settle(&mut self, source: &TestSource) {
        for _ in 0..10_000 {
            if !(self.client_sends() | self.server_reads() | self.server_sends(source) | self.client_reads()) {
                return;
            }
        }
        panic!("the exchange does not end");
    }

    fn names(&self, kind: Kind) -> Vec<&str> {
        let mut names: Vec<&str> = self.store.keys().filter(|(of, _)| *of == kind).map(|(_, name)| &**name).collect();
        names.sort_unstable();
        names
    }
}

use Kind::{Endpoint as E, Service as S};

#[test]
fn every_subscription_is_answered() {
    let mut source = TestSource::default();
    source.put(S, "reviews", 1, &["@west/10.0.0.1", "exported@n"]);
    source.put(S, "ratings", 1, &["exported@n"]);
    source.put(E, "reviews@n/west/a", 1, &["reviews@n"]);
    let mut pair = Pair::new();
    for name in ["reviews", "nowhere", "@west/10.0.0.1", "@west/10.0.0.2", "exported@n", "exported@m", "*", ""] {
        assert_eq!(pair.client.subscribe(S, name), Answer::Waiting);
    }
    pair.client.subscribe(E, "reviews@n");
    pair.client.subscribe(E, "ratings@n");
    pair.settle(&source);
    for (name, answer) in [
        ("reviews", Answer::Present),
        ("nowhere", Answer::Absent),
        ("@west/10.0.0.1", Answer::Present),
        ("@west/10.0.0.2", Answer::Absent),
        ("exported@n", Answer::Present),
        ("exported@m", Answer::Absent),
        ("*", Answer::Absent),
        ("", Answer::Absent),
    ] {
        assert_eq!(pair.client.answer(S, name), Some(answer), "{name}");
    }
    assert_eq!(pair.client.answer(E, "reviews@n"), Some(Answer::Present));
    assert_eq!(pair.client.answer(E, "ratings@n"), Some(Answer::Absent));
    assert_eq!(pair.names(S), ["ratings", "reviews"]);
    assert_eq!(pair.server.stats().bad_names, 2);
    assert_eq!(pair.bodies, 3, "each body is sent once, however many subscriptions match it");

    // A second subscription to a resource that the client holds is answered too.
    pair.client.subscribe(S, "ratings");
    pair.settle(&source);
    assert_eq!(pair.client.answer(S, "ratings"), Some(Answer::Present));
}

#[test]
fn a_subscription_is_answered_again_when_its_resources_appear_or_vanish() {
    let mut source = TestSource::default();
    let mut pair = Pair::new();
    pair.client.subscribe(S, "@west/10.0.0.1");
    pair.client.subscribe(E, "reviews@n");
    pair.settle(&source);
    pair.answers.clear();
    source.put(S, "reviews", 1, &["@west/10.0.0.1"]);
    source.put(E, "reviews@n/west/a", 1, &["reviews@n"]);
    pair.settle(&source);
    let present = [(S, "@west/10.0.0.1".into(), Answer::Present), (E, "reviews@n".into(), Answer::Present)];
    assert_eq!(pair.answers, present);
    pair.answers.clear();
    // The service loses its address, and the only endpoint is removed.
    source.put(S, "reviews", 2, &[]);
    source.delete(E, "reviews@n/west/a");
    pair.settle(&source);
    let absent = [(S, "@west/10.0.0.1".into(), Answer::Absent), (E, "reviews@n".into(), Answer::Absent)];
    assert_eq!(pair.answers, absent);
    assert!(pair.store.is_empty());
}

#[test]
fn a_new_stream_transfers_only_differences() {
    let mut source = TestSource::default();
    for i in 0..100 {
        source.put(E, &format!("reviews@n/west/{i}"), i, &["reviews@n"]);
    }
    source.put(S, "reviews", 1, &["@west/10.0.0.1"]);
    let mut pair = Pair::new();
    pair.client.subscribe(E, "reviews@n");
    pair.client.subscribe(S, "@west/10.0.0.1");
    pair.settle(&source);
    assert_eq!(pair.bodies, 101);
    pair.bodies = 0;
    pair.reconnect();
    pair.settle(&source);
    assert_eq!(pair.bodies, 0, "nothing changed");
    source.put(E, "reviews@n/west/7", 1000, &["reviews@n"]);
    source.delete(E, "reviews@n/west/8");
    // The client unsubscribes while no stream is open; the new stream removes the service.
    pair.client.disconnected();
    pair.client.unsubscribe(S, "@west/10.0.0.1");
    pair.reconnect();
    pair.settle(&source);
    assert_eq!(pair.bodies, 1);
    assert_eq!(pair.store[&(E, "reviews@n/west/7".into())], 1000);
    assert_eq!(pair.names(E).len(), 99);
    assert!(pair.names(S).is_empty());
}

#[test]
fn a_resource_whose_absence_is_uncertain_stays() {
    let mut source = TestSource::default();
    source.put(S, "reviews", 1, &["@west/10.0.0.1"]);
    source.put(E, "reviews@n/west/a", 1, &["reviews@n"]);
    let mut pair = Pair::new();
    pair.client.subscribe(S, "@west/10.0.0.1");
    pair.client.subscribe(E, "reviews@n");
    pair.settle(&source);
    // The client connects to a controller that has started and has listed nothing yet.
    let mut starting = TestSource { uncertain: true, ..Default::default() };
    pair.answers.clear();
    pair.reconnect();
    pair.client.subscribe(S, "nowhere");
    pair.settle(&starting);
    assert_eq!(pair.names(S), ["reviews"]);
    assert_eq!(pair.names(E), ["reviews@n/west/a"]);
    assert_eq!(pair.client.answer(S, "@west/10.0.0.1"), Some(Answer::Present));
    // A subscription that is new on this stream is answered from the present content.
    pair.client.subscribe(S, "elsewhere");
    pair.settle(&starting);
    assert_eq!(pair.client.answer(S, "elsewhere"), Some(Answer::Absent));
    // The service appears, and then all absence becomes certain: the endpoint is removed.
    starting.put(S, "reviews", 1, &["@west/10.0.0.1"]);
    pair.settle(&starting);
    starting.uncertain = false;
    starting.log_start = starting.log.len() + 1;
    starting.log.extend([(S, "x".into()), (S, "x".into())]);
    pair.settle(&starting);
    assert_eq!(pair.names(S), ["reviews"]);
    assert!(pair.names(E).is_empty());
    assert_eq!(pair.client.answer(E, "reviews@n"), Some(Answer::Absent));
    assert_eq!(pair.client.answer(S, "nowhere"), Some(Answer::Absent));
}

#[test]
fn a_rejected_resource_is_not_sent_again_until_it_changes() {
    let mut source = TestSource::default();
    source.put(S, "reviews", 1, &[]);
    let mut pair = Pair::new();
    pair.client.subscribe(S, "reviews");
    pair.settle(&source);
    pair.reject.insert(2);
    source.put(S, "reviews", 2, &[]);
    pair.settle(&source);
    assert_eq!(pair.store[&(S, "reviews".into())], 1);
    assert_eq!(pair.server.stats().nacks, 1);
    assert_eq!(pair.bodies, 2);
    source.put(S, "reviews", 3, &[]);
    pair.settle(&source);
    assert_eq!(pair.store[&(S, "reviews".into())], 3);
}

#[test]
fn a_name_that_is_subscribed_to_again_is_answered_again() {
    let mut source = TestSource::default();
    source.put(S, "reviews", 1, &["@west/10.0.0.1"]);
    let mut pair = Pair::new();
    pair.client.subscribe(S, "@west/10.0.0.1");
    pair.settle(&source);
    pair.client.unsubscribe(S, "@west/10.0.0.1");
    assert!(pair.client_sends());
    assert_eq!(pair.client.subscribe(S, "@west/10.0.0.1"), Answer::Waiting);
    pair.answers.clear();
    pair.settle(&source);
    assert_eq!(pair.answers, [(S, "@west/10.0.0.1".into(), Answer::Present)]);
    assert_eq!(pair.names(S), ["reviews"]);
}

#[test]
fn a_report_is_sent_after_all_else_and_again_on_a_new_stream() {
    let refused = |count| ProxyReport { refusals: vec![Refusal { count, ..Default::default() }], ..Default::default() };
    let mut client = Client::new("sidecar~10.0.0.1~a.b~west".into(), "west".into());
    client.report(refused(1));
    client.connected();
    assert!(!client.has_request(), "a first request has a subscription");
    client.subscribe(Kind::Service, "a");
    let first = client.next_request().expect("a request");
    assert_eq!((first.node.is_some(), first.report), (true, None));
    client.report(refused(2));
    let second = client.next_request().expect("a request");
    assert_eq!(second.report, Some(refused(2)));
    let mut server = Server::default();
    for request in [DeltaDiscoveryRequest { type_url: Kind::Service.url().into(), ..Default::default() }, second] {
        server.receive(request).expect("a request that changes nothing");
    }
    assert!(!client.has_request(), "a report is sent once");
    client.disconnected();
    client.connected();
    assert_eq!(client.next_request().expect("a request").resource_names_subscribe, ["a"]);
    assert_eq!(client.next_request().expect("a request").report, Some(refused(2)));
}

#[test]
fn nothing_is_queued_for_a_client_that_does_not_read() {
    let mut source = TestSource::default();
    source.put(S, "reviews", 0, &[]);
    let mut pair = Pair::new();
    pair.client.subscribe(S, "reviews");
    pair.client_sends();
    pair.server_reads();
    for content in 1..1000 {
        pair.server_sends(&source);
        source.put(S, "reviews", content, &[]);
    }
    assert_eq!(pair.responses.len(), WINDOW);
    source.log_start = source.log.len() - 1;
    pair.settle(&source);
    assert_eq!(pair.store[&(S, "reviews".into())], 999);
    assert!(pair.server.waiting_since().is_none());
}

#[test]
fn malformed_resources_are_rejected_and_unknown_types_refused() {
    let mut pair = Pair::new();
    pair.client.subscribe(S, "reviews");
    pair.client_sends();
    let any = |url: &str, value: &'static [u8]| {
        Some(crate::envoy::Any { type_url: url.into(), value: Bytes::from_static(value) })
    };
    let resource = |name: &str, resource| crate::envoy::Resource {
        name: name.into(),
        version: "1".into(),
        resource,
        ..Default::default()
    };
    pair.responses.push_back(DeltaDiscoveryResponse {
        type_url: S.url().into(),
        nonce: "1".into(),
        resources: vec![resource("a", any(E.url(), b"")), resource("b", any(S.url(), b"\xff\xff\xff"))],
        ..Default::default()
    });
    pair.client_reads();
    let request = pair.client.next_request().unwrap();
    let message = request.error_detail.unwrap().message;
    assert!(
        message.contains("a: the response is of type Service") && message.contains("b: not a Service"),
        "{message}"
    );
    assert!(pair.client.receive(DeltaDiscoveryResponse { type_url: "x".into(), ..Default::default() }).is_none());
    let request = DeltaDiscoveryRequest { type_url: "x".into(), ..Default::default() };
    assert!(pair.server.receive(request).is_err());
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u32, u8),
    Delete(u8),
    Subscribe(u8),
    Unsubscribe(u8),
    Reconnect,
    TruncateLog,
    ClientSends,
    ServerReads,
    ServerSends,
    ClientReads,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..6u8, 0..50u32, any::<u8>()).prop_map(|(name, content, keys)| Step::Put(name, content, keys)),
        2 => (0..6u8).prop_map(Step::Delete),
        3 => (0..12u8).prop_map(Step::Subscribe),
        3 => (0..12u8).prop_map(Step::Unsubscribe),
        1 => Just(Step::Reconnect),
        1 => Just(Step::TruncateLog),
        5 => Just(Step::ClientSends),
        5 => Just(Step::ServerReads),
        5 => Just(Step::ServerSends),
        5 => Just(Step::ClientReads),
    ]
}

/// Names of six resources, three addresses and three collections.
const NAMES: [&str; 12] =
    ["a", "b", "c", "d", "e", "f", "@w/1", "@w/2", "@w/3", "exported@1", "exported@2", "exported@3"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn random_histories_converge(steps in proptest::collection::vec(step(), 0..120)) {
        let mut source = TestSource::default();
        let mut pair = Pair::new();
        let mut subscribed = BTreeSet::new();
        for step in steps {
            match step {
                Step::Put(name, content, bits) => {
                    let keys: Vec<&str> = (0..6).filter(|i| bits & (1 << i) != 0).map(|i| NAMES[6 + i]).collect();
                    source.put(S, NAMES[name as usize], content, &keys);
                }
                Step::Delete(name) => source.delete(S, NAMES[name as usize]),
                Step::Subscribe(name) => {
                    subscribed.insert(NAMES[name as usize]);
                    pair.client.subscribe(S, NAMES[name as usize]);
                }
                Step::Unsubscribe(name) => {
                    subscribed.remove(NAMES[name as usize]);
                    pair.client.unsubscribe(S, NAMES[name as usize]);
                }
                Step::Reconnect => pair.reconnect(),
                Step::TruncateLog => source.log_start = source.log.len(),
                Step::ClientSends => drop(pair.client_sends()),
                Step::ServerReads => drop(pair.server_reads()),
                Step::ServerSends => drop(pair.server_sends(&source)),
                Step::ClientReads => drop(pair.client_reads()),
            }
        }
        pair.settle(&source);
        let mut expected = BTreeMap::new();
        for name in &subscribed {
            let members: Vec<&Item> = source.members(S, name).collect();
            let answer = if members.is_empty() { Answer::Absent } else { Answer::Present };
            prop_assert_eq!(pair.client.answer(S, name), Some(answer), "{}", name);
            for item in members {
                expected.insert((S, item.name.to_string()), item.version as u32 - 1);
            }
        }
        let stored: BTreeMap<_, _> = pair.store.clone().into_iter().collect();
        prop_assert_eq!(stored, expected);
        // A new stream transfers no body.
        pair.bodies = 0;
        pair.reconnect();
        pair.settle(&source);
        prop_assert_eq!(pair.bodies, 0);
    }
}
