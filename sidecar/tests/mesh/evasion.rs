//! Spellings of paths, hosts and headers that once passed DENY rules of other meshes, through a real sidecar
//! (docs/security/advisories.md).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use http::{HeaderValue, Request, StatusCode};
use tokio::net::TcpStream;
use wire::Kind;
use wire::discovery::{self as d, Protocol};

use crate::fixture::resources::policy_name;
use crate::fixture::{Pod, Sidecar, TestMesh, until};
use crate::raw::{self, header, status};

fn any_of(values: &[&str]) -> Option<d::Values> {
    Some(d::Values { any_of: values.iter().map(ToString::to_string).collect(), none_of: vec![] })
}

fn to(operation: d::AuthorizationOperation) -> d::AuthorizationRule {
    d::AuthorizationRule { to: vec![operation], ..Default::default() }
}

fn when(name: &str, value: d::Values) -> d::AuthorizationRule {
    let header = d::HeaderCondition { name: name.into(), value: Some(value) };
    d::AuthorizationRule { when: vec![header], ..Default::default() }
}

/// Starts the service `reviews`, whose only policy denies what the rules below name, and a client.
async fn reviews(protocol: Protocol) -> (Arc<TestMesh>, Pod, Sidecar) {
    let mesh = TestMesh::new().await;
    let pod = mesh.pod("west", "us-west-1a", "reviews-a", "reviews", protocol).await;
    mesh.push_service("reviews", 1, protocol);
    mesh.push_endpoint("reviews", &pod, |_| {});
    let paths = any_of(&["/admin", "/admin/*", "/secret/{*}/end"]);
    let trusted = d::Values { any_of: vec!["*".into()], none_of: vec!["trusted".into()] };
    let policy = d::AuthorizationPolicy {
        name: "default/deny".into(),
        action: d::PolicyAction::Deny.into(),
        rules: vec![
            to(d::AuthorizationOperation { paths, ..Default::default() }),
            to(d::AuthorizationOperation { hosts: any_of(&["admin.internal"]), ..Default::default() }),
            when("x-user", any_of(&["mallory"]).unwrap()),
            when("x-level", trusted),
        ],
        ..Default::default()
    };
    mesh.resources().push(Kind::AuthorizationPolicy, &policy_name("west", "reviews-a"), &policy, &[]);
    let frontend = mesh.client("frontend").await;
    let address = pod.gate.address;
    until("the policy is in force", async || status(&get(address, "/admin", "host: reviews\r\n").await) == 403).await;
    (mesh, pod, frontend)
}

