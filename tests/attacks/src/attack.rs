//! The attacks: what the attacker does, which process it is directed at, which traffic must not suffer, and the bounds.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::inside::Weapon;
use crate::inside::api_server::Content;
use crate::inside::connections::{Connections, Opening};
use crate::inside::peers::Peers;
use crate::inside::reviews::{Filling, Reviews};
use crate::inside::subscriptions::Subscriptions;
use crate::inside::uploads::Uploads;
use crate::process::Victim;
use crate::traffic::Traffic;
use crate::traffic::Traffic::{Across, Admission, Change, Connections as NewConnections, Enrolment, Local};

/// What a process may use during an attack, beyond what it uses before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Memory in MiB.
    pub memory: u64,
    /// Descriptors.
    pub files: usize,
}

/// An attack.
#[derive(Debug)]
pub struct Attack {
    /// The name, for `--only` and the table.
    pub name: &'static str,
    /// What the attacker does.
    pub what: &'static str,
    /// The process that it is directed at.
    pub victim: Victim,
    /// The traffic beside it, no request of which may fail.
    pub traffic: &'static [Traffic],
    /// What the process may use.
    pub bounds: Bounds,
    /// The attackers: a pod without a sidecar, and what it does.
    pub attackers: fn(&Scene) -> Vec<(&'static str, Weapon)>,
    /// The content of a hostile remote cluster, which joins when the attack begins and is removed when it ends.
    pub rogue: Option<Content>,
}

/// The addresses and files that attackers use.
#[derive(Clone, Debug)]
pub struct Scene {
    /// The pod of `local` in `west`.
    pub local: IpAddr,
    /// The pod of the controller.
    pub controller: IpAddr,
    /// The addresses of the gateways of `west` and `east` on the network between clusters.
    pub gateways: [IpAddr; 2],
    /// The pod of the gateway of `east`.
    pub east_gateway: IpAddr,
    /// The mesh's roots.
    pub roots: PathBuf,
    /// A token that enrols `attacker`.
    pub token: PathBuf,
}

/// A proxy: 64 MiB is more than the buffers that it may hold in all, and 10,000 connections more than it accepts from all sources.
const PROXY: Bounds = Bounds { memory: 64, files: 10_000 };
/// A proxy with 1,920 requests in progress: some 25 KiB for each, and the bytes that one source may make it hold (13 MiB).
const REQUESTS: Bounds = Bounds { memory: 96, files: 10_000 };
/// The controller, which reads lists and reviews of other clusters.
const CONTROLLER: Bounds = Bounds { memory: 192, files: 4_000 };

/// The pods without a sidecar, as commands of a lab name them.
pub const ATTACKER: &str = "west/default/attacker";
const ATTACKER_TWO: &str = "west/default/attacker-two";
const ATTACKER_IN_EAST: &str = "east/default/attacker";

/// The server name of the webhook.
const WEBHOOK: &str = "isthmus-webhooks.isthmus-system.svc";

/// All attacks.
pub const ALL: &[Attack] = &[
    Attack {
        name: "own-ports",
        what: "requests to the sidecar's own ports 15001 and 15006, which it could proxy to itself",
        victim: Victim::Sidecar("local"),
        traffic: &[Local, Across],
        bounds: PROXY,
        attackers: |scene| {
            let ports = |opening| connections(scene.local, &[15001, 15006], opening, 200, 40);
            vec![(ATTACKER, ports(Opening::Request)), (ATTACKER_TWO, ports(Opening::PartialHello))]
        },
        rogue: None,
    },
    Attack {
        name: "long-annotations",
        what: "admission reviews with annotations of 79 KiB and 3 MiB, at the webhook and through both gateways",
        victim: Victim::Controller,
        traffic: &[Local, Admission, Enrolment],
        bounds: CONTROLLER,
        attackers: |scene| {
            let through = |address, port| SocketAddr::new(address, port);
            let targets = [
                through(scene.controller, 15017),
                through(scene.gateways[0], 15443),
                through(scene.gateways[1], 15443),
            ];
            let of = |bytes| reviews(scene, &targets, Filling::Ranges(bytes), 2);
            vec![(ATTACKER, of(79 * 1024)), (ATTACKER_TWO, of(3_000_000))]
        },
        rogue: None,
    },
    Attack {
        name: "rogue-gateways",
        what: "a remote cluster with 1,000 AUTO_PASSTHROUGH Gateways of 2,000 hosts, and 20,000 Services",
        victim: Victim::Controller,
        traffic: &[Local, Across, Enrolment, Change],
        bounds: CONTROLLER,
        attackers: |_| Vec::new(),
        rogue: Some(Content::Gateways { gateways: 1_000, hosts: 2_000, services: 20_000 }),
    },
    Attack {
        name: "idle-gateway-health",
        what: "500 idle connections to port 15021 of a gateway's pod, and as many to its address for other clusters, which has no such port",
        victim: Victim::Gateway("east"),
        traffic: &[Local, Across, NewConnections],
        bounds: PROXY,
        attackers: |scene| {
            let of = |address| connections(address, &[15021], Opening::Nothing, 500, 500);
            vec![(ATTACKER_IN_EAST, of(scene.east_gateway)), (ATTACKER, of(scene.gateways[1]))]
        },
        rogue: None,
    },
    Attack {
        name: "idle-pod-health",
        what: "500 idle connections to port 15021 of a pod",
        victim: Victim::Sidecar("local"),
        traffic: &[Local, Across],
        bounds: PROXY,
        attackers: |scene| vec![(ATTACKER, connections(scene.local, &[15021], Opening::Nothing, 500, 500))],
        rogue: None,
    },
    Attack {
        name: "half-open-discovery",
        what: "2,000 half-open handshakes at the controller's port 15012",
        victim: Victim::Controller,
        traffic: &[Local, Admission, Enrolment],
        bounds: CONTROLLER,
        attackers: |scene| {
            vec![(ATTACKER, connections(scene.controller, &[15012], Opening::PartialHello, 2_000, 1_000))]
        },
        rogue: None,
    },
    Attack {
        name: "large-reviews",
        what: "50 admission reviews of 3 MiB at a time",
        victim: Victim::Controller,
        traffic: &[Local, Admission, Enrolment],
        bounds: CONTROLLER,
        attackers: |scene| {
            let targets = [SocketAddr::new(scene.controller, 15017)];
            let of = |workers| reviews(scene, &targets, Filling::Padding(3_000_000), workers);
            vec![(ATTACKER, of(25)), (ATTACKER_TWO, of(25))]
        },
        rogue: None,
    },
    Attack {
        name: "partial-heads",
        what: "21,000 connections with part of a request's head at a sidecar",
        victim: Victim::Sidecar("local"),
        traffic: &[Local, Across],
        bounds: PROXY,
        attackers: |scene| vec![(ATTACKER, connections(scene.local, &[9080], Opening::PartialHead, 21_000, 3_000))],
        rogue: None,
    },
    Attack {
        name: "silent",
        what: "21,000 connections without a byte at a sidecar",
        victim: Victim::Sidecar("local"),
        traffic: &[Local, Across],
        bounds: PROXY,
        attackers: |scene| vec![(ATTACKER, connections(scene.local, &[9080], Opening::Nothing, 21_000, 3_000))],
        rogue: None,
    },
    Attack {
        name: "uploads",
        what: "uploads over HTTP/2 to an application that reads slowly: 60 connections of 32 streams",
        victim: Victim::Sidecar("local"),
        traffic: &[Local, Across],
        bounds: REQUESTS,
        attackers: |scene| {
            let target = SocketAddr::new(scene.local, 9080);
            vec![(ATTACKER, Weapon::Uploads(Uploads { target, connections: 60, streams: 32 }))]
        },
        rogue: None,
    },
    Attack {
        name: "half-open-gateway",
        what: "1,100 half-open hellos at a gateway from one source",
        victim: Victim::Gateway("east"),
        traffic: &[Local, Across, NewConnections],
        bounds: PROXY,
        attackers: |scene| {
            vec![(ATTACKER, connections(scene.gateways[1], &[15443], Opening::PartialHello, 1_100, 1_000))]
        },
        rogue: None,
    },
    Attack {
        name: "rogue-exports",
        what: "a remote cluster exports `local`, which west does not export, with west's locality, and defines `ratings` without exporting it",
        victim: Victim::Controller,
        traffic: &[Local, Across, NewConnections, Change],
        bounds: CONTROLLER,
        attackers: |_| Vec::new(),
        rogue: Some(Content::Takeover),
    },
    Attack {
        name: "peer-headers",
        what: "8,000 requests of one identity with different peer headers, and scrapes of the metrics",
        victim: Victim::Sidecar("local"),
        traffic: &[Local, Across],
        bounds: PROXY,
        attackers: |scene| {
            let peers = Peers {
                target: SocketAddr::new(scene.local, 9080),
                server_name: "outbound_.9080_._.local.default.svc.cluster.local".to_owned(),
                expected: ("default".to_owned(), "local".to_owned()),
                roots: scene.roots.clone(),
                token: scene.token.clone(),
                per_second: 200,
            };
            let scrapes = connections(scene.local, &[15020, 15090], Opening::Scrape, 4, 4);
            vec![(ATTACKER, Weapon::Peers(peers)), (ATTACKER_TWO, scrapes)]
        },
        rogue: None,
    },
    Attack {
        name: "rogue-endless",
        what: "a remote cluster whose lists never end",
        victim: Victim::Controller,
        traffic: &[Local, Across, Enrolment, Change],
        bounds: CONTROLLER,
        attackers: |_| Vec::new(),
        rogue: Some(Content::Endless),
    },
    Attack {
        name: "rogue-churn",
        what: "a remote cluster with 200,000 pods that change all the time",
        victim: Victim::Controller,
        traffic: &[Local, Across, Enrolment, Change],
        bounds: CONTROLLER,
        attackers: |_| Vec::new(),
        rogue: Some(Content::Churn { pods: 200_000 }),
    },
    Attack {
        name: "subscriptions",
        what: "8 discovery streams of 150,000 names each with one certificate",
        victim: Victim::Controller,
        traffic: &[Local, Enrolment, Change],
        bounds: CONTROLLER,
        attackers: |scene| {
            let subscriptions =
                Subscriptions { roots: scene.roots.clone(), token: scene.token.clone(), streams: 8, names: 150_000 };
            vec![(ATTACKER, Weapon::Subscriptions(subscriptions))]
        },
        rogue: None,
    },
];

fn connections(address: IpAddr, ports: &[u16], opening: Opening, open: usize, per_second: usize) -> Weapon {
    let targets = ports.iter().map(|port| SocketAddr::new(address, *port)).collect();
    Weapon::Connections(Connections { targets, opening, open, per_second })
}

fn reviews(scene: &Scene, targets: &[SocketAddr], filling: Filling, workers: usize) -> Weapon {
    Weapon::Reviews(Reviews {
        targets: targets.to_vec(),
        server_name: WEBHOOK.to_owned(),
        roots: scene.roots.clone(),
        path: "/inject/cluster/west/net/net-west".to_owned(),
        filling,
        workers,
    })
}

#[cfg(test)]
mod tests {
    use super::ALL;

    #[test]
    fn names_are_unique_and_each_attack_attacks() {
        let mut names: Vec<&str> = ALL.iter().map(|attack| attack.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
        for attack in ALL {
            assert!(!attack.traffic.is_empty() && attack.bounds.memory > 0, "{}", attack.name);
        }
    }
}
