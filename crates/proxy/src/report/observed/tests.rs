use identity::SpiffeId;

use super::shape::fingerprint;
use super::*;

fn peer(account: &str, cluster: Option<&str>) -> Peer {
    let id = SpiffeId::new("cluster.local", "default", account).expect("an identity");
    Peer { id, cluster: cluster.map(Arc::from) }
}

/// Sends requests, as many as are looked up in any second.
fn send(worker: &WorkerObserved, peer: Option<&Peer>, requests: impl IntoIterator<Item = (&'static str, String)>) {
    let mut now = Instant::now();
    let called = Called { peer, port: 9080 };
    for (method, path) in requests {
        now += Duration::from_secs(1);
        worker.request(worker.fingerprint(called), called, method, &path, now);
    }
}

/// Returns `<method> <path> <count>` of each combination, sorted.
fn lines(traffic: &ObservedTraffic) -> Vec<String> {
    let line = |of: Accepted| format!("{} {} {}", of.method.as_deref().unwrap_or("-"), of.path, of.count);
    let mut lines: Vec<String> = traffic.accepted().into_iter().map(line).collect();
    lines.sort();
    lines
}

#[test]
fn identifiers_are_parameters_of_a_template() {
    for (path, expected) in [
        ("/", "/"),
        ("/reviews", "/reviews"),
        ("/reviews/", "/reviews/"),
        ("/reviews/17", "/reviews/{*}"),
        ("/reviews/17/stars", "/reviews/{*}/stars"),
        ("/v1/items/5b1c4e2a-8c0d-4d7b-9a51-0f2d6a3c7e90", "/v1/items/{*}"),
        ("/objects/9f86d081884c7d659a2feaa0c55ad015", "/objects/{*}"),
        ("/objects/deadbeefdeadbeef", "/objects/deadbeefdeadbeef"),
        ("/9f86d081", "/9f86d081"),
        ("/pkg.Greeter/SayHello", "/pkg.Greeter/SayHello"),
        // What a pattern would take for its own characters, or widen it, never is in one.
        ("/a*", "/{*}"),
        ("/{id}/x", "/{*}/x"),
        ("/a\"b", "/{*}"),
        ("/a//b", "/a/{**}"),
        ("/1/2/3/4/5/6/7/8/9", "/{*}/{*}/{*}/{*}/{*}/{*}/{*}/{*}/{**}"),
        ("*", "/{**}"),
        ("", "/{**}"),
    ] {
        assert_eq!(shape(path), expected, "{path}");
        let template = policy::PathPattern::parse(expected).expect("a template");
        assert!(template.matches(path) || !path.starts_with('/'), "{expected} does not match {path}");
    }
    let long = format!("/{}", "a".repeat(5_000));
    assert_eq!(shape(&long), "/{**}");
    assert_eq!(shape(&format!("/x/{}", "b".repeat(100))), "/x/{*}");
}

#[test]
fn paths_that_differ_in_identifiers_have_one_fingerprint() {
    let of = |path| fingerprint(7, path);
    assert_eq!(of("/reviews/17/stars"), of("/reviews/4711/stars"));
    assert_eq!(of("/x/5b1c4e2a-8c0d-4d7b-9a51-0f2d6a3c7e90"), of("/x/0b1c4e2a-8c0d-4d7b-9a51-0f2d6a3c7e91"));
    for (one, other) in [("/a/b", "/ab"), ("/a", "/a/"), ("/1", "/a"), ("/1/a", "/a/1"), ("", "/")] {
        assert_ne!(of(one), of(other), "{one} {other}");
    }
    assert_ne!(fingerprint(8, "/a"), of("/a"));
}

#[test]
fn requests_of_all_workers_are_counted_by_caller_method_and_path() {
    let traffic = ObservedTraffic::default();
    let (one, other) = (traffic.worker(), traffic.worker());
    let frontend = peer("frontend", Some("west"));
    let get = |path: &str| ("GET", path.to_owned());
    send(&one, Some(&frontend), [get("/reviews/1"), get("/reviews/2"), get("/"), ("POST", "/reviews/3".into())]);
    send(&other, Some(&frontend), [get("/reviews/4")]);
    assert_eq!(lines(&traffic), ["GET / 1", "GET /reviews/{*} 3", "POST /reviews/{*} 1"]);
    // The same account of another cluster, and one without an identity.
    send(&one, Some(&peer("frontend", Some("east"))), [get("/")]);
    send(&other, None, [get("/any"), get("/other")]);
    one.connection(Called { peer: Some(&frontend), port: 3306 });
    let accepted = traffic.accepted();
    assert_eq!(accepted.len(), 6);
    let plaintext = accepted.iter().find(|of| of.principal.is_none()).expect("plaintext");
    assert_eq!((plaintext.count, plaintext.method.as_deref(), &*plaintext.path), (2, None, ""));
    let opaque = accepted.iter().find(|of| of.port == 3306).expect("a connection");
    assert_eq!((opaque.principal.as_deref(), opaque.count), (Some(frontend.id.as_str()), 1));
    assert_eq!(traffic.unrecorded(), 0);
}

#[test]
fn many_names_below_one_path_are_a_parameter() {
    let traffic = ObservedTraffic::default();
    let worker = traffic.worker();
    let frontend = peer("frontend", None);
    let users = (0..40).map(|number| ("GET", format!("/users/user-{number}-x/orders")));
    send(&worker, Some(&frontend), [("GET", "/health".to_owned())].into_iter().chain(users));
    assert_eq!(lines(&traffic), ["GET /health 1", "GET /users/{**} 40"]);
    // Workers that know a path count on in the combination that it became part of.
    send(&worker, Some(&frontend), [("GET", "/users/user-1-x/orders".to_owned())]);
    assert_eq!(lines(&traffic), ["GET /health 1", "GET /users/{**} 41"]);
}

#[test]
fn what_a_caller_makes_up_is_bounded() {
    let traffic = ObservedTraffic::default();
    let worker = traffic.worker();
    let names =
        |number: usize| format!("/{}/{}/{}/x-{number}", number % 15 * 7 + 100_000_000, number % 13, number % 11);
    for account in 0..20 {
        let caller = peer(&format!("client-{account}"), None);
        let methods = ["GET", "PUT", "POST", "DELETE", "PATCH", "AAAA", "AAAB", "AAAC", "get", "A*"];
        let request = |number: usize| {
            let letters: String =
                format!("{number:04}").chars().map(|digit| char::from(b'a' + digit as u8 % 10)).collect();
            (methods[number % 10], names(number) + &letters)
        };
        send(&worker, Some(&caller), (0..400).map(request));
        let own = |of: &Accepted| of.principal.as_deref() == Some(caller.id.as_str());
        assert!(traffic.accepted().iter().filter(|of| own(of)).count() <= MAX_OF_CALLER);
    }
    let accepted = traffic.accepted();
    assert!(accepted.len() <= MAX_ENTRIES, "{}", accepted.len());
    assert!(accepted.iter().all(|of| of.path.len() < 200 && of.method.as_deref() != Some("A*")));
    let counted: u64 = accepted.iter().map(|of| of.count).sum();
    assert_eq!(counted + traffic.unrecorded(), 20 * 400);
}

#[test]
fn lookups_of_a_second_are_bounded() {
    let traffic = ObservedTraffic::default();
    let worker = traffic.worker();
    let (caller, now) = (peer("frontend", None), Instant::now());
    let called = Called { peer: Some(&caller), port: 9080 };
    for number in 0..1_000 {
        let name: String = format!("{number:04}").chars().map(|digit| char::from(b'a' + digit as u8 % 10)).collect();
        worker.request(worker.fingerprint(called), called, "GET", &format!("/users/{name}"), now);
    }
    assert_eq!(lines(&traffic), [format!("GET /users/{{**}} {LOOKUPS}")]);
    assert_eq!(traffic.unrecorded(), 1_000 - u64::from(LOOKUPS));
}