async fn get(address: SocketAddr, target: &str, headers: &str) -> String {
    raw::send(address, &format!("GET {target} HTTP/1.1\r\n{headers}\r\n")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_of_a_path_passes_a_rule_that_denies_it() {
    let (_mesh, pod, frontend) = reviews(Protocol::Http).await;
    for address in [frontend.service_address(1), pod.gate.address] {
        let before = pod.app.requests.load(Relaxed);
        for (target, expected) in [
            ("/admin", 403),
            ("/admin/", 403),
            ("/admin?x", 403),
            ("/admin#x", 403),
            ("/admin?x#y", 403),
            ("/public/../admin", 403),
            ("/./admin", 403),
            ("/public/%2e%2e/admin", 403),
            ("/public/%2E./admin", 403),
            ("/public/..;/admin", 403),
            ("/public/..;x=1/admin/users", 403),
            ("/.;x/admin", 403),
            ("/%61dm%69n", 403),
            ("\\admin", 400),
            ("/public\\..\\admin", 403),
            ("http://reviews/admin", 403),
            ("http://reviews/public/../admin#x", 403),
            ("/secret/a/end", 403),
            ("/secret/*/end", 403),
            ("/secret/**/end", 403),
            ("/secret/a*b/end", 403),
            ("/secret/{*}/end", 403),
            ("/admin%00", 400),
            ("/public/%00/../../admin", 400),
            ("/admin\0", 400),
            ("admin", 400),
        ] {
            let response = get(address, target, "host: reviews\r\n").await;
            assert_eq!(status(&response), expected, "{target:?}: {response}");
        }
        assert_eq!(pod.app.requests.load(Relaxed), before, "none reaches the application");
        // The application sees the path that the policies saw.
        for (target, seen) in [
            ("/public#/../admin", "/public"),
            ("/public;x", "/public;x"),
            ("/admin/../public", "/public"),
            ("/secret/a/b/end", "/secret/a/b/end"),
            ("/public?/../admin", "/public?/../admin"),
        ] {
            let response = get(address, target, "host: reviews\r\n").await;
            assert_eq!((status(&response), header(&response, "seen-path")), (200, Some(seen)), "{target:?}");
        }
    }
}

/// Slashes are not merged or decoded unless the mesh's settings say so, as in Istio (CVE-2021-29492, CVE-2021-31920).
#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_of_a_slash_passes_a_rule_if_the_mesh_decodes_and_merges_them() {
    let (mesh, pod, frontend) = reviews(Protocol::Http).await;
    let targets = ["//admin", "/%2Fadmin", "/%5cadmin", "/admin%2Fx", "/public%2f..%2Fadmin", "/public/..%5Cadmin//x"];
    let addresses = [frontend.service_address(1), pod.gate.address];
    for target in targets {
        assert_eq!(status(&get(pod.gate.address, target, "host: reviews\r\n").await), 200, "{target:?}");
    }
    let form = d::PathNormalization::DecodeAndMergeSlashes;
    mesh.push_settings(|settings| settings.path_normalization = form.into());
    for (address, target) in addresses.into_iter().flat_map(|address| targets.map(|target| (address, target))) {
        until("no spelling passes", async || status(&get(address, target, "host: reviews\r\n").await) == 403).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_of_a_host_or_header_passes_a_rule_that_denies_it() {
    let (_mesh, pod, frontend) = reviews(Protocol::Http).await;
    // `admin.internal` names no service, so that it is asked of the pod itself.
    for (address, host) in [(frontend.service_address(1), "reviews"), (pod.gate.address, "admin")] {
        let before = pod.app.requests.load(Relaxed);
        for (headers, expected) in [
            ("host: admin.internal\r\n", 403),
            ("host: ADMIN.Internal\r\n", 403),
            ("host: admin.internal \t\r\n", 403),
            ("host: admin.internal\0\r\n", 400),
            ("host: reviews\r\nhost: admin.internal\r\n", 400),
            ("host: reviews\r\nx-user: mallory\r\n", 403),
            ("host: reviews\r\nX-USER:mallory\r\n", 403),
            ("host: reviews\r\nx-user: \t mallory \t \r\n", 403),
            ("host: reviews\r\nx-user: alice\r\nx-user: mallory\r\n", 403),
            ("host: reviews\r\nx-user: mallory\r\nx-user: alice\r\n", 403),
            ("host: reviews\r\nx-user: mallory\0\r\n", 400),
            ("host: reviews\r\nx-user: mal\0lory\r\n", 400),
            ("host: reviews\r\nx-user: alice\r\n mallory\r\n", 400),
            ("host: reviews\r\nx-user : mallory\r\n", 400),
            ("host: reviews\r\nx-level: untrusted\r\n", 403),
            ("host: reviews\r\nx-level: trusted\u{e9}\r\n", 403),
        ] {
            let response = get(address, "/", headers).await;
            assert_eq!(status(&response), expected, "{headers:?} ({host}): {response}");
        }
        assert_eq!(pod.app.requests.load(Relaxed), before, "none reaches the application");
        let fine = "host: reviews\r\nx-user: alice\r\nx-level: trusted \r\n";
        assert_eq!(status(&get(address, "/", fine).await), 200);
    }
}

/// The application has HTTP/1.1, and would not see the whitespace around a value.
#[tokio::test(flavor = "multi_thread")]
async fn values_of_http2_are_those_that_the_application_sees() {
    let (_mesh, pod, _frontend) = reviews(Protocol::Http).await;
    let stream = TcpStream::connect(pod.gate.address).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    let mut send = async |uri: &str, headers: &[(&'static str, &[u8])]| {
        let mut request = Request::get(uri).body(()).unwrap();
        for (name, value) in headers {
            request.headers_mut().append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        sender.send_request(request, true).unwrap().0.await.unwrap()
    };
    for headers in [
        &[("x-user", &b"mallory"[..])][..],
        &[("x-user", b"mallory ")],
        &[("x-user", b"\tmallory")],
        &[("x-user", b"alice"), ("x-user", b" mallory\t")],
        &[("x-level", b"\xff")],
        &[("x-level", b"trusted\xff")],
    ] {
        assert_eq!(send("http://reviews/", headers).await.status(), StatusCode::FORBIDDEN, "{headers:?}");
    }
    for uri in ["http://ADMIN.internal/", "http://reviews/public/..;/admin", "http://reviews/%61dmin"] {
        assert_eq!(send(uri, &[]).await.status(), StatusCode::FORBIDDEN, "{uri}");
    }
    let response = send("http://reviews/", &[("x-user", b" alice "), ("x-level", b"trusted ")]).await;
    assert_eq!((response.status(), &response.headers()["seen-x-user"]), (StatusCode::OK, &"alice".parse().unwrap()));
}
