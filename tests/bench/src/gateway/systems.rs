//! The systems of the scenario: processes, routes, and the server behind them.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use wire::{Kind, discovery as d, name};

use crate::load::passthrough::{self, Payload};
use crate::load::{self, Edge, Outcome, Timing};
use crate::mesh::{self, Mesh};
use crate::peers::{SniRoute, envoy_gateway, haproxy, nginx};
use crate::process::Process;
use crate::rig::Rig;

const HOSTNAME: &str = "service.default.svc.cluster.local";
const PORT: u16 = 9080;

/// A measured system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum GatewaySystem {
    /// Our gateway.
    Isthmus,
    /// HAProxy with its default settings.
    Haproxy,
    /// HAProxy with `splice-auto`.
    HaproxySplice,
    /// nginx.
    Nginx,
    /// Envoy.
    Envoy,
    /// The floor.
    Floor,
}

impl GatewaySystem {
    /// All systems, in the order of their turns.
    pub(super) const ALL: [Self; 6] =
        [Self::Isthmus, Self::Floor, Self::Haproxy, Self::HaproxySplice, Self::Nginx, Self::Envoy];
}

/// A running system.
pub(super) struct RunningGateway {
    pub(super) system: GatewaySystem,
    pub(super) route: SniRoute,
    pub(super) process: Process,
    _mesh: Option<Mesh>,
}

/// Our gateway alone, with a server behind it.
pub struct IsthmusGateway<'a> {
    /// The time from the gateway's start until it forwarded a connection.
    pub started: Duration,
    bench: GatewayBench<'a>,
    running: RunningGateway,
}

impl<'a> IsthmusGateway<'a> {
    /// Starts the server and the gateway, and waits until the gateway forwards.
    pub fn start(rig: &'a Rig) -> Result<Self> {
        let bench = GatewayBench::new(rig)?;
        let began = Instant::now();
        let running = bench.start(GatewaySystem::Isthmus)?;
        Ok(Self { started: began.elapsed(), bench, running })
    }

    /// The gateway's process.
    pub fn process(&self) -> &Process {
        &self.running.process
    }

    /// Opens new connections, one at a time, as many as the gateway carries.
    pub fn new_connections(&self, timing: Timing, edge: &mut dyn FnMut(Edge)) -> Result<Outcome> {
        passthrough::new_connections(self.running.route.gateway, &self.bench.payload, 1, None, timing, edge)
    }
}

impl RunningGateway {
    /// The system's name in tables.
    pub(super) fn name(&self) -> &'static str {
        match self.system {
            GatewaySystem::Isthmus => "isthmus",
            GatewaySystem::Haproxy => "haproxy",
            GatewaySystem::HaproxySplice => "haproxy (splice)",
            GatewaySystem::Nginx => "nginx",
            GatewaySystem::Envoy => "envoy",
            GatewaySystem::Floor => "floor",
        }
    }
}

/// The server and the client's ClientHello.
pub(super) struct GatewayBench<'a> {
    pub(super) rig: &'a Rig,
    pub(super) payload: Payload,
    _server: Process,
}

impl<'a> GatewayBench<'a> {
    /// Starts the server.
    pub(super) fn new(rig: &'a Rig) -> Result<Self> {
        let log = rig.log("server");
        let mut command = Command::new("/proc/self/exe");
        command.args(["part", "backend", "--behind-hello"]).arg(server(Ipv4Addr::UNSPECIFIED).to_string());
        let mut process = Process::start("server", command, &log)?;
        process.listens_at(server(Ipv4Addr::LOCALHOST), &log)?;
        Ok(Self { rig, payload: Payload::Raw(hello()?), _server: process })
    }

