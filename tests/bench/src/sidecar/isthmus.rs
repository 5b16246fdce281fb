//! A pair of our sidecars: the unmodified program, with the resources of a scripted control plane.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use wire::{Kind, discovery as d, name};

use crate::chain::{CLIENT, Chain, PortProtocol, SERVER_ACCOUNT, address, await_status};
use crate::mesh::{self, CLUSTER, DOMAIN, Mesh, NAMESPACE, NETWORK};
use crate::process::Process;
use crate::rig::Rig;

const CLIENT_POD: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 1);
/// The address of the server's pod.
pub const SERVER_POD: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 1);
const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const ADMIN: u16 = 15000;
const HEALTH: u16 = 15021;

/// Starts both sidecars, and verifies that they authorize by identity.
pub fn start(mesh: &Mesh, rig: &Rig) -> Result<Chain> {
    let mut processes = ready(mesh, rig)?;
    let entry = PortProtocol::Http1.at(CLIENT_POD);
    let outbound = &mut processes[0];
    allow(mesh, "somebody-else")?;
    await_status(entry, "/", 403, outbound, rig).context("requests are not authorized by the client's identity")?;
    allow(mesh, CLIENT)?;
    await_status(entry, "/", 200, outbound, rig)?;
    Ok(Chain { name: "isthmus", ip: CLIENT_POD, processes })
}

/// Starts the outbound and the inbound sidecar, and waits until both are ready.
pub fn ready(mesh: &Mesh, rig: &Rig) -> Result<Vec<Process>> {
    publish(mesh)?;
    let egress = PortProtocol::ALL.map(|speaks| format!("{}={}", speaks.at(CLIENT_POD), speaks.at(SERVICE)));
    let ingress = PortProtocol::ALL.map(|speaks| format!("{}={}", speaks.at(SERVER_POD), speaks.server()));
    let mut inbound = sidecar(mesh, rig, SERVER_ACCOUNT, SERVER_POD, &["--ingress", &ingress.join(",")])?;
    let mut outbound = sidecar(mesh, rig, CLIENT, CLIENT_POD, &["--egress", &egress.join(",")])?;
    for (process, ip) in [(&mut inbound, SERVER_POD), (&mut outbound, CLIENT_POD)] {
        await_status(address(ip, HEALTH), "/healthz/ready", 200, process, rig)?;
    }
    Ok(vec![outbound, inbound])
}

fn sidecar(mesh: &Mesh, rig: &Rig, account: &str, ip: Ipv4Addr, listeners: &[&str]) -> Result<Process> {
    let mut command = Command::new(&rig.isthmus);
    // This process's environment must not configure the sidecar.
    command.env_clear().arg("sidecar").arg("--no-capture").args(listeners);
    command.args(["--cluster", CLUSTER, "--network", NETWORK, "--namespace", NAMESPACE, "--pod", account]);
    command.args(["--ip", &ip.to_string(), "--concurrency", "1", "--dns-port", "0"]);
    command.args(["--discovery", &mesh.discovery()]);
    path(&mut command, "--token", &mesh.token(account)?);
    path(&mut command, "--root", &mesh.root());
    for (option, port) in [
        ("--admin-address", ADMIN),
        ("--health-address", HEALTH),
        ("--metrics-address", 15090),
        ("--merged-metrics-address", 15020),
    ] {
        command.args([option, &address(ip, port).to_string()]);
    }
    let name = format!("isthmus-{account}");
    Process::start(&name, command, &rig.log(&name))
}

fn path(command: &mut Command, option: &str, path: &Path) {
    command.arg(option).arg(path);
}

/// The name of the server's authorization policy.
const POLICY: &str = "west/default/server";

