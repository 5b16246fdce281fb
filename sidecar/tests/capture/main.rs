//! Sidecars in pods' network namespaces, with the kernel's redirection as in a cluster: as root, or as an ordinary user in
//! a user namespace.
//!
//! ```text
//!   frontend 10.0.0.1 ──┐                        ┌── near   10.0.0.2 (us-west-1a)
//!     app, sidecar      ├── bridge, controller ──┤
//!                       │      10.0.0.254        └── beside 10.0.0.3 (us-west-1b)
//! ```

#[path = "../mesh/app.rs"]
#[allow(dead_code)]
mod app;
mod pods;

use std::net::{Ipv4Addr, UdpSocket};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use http::Method;
use wire::discovery::Protocol;

use app::{Client, by, get};
use pods::{Net, Pod};

/// The service `reviews`, whose address no machine has.
const REVIEWS: (Ipv4Addr, u16) = (Ipv4Addr::new(240, 240, 0, 1), 9080);

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    if let Err(error) = net::namespace::enter_user_namespace() {
        println!("IGNORED: all checks of capture: {error}");
        return ExitCode::SUCCESS;
    }
    let mesh = match Net::new() {
        Ok(mesh) => mesh,
        Err(error) => {
            println!("IGNORED: all checks of capture: {error}");
            return ExitCode::SUCCESS;
        }
    };
    let near = mesh.pod("near", "reviews", "us-west-1a", 2);
    let beside = mesh.pod("beside", "reviews", "us-west-1b", 3);
    mesh.service("reviews", REVIEWS, Protocol::Http, &[&near, &beside]);
    let frontend = mesh.pod("frontend", "frontend", "us-west-1a", 1);

    names_of_the_mesh_are_answered(&frontend);
    requests_are_captured_on_both_sides(&frontend);
    a_pod_reaches_itself(&near);
    plaintext_from_outside_of_the_mesh_arrives(&mesh, &near);
    a_pod_that_vanishes_costs_no_request(&frontend, &near);
    println!("capture: all checks passed");
    // Threads of the pods run on; the process takes them along.
    ExitCode::SUCCESS
}

fn names_of_the_mesh_are_answered(frontend: &Pod) {
    let ask = |name: &'static str, kind| {
        frontend.run(move || async move {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let mut question = Message::new(4711, MessageType::Query, OpCode::Query);
            question.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
            // Nobody has this address: capture brings the question to the sidecar.
            socket.send_to(&question.to_vec().unwrap(), "10.0.0.53:53").unwrap();
            let mut buffer = [0; 4096];
            let (length, from) = socket.recv_from(&mut buffer).unwrap();
            assert_eq!(from, "10.0.0.53:53".parse().unwrap());
            let answer = Message::from_vec(&buffer[..length]).unwrap();
            let data: Vec<_> = answer.answers.iter().map(|record| record.data.clone()).collect();
            (answer.metadata.response_code, data)
        })
    };
    let a = ask("reviews.default.svc.cluster.local.", RecordType::A);
    assert_eq!(a, (ResponseCode::NoError, vec![RData::A(REVIEWS.0.into())]));
    let aaaa = ask("reviews.default.svc.cluster.local.", RecordType::AAAA);
    assert_eq!(aaaa, (ResponseCode::NoError, vec![]));
    println!("ok names_of_the_mesh_are_answered");
}

fn requests_are_captured_on_both_sides(frontend: &Pod) {
    let response = frontend.run(|| get(REVIEWS.into()));
    assert_eq!((response.status().as_u16(), by(&response)), (200, "near"));
    let xfcc = response.headers()["seen-x-forwarded-client-cert"].to_str().unwrap();
    assert!(xfcc.contains("URI=spiffe://cluster.local/ns/default/sa/frontend"), "{xfcc}");
    assert_eq!(response.headers()["seen-client"], "127.0.0.6", "the application sees a local peer");
    println!("ok requests_are_captured_on_both_sides");
}

fn a_pod_reaches_itself(near: &Pod) {
    let own = near.address(9080);
    assert_eq!(by(&near.run(move || get(own))), "near", "by its own address");
    assert_eq!(by(&near.run(move || get(([127, 0, 0, 1], 9080).into()))), "near", "by loopback");
    let through_the_mesh = near.run(|| get(REVIEWS.into()));
    assert_eq!(by(&through_the_mesh), "near", "by its service");
    println!("ok a_pod_reaches_itself");
}

fn plaintext_from_outside_of_the_mesh_arrives(mesh: &Net, near: &Pod) {
    let response = mesh.outside(get(near.address(9080)));
    assert_eq!(by(&response), "near");
    assert!(!response.headers().contains_key("seen-x-forwarded-client-cert"));
    println!("ok plaintext_from_outside_of_the_mesh_arrives");
}

/// The pod's machine is gone without a word: nothing is refused, nothing acknowledged.
fn a_pod_that_vanishes_costs_no_request(frontend: &Pod, near: &Pod) {
    let vanish = near.vanishing();
    let timeline = frontend.run(move || async move {
        let begun = Instant::now();
        let clients: Vec<_> = (0..4)
            .map(|_| {
                tokio::spawn(async move {
                    let mut client = Client::connect(REVIEWS.into()).await;
                    let mut seen = Vec::new();
                    while begun.elapsed() < Duration::from_secs(4) {
                        let at = begun.elapsed();
                        let response = client.ask(Method::GET, "/", b"").await;
                        seen.push((at, begun.elapsed() - at, response.status().as_u16(), by(&response).to_owned()));
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    seen
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(500)).await;
        tokio::task::spawn_blocking(vanish).await.unwrap();
        let vanished = begun.elapsed();
        let mut all = Vec::new();
        for client in clients {
            all.extend(client.await.unwrap());
        }
        all.sort();
        (vanished, all)
    });
    let (vanished, all) = timeline;
    let failed: Vec<_> = all.iter().filter(|(_, _, status, _)| *status != 200).collect();
    let slowest = all.iter().map(|(_, took, ..)| *took).max().unwrap();
    let first = all.iter().filter(|(.., by)| by == "beside").map(|(at, took, ..)| *at + *took).min().unwrap();
    println!(
        "   {} requests; vanished at {vanished:?}; first answer from elsewhere {:?} later; slowest {slowest:?}; failed {}",
        all.len(),
        first - vanished,
        failed.len()
    );
    assert!(failed.is_empty(), "{failed:?}");
    assert!(first - vanished < Duration::from_secs(1));
    let late = all.iter().filter(|(at, ..)| *at > vanished + Duration::from_millis(1500));
    let slow: Vec<_> = late.filter(|(_, took, ..)| *took > Duration::from_millis(900)).collect();
    assert!(slow.is_empty(), "slow long after: {slow:?}");
    println!("ok a_pod_that_vanishes_costs_no_request");
}
