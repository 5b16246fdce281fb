//! The floor's pair of processes, and the pair that only copies bytes.

use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::Result;

use crate::chain::{CLIENT, Chain, PortProtocol, SERVER_ACCOUNT, await_status};
use crate::mesh::{Mesh, service_account};
use crate::process::Process;
use crate::rig::Rig;

const CLIENT_POD: Ipv4Addr = Ipv4Addr::new(10, 244, 5, 1);
const SERVER_POD: Ipv4Addr = Ipv4Addr::new(10, 244, 6, 1);
const COPIES: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(10, 244, 7, 1), Ipv4Addr::new(10, 244, 8, 1));

/// Starts the floor's pair.
pub fn start(mesh: &Mesh, rig: &Rig) -> Result<Chain> {
    let way = |from, to: &dyn Fn(PortProtocol) -> std::net::SocketAddr| {
        PortProtocol::ALL.map(|speaks| {
            let protocol = if speaks.is_http2() { "http2" } else { speaks.name() };
            format!("{protocol}={}={}", speaks.at(from), to(speaks))
        })
    };
    let outbound = way(CLIENT_POD, &|speaks| speaks.at(SERVER_POD));
    let mut outbound = part(mesh, rig, "floor-outbound", CLIENT, SERVER_ACCOUNT, &outbound)?;
    let inbound = way(SERVER_POD, &PortProtocol::server);
    let mut inbound = part(mesh, rig, "floor-inbound", SERVER_ACCOUNT, CLIENT, &inbound)?;
    inbound.listens_at(PortProtocol::Tcp.at(SERVER_POD), &rig.log("floor-inbound"))?;
    await_status(PortProtocol::Http1.at(CLIENT_POD), "/", 200, &mut outbound, rig)?;
    Ok(Chain { name: "floor", ip: CLIENT_POD, processes: vec![outbound, inbound] })
}

/// Starts the pair that only copies bytes.
pub fn copies(rig: &Rig) -> Result<Chain> {
    let (first, second) = COPIES;
    let start = |name: &str, from: Ipv4Addr, to: &dyn Fn(PortProtocol) -> std::net::SocketAddr| {
        let mut command = Command::new("/proc/self/exe");
        command.args(["part", "floor-copy"]);
        for speaks in PortProtocol::ALL {
            command.args(["--way", &format!("{}={}", speaks.at(from), to(speaks))]);
        }
        Process::start(name, command, &rig.log(name))
    };
    let mut outbound = start("copy-outbound", first, &|speaks| speaks.at(second))?;
    let mut inbound = start("copy-inbound", second, &PortProtocol::server)?;
    inbound.listens_at(PortProtocol::Tcp.at(second), &rig.log("copy-inbound"))?;
    await_status(PortProtocol::Http1.at(first), "/", 200, &mut outbound, rig)?;
    Ok(Chain { name: "copy", ip: first, processes: vec![outbound, inbound] })
}

fn part(mesh: &Mesh, rig: &Rig, name: &str, own: &str, peer: &str, ways: &[String]) -> Result<Process> {
    let certificate = mesh.certificate(own)?;
    let mut command = Command::new("/proc/self/exe");
    command.args(["part", name]);
    command.args(ways.iter().flat_map(|way| ["--way", way]));
    command.args(["--peer", service_account(peer)?.as_str()]);
    command.arg("--chain").arg(certificate.chain).arg("--key").arg(certificate.key).arg("--root").arg(certificate.root);
    Process::start(name, command, &rig.log(name))
}
