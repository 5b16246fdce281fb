//! Ten and a thousand hosts with a certificate each: the gateway's memory, and the CPU of a new connection with TLS.
//!
//! The control plane is scripted, so that both gateways have what is measured and nothing else. Connections go to a few of the hosts, in
//! turns, without resuming sessions.

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use wire::{Kind, discovery as d, name};

use crate::chain::{address, await_status};
use crate::finding::{Finding, Metric, Recorder};
use crate::mesh::{CLUSTER, Mesh, NAMESPACE, NETWORK};
use crate::process::Process;
use crate::rig::Rig;

/// The numbers of hosts.
const HOSTS: [(usize, Ipv4Addr); 2] = [(10, Ipv4Addr::new(10, 244, 20, 1)), (1000, Ipv4Addr::new(10, 244, 21, 1))];
/// The number of hosts that connections go to.
const USED: usize = 10;
const PORT: u16 = 8443;
const MIB: f64 = (1 << 20) as f64;

/// Measures both gateways in turns.
pub fn run(rig: &Rig) -> Result<Vec<Finding>> {
    let mesh = Mesh::start(rig.directory())?;
    let (connections, rest) = match rig.quick {
        true => (20, Duration::from_millis(300)),
        false => (2_000, Duration::from_secs(16)),
    };
    let mut recorder = Recorder::new("ingress");
    let mut gateways = Vec::new();
    for (hosts, ip) in HOSTS {
        let roots = publish(&mesh, hosts, ip)?;
        let gateway = start(&mesh, rig, hosts, ip)?;
        gateways.push((hosts, ip, gateway, roots));
    }
    thread::sleep(rest);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for (hosts, _, gateway, _) in &gateways {
        let load = format!("{hosts} hosts with certificates");
        recorder.add(&load, "isthmus", Metric::cost("resident memory", "MiB"), gateway.resident()? as f64 / MIB);
    }
    for at in rig.order(gateways.len()) {
        let (hosts, ip, gateway, roots) = &mut gateways[at];
        let before = gateway.usage()?;
        runtime.block_on(connect(*ip, roots, connections))?;
        let used = gateway.usage()? - before;
        gateway.ensure_running(&rig.log(&gateway.name))?;
        let load = format!("{hosts} hosts with certificates");
        let each = used.cpu.as_secs_f64() * 1e6 / connections as f64;
        recorder.add(&load, "isthmus", Metric::cost("CPU per new connection", "µs"), each);
        if let Some(progress) = recorder.progress(&load, "isthmus") {
            eprintln!("{progress}");
        }
    }
    Ok(recorder.findings())
}

fn host(number: usize) -> String {
    format!("h{number}.example.com")
}

/// The name of the pod of the gateway with this number of hosts.
fn pod(hosts: usize) -> String {
    format!("ingress-{hosts}")
}

/// Publishes a gateway's listener: a server, a certificate and a route for each host. Returns the certificates of the hosts that are used.
fn publish(mesh: &Mesh, hosts: usize, ip: Ipv4Addr) -> Result<Vec<CertificateDer<'static>>> {
    let pod = pod(hosts);
    let (mut servers, mut used) = (Vec::with_capacity(hosts), Vec::new());
    for number in 0..hosts {
        let host = host(number);
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new([host.clone()])?.self_signed(&key)?;
        if number < USED {
            used.push(certificate.der().clone());
        }
        let secret = format!("{CLUSTER}/{NAMESPACE}/{pod}-{number}");
        let message = d::Credential {
            certificate_chain: certificate.pem().into(),
            private_key: key.serialize_pem().into(),
            ..Default::default()
        };
        mesh.publish(Kind::Credential, &secret, &message, &[]);
        let routes = format!("{pod}-{number}");
        let action = d::http_route::Action::DirectResponse(d::DirectResponse { status: 200, ..Default::default() });
        let table = d::RouteTable {
            http: vec![d::HttpRoute { action: Some(action), ..Default::default() }],
            ..Default::default()
        };
        mesh.publish(Kind::RouteTable, &format!("{routes}|{host}"), &table, &[&routes]);
        servers.push(d::GatewayServer {
            gateway: format!("{NAMESPACE}/{pod}"),
            hosts: vec![host],
            tls: Some(d::ServerTls {
                mode: d::ServerTlsMode::Simple.into(),
                credentials: vec![secret],
                ..Default::default()
            }),
            routes,
            ..Default::default()
        });
    }
    let own = name::workload(CLUSTER, NAMESPACE, &pod);
    // All gateways are in one network namespace.
    let bind = ip.octets().to_vec().into();
    let listener = d::Listener { port: PORT.into(), server_port: 443, servers, bind };
    mesh.publish(Kind::Listeners, &own, &d::Listeners { listeners: vec![listener], ..Default::default() }, &[]);
    let workload = d::Workload {
        cluster: CLUSTER.into(),
        network: NETWORK.into(),
        namespace: NAMESPACE.into(),
        pod,
        peer_authentication: name::MESH.into(),
        ..Default::default()
    };
    mesh.publish(Kind::Workload, &own, &workload, &[]);
    mesh.publish(Kind::PeerAuthentication, name::MESH, &d::PeerAuthentication::default(), &[]);
    Ok(used)
}

fn start(mesh: &Mesh, rig: &Rig, hosts: usize, ip: Ipv4Addr) -> Result<Process> {
    let pod = pod(hosts);
    let mut command = Command::new(&rig.isthmus);
    // This process's environment must not configure the gateway.
    command.env_clear().arg("router");
    command.args(["--cluster", CLUSTER, "--network", NETWORK, "--namespace", NAMESPACE, "--pod", &pod]);
    command.args(["--ip", &ip.to_string(), "--workers", "1", "--discovery-address", &mesh.discovery()]);
    command.arg("--token-path").arg(mesh.token(&pod)?).arg("--root-path").arg(mesh.root());
    for (option, port) in [("--admin-address", 15000), ("--health-address", 15021), ("--metrics-address", 15090)] {
        command.args([option, &address(ip, port).to_string()]);
    }
    let mut process = Process::start(&pod, command, &rig.log(&pod))?;
    await_status(address(ip, 15021), "/healthz/ready", 200, &mut process, rig)?;
    Ok(process)
}

/// Opens connections, one after the other.
async fn connect(ip: Ipv4Addr, roots: &[CertificateDer<'static>], count: usize) -> Result<()> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(roots.iter().cloned());
    let builder = ClientConfig::builder_with_provider(identity::provider().clone());
    let mut config = builder.with_safe_default_protocol_versions()?.with_root_certificates(store).with_no_client_auth();
    config.resumption = Resumption::disabled();
    let connector = TlsConnector::from(Arc::new(config));
    for number in 0..count {
        let name = ServerName::try_from(host(number % USED))?;
        let stream = TcpStream::connect(address(ip, PORT)).await?;
        let stream = connector.connect(name, stream).await.context("a handshake")?;
        ensure!(stream.get_ref().1.peer_certificates().is_some(), "the gateway presented no certificate");
    }
    Ok(())
}