    /// Starts a system. Each has addresses of its own, so that ports in TIME-WAIT of one do not affect another.
    pub(super) fn start(&self, system: GatewaySystem) -> Result<RunningGateway> {
        let number = system as u8 + 1;
        let route = SniRoute {
            gateway: (Ipv4Addr::new(10, 244, 1, number), 15443).into(),
            server: server(Ipv4Addr::new(10, 244, 2, number)),
            server_name: name::sni(PORT, "", HOSTNAME),
        };
        let (rig, mut mesh) = (self.rig, None);
        let command = match system {
            GatewaySystem::Isthmus => isthmus(rig, &route, mesh.insert(Mesh::start(rig.directory())?))?,
            GatewaySystem::Haproxy => haproxy::gateway(rig, "haproxy", &route, haproxy::Bytes::Copied)?,
            GatewaySystem::HaproxySplice => haproxy::gateway(rig, "haproxy-splice", &route, haproxy::Bytes::Spliced)?,
            GatewaySystem::Nginx => nginx::gateway(rig, "nginx", &route)?,
            GatewaySystem::Envoy => envoy_gateway::gateway(rig, "envoy-gateway", &route)?,
            GatewaySystem::Floor => {
                let mut command = Command::new("/proc/self/exe");
                command.args(["part", "floor-gateway", "--listen"]).arg(route.gateway.to_string());
                command.arg("--server").arg(route.server.to_string());
                command
            }
        };
        let name = format!("{system:?}").to_lowercase();
        let log = rig.log(&name);
        let mut process = Process::start(&name, command, &log)?;
        process.listens_at(route.gateway, &log)?;
        let mut running = RunningGateway { system, route, process, _mesh: mesh };
        self.works(&mut running, &log)
            .with_context(|| format!("{name} does not forward; its log: {}", log.display()))?;
        Ok(running)
    }

    /// Waits until the gateway forwards a connection.
    fn works(&self, running: &mut RunningGateway, log: &std::path::Path) -> Result<()> {
        let mut last = Ok(());
        for _ in 0..5 {
            running.process.ensure_running(log)?;
            last = load::idle_passthrough(running.route.gateway, &self.payload, 1).map(drop);
            if last.is_ok() {
                break;
            }
        }
        last
    }
}

/// The ClientHello of a sidecar.
fn hello() -> Result<Vec<u8>> {
    let root = identity::Authority::self_signed_root("mesh", Duration::from_secs(3600))?;
    let trust = identity::Trust::new(mesh::DOMAIN, root.roots().to_vec(), [])?;
    let id = mesh::service_account("client")?;
    let client = identity::Identity::new(root.credential(&id, &[], Duration::from_secs(3600))?, trust);
    let config = client.client_config(&[id], identity::alpn::CLIENT_TCP);
    let name = rustls_pki_types::ServerName::try_from(name::sni(PORT, "", HOSTNAME))?;
    let mut connection = tokio_rustls::rustls::ClientConnection::new(config, name)?;
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes)?;
    Ok(bytes)
}

fn server(ip: Ipv4Addr) -> SocketAddr {
    (ip, PORT).into()
}

/// The command that starts our gateway, with a control plane that pushes the one service.
fn isthmus(rig: &Rig, route: &SniRoute, mesh: &Mesh) -> Result<Command> {
    let service = d::Service {
        hostname: HOSTNAME.into(),
        name: "service".into(),
        namespace: mesh::NAMESPACE.into(),
        ports: vec![d::Port { number: PORT.into(), ..d::Port::default() }],
        exports: vec![d::Export { cluster: mesh::CLUSTER.into(), network: mesh::NETWORK.into(), ..Default::default() }],
        ..d::Service::default()
    };
    let direct = d::Direct {
        ip: name::ip_to_bytes(route.server.ip()),
        ports: [(PORT.into(), route.server.port().into())].into(),
        mutual_tls: true,
        ..d::Direct::default()
    };
    let endpoint = d::Endpoint {
        service: HOSTNAME.into(),
        cluster: mesh::CLUSTER.into(),
        network: mesh::NETWORK.into(),
        weight: 1,
        kind: Some(d::endpoint::Kind::Direct(direct)),
        ..d::Endpoint::default()
    };
    mesh.publish(Kind::Service, HOSTNAME, &service, &[&name::exported(mesh::NETWORK)]);
    let endpoint_name = name::endpoint(HOSTNAME, mesh::NETWORK, mesh::CLUSTER, "server-1");
    mesh.publish(Kind::Endpoint, &endpoint_name, &endpoint, &[&name::endpoints(HOSTNAME, mesh::NETWORK)]);
    let mut command = Command::new(&rig.isthmus);
    command.args(["eastwest-gateway", "--cluster", mesh::CLUSTER, "--network", mesh::NETWORK, "--pod", "gateway-1"]);
    command.args(["--workers", "1", "--listen"]).arg(route.gateway.to_string());
    command.args(["--discovery-address", &mesh.discovery()]);
    for ports in ["--admin-address", "--health-address", "--metrics-address"] {
        command.args([ports, "127.0.0.1:0"]);
    }
    command.arg("--token-path").arg(mesh.token("gateway")?).arg("--root-path").arg(mesh.root());
    Ok(command)
}