/// Pushes two workloads, and the service of one of them.
fn publish(mesh: &Mesh) -> Result<()> {
    let hostname = format!("{SERVER_ACCOUNT}.{NAMESPACE}.svc.{DOMAIN}");
    let ports = PortProtocol::ALL.map(|speaks| d::InboundPort {
        number: speaks.server().port().into(),
        protocol: speaks.declared().into(),
        service: hostname.clone(),
        service_port: speaks.port().into(),
        ..d::InboundPort::default()
    });
    publish_workload(mesh, SERVER_ACCOUNT, ports.into(), vec![POLICY.to_owned()]);
    publish_workload(mesh, CLIENT, Vec::new(), Vec::new());
    let strict = d::PeerAuthentication { mode: d::PeerMode::Strict.into(), ..d::PeerAuthentication::default() };
    mesh.publish(Kind::PeerAuthentication, name::MESH, &strict, &[]);
    allow(mesh, CLIENT)?;

    let identity = mesh::service_account(SERVER_ACCOUNT)?.to_string();
    let service = d::Service {
        hostname: hostname.clone(),
        name: SERVER_ACCOUNT.into(),
        namespace: NAMESPACE.into(),
        ports: PortProtocol::ALL
            .map(|speaks| d::Port {
                number: speaks.port().into(),
                name: speaks.name().into(),
                protocol: speaks.declared().into(),
                server_names: Vec::new(),
            })
            .into(),
        addresses: vec![d::VirtualAddress { cluster: CLUSTER.into(), ip: SERVICE.octets().to_vec().into() }],
        identities: vec![identity.clone()],
        ..d::Service::default()
    };
    mesh.publish(Kind::Service, &hostname, &service, &[&name::address(CLUSTER, SERVICE.into())]);
    let direct = d::Direct {
        ip: SERVER_POD.octets().to_vec().into(),
        ports: PortProtocol::ALL.map(|speaks| (speaks.port().into(), speaks.port().into())).into(),
        identity,
        mutual_tls: true,
        pod: SERVER_ACCOUNT.into(),
        workload: Some(labels(SERVER_ACCOUNT)),
        ..d::Direct::default()
    };
    let endpoint = d::Endpoint {
        service: hostname.clone(),
        cluster: CLUSTER.into(),
        network: NETWORK.into(),
        locality: Some(d::Locality::default()),
        weight: 1,
        kind: Some(d::endpoint::Kind::Direct(direct)),
        ..d::Endpoint::default()
    };
    let own = name::endpoint(&hostname, NETWORK, CLUSTER, SERVER_ACCOUNT);
    mesh.publish(Kind::Endpoint, &own, &endpoint, &[&name::endpoints(&hostname, NETWORK)]);
    Ok(())
}

fn publish_workload(mesh: &Mesh, account: &str, ports: Vec<d::InboundPort>, authorization_policies: Vec<String>) {
    let me = name::workload(CLUSTER, NAMESPACE, account);
    let workload = d::Workload {
        cluster: CLUSTER.into(),
        network: NETWORK.into(),
        namespace: NAMESPACE.into(),
        pod: account.into(),
        service_account: account.into(),
        labels: Some(labels(account)),
        ports,
        peer_authentication: name::MESH.into(),
        authorization_policies,
        ..d::Workload::default()
    };
    mesh.publish(Kind::Workload, &me, &workload, &[]);
}

/// Pushes a policy that allows one service account.
fn allow(mesh: &Mesh, account: &str) -> Result<()> {
    let principal = mesh::service_account(account)?.as_str().trim_start_matches("spiffe://").to_owned();
    let principals = Some(d::Values { any_of: vec![principal], none_of: Vec::new() });
    let from = vec![d::AuthorizationSource { principals, ..d::AuthorizationSource::default() }];
    let policy = d::AuthorizationPolicy {
        name: format!("{NAMESPACE}/{SERVER_ACCOUNT}"),
        action: d::PolicyAction::Allow.into(),
        rules: vec![d::AuthorizationRule { from, ..d::AuthorizationRule::default() }],
        ..d::AuthorizationPolicy::default()
    };
    mesh.publish(Kind::AuthorizationPolicy, POLICY, &policy, &[]);
    Ok(())
}

fn labels(name: &str) -> d::WorkloadLabels {
    d::WorkloadLabels {
        workload: name.into(),
        namespace: NAMESPACE.into(),
        app: name.into(),
        version: "v1".into(),
        canonical_service: name.into(),
        canonical_revision: "v1".into(),
    }
}

impl PortProtocol {
    fn declared(self) -> d::Protocol {
        match self {
            Self::Http1 => d::Protocol::Http,
            Self::Http2 => d::Protocol::Http2,
            Self::Grpc => d::Protocol::Grpc,
            Self::Tcp => d::Protocol::Tcp,
        }
    }
}
