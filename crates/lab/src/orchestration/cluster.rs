//! The two processes of a cluster: the API server, and the node agent with controllers, service proxy and DNS.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use api::export::ServiceImport;
use install::client_error;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::keys::IN_CLUSTER_PORT;
use super::relay::{self, RelayDelays};
use super::state::write_private;
use super::{clients, networks};
use crate::console::print_stderr;
use crate::controllers::cache::Cache;
use crate::controllers::scheduler::{REGION, ZONE};
use crate::controllers::service_proxy::{self, ProxyNetwork};
use crate::controllers::{self, ClusterView};
use crate::dns::{self, OutsideHosts};
use crate::node::{self, Agent, NodeFault};
use crate::topology::{API_PORT, Cluster, IpFamily, Topology};

/// Name of the node agent's socket in the cluster's directory.
pub(super) const NODE_SOCKET: &str = "node.sock";

/// Name of the file in the cluster's directory with the objects of an API server that was killed.
pub(super) const SAVED_OBJECTS: &str = "objects.json";

/// Options of a cluster's processes.
#[derive(Debug, Clone, clap::Args)]
pub struct ClusterProcessOptions {
    /// Directory of the lab.
    #[arg(long)]
    pub directory: PathBuf,
    /// Name of the cluster.
    #[arg(long)]
    pub cluster: String,
}

type ProcessError = Box<dyn std::error::Error>;

impl ClusterProcessOptions {
    fn own(&self) -> PathBuf {
        self.directory.join(&self.cluster)
    }

    fn read(&self, name: &str) -> Result<String, ProcessError> {
        let path = self.own().join(name);
        std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()).into())
    }

    fn topology(&self) -> Result<(Topology, Cluster), ProcessError> {
        let text = std::fs::read(self.directory.join("topology.json"))?;
        let topology: Topology = serde_json::from_slice(&text)?;
        let cluster = topology.cluster(&self.cluster).cloned().ok_or("the topology has no such cluster")?;
        Ok((topology, cluster))
    }
}

fn finish(process: &str, result: Result<(), ProcessError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_stderr(&format!("{process}: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Runs the cluster's API server. Its standard input is the listener on the host's loopback.
#[must_use]
pub fn api_server(options: &ClusterProcessOptions) -> ExitCode {
    finish("lab-apiserver", serve_api(options))
}

fn serve_api(options: &ClusterProcessOptions) -> Result<(), ProcessError> {
    log_to_stderr();
    let (_, cluster) = options.topology()?;
    let host = TcpListener::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let mut listeners = vec![host];
    // The wildcard address of IPv6 accepts IPv4 too; it is used only if the cluster has IPv6, which the machine may lack.
    let any: IpAddr = match cluster.ip_families.contains(&IpFamily::V6) {
        true => Ipv6Addr::UNSPECIFIED.into(),
        false => Ipv4Addr::UNSPECIFIED.into(),
    };
    listeners.push(TcpListener::bind((any, API_PORT))?);
    for family in &cluster.ip_families {
        listeners.push(TcpListener::bind((family.api_server(), IN_CLUSTER_PORT))?);
    }
    let settings = apiserver::Options {
        listeners,
        certificate: options.read("serving.pem")?,
        key: options.read("serving-key.pem")?,
        ca: options.read("authority.pem")?,
        service_account_key: options.read("tokens-key.pem")?,
        issuer: apiserver::Options::ISSUER.to_owned(),
        node_socket: Some(options.own().join(NODE_SOCKET)),
        service_networks: cluster.ip_families.iter().map(|family| family.services()).collect(),
        advertise: cluster.uplinks().into_iter().map(|uplink| SocketAddr::new(uplink, API_PORT)).collect(),
        remembered_changes: apiserver::Options::REMEMBERED_CHANGES,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        let saved = options.own().join(SAVED_OBJECTS);
        let server = server(settings, &saved)?;
        tokio::spawn(save_when_killed(server.objects(), signal(SignalKind::user_defined1())?, saved));
        let mut terminate = signal(SignalKind::terminate())?;
        let stopping = stop.clone();
        tokio::spawn(async move {
            terminate.recv().await;
            stopping.cancel();
        });
        server.run(stop).await;
        Ok(())
    })
}

/// Creates the API server, with the objects of an earlier one that was killed if there was one.
fn server(settings: apiserver::Options, saved: &Path) -> Result<apiserver::Server, ProcessError> {
    let objects = match std::fs::read(saved) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(apiserver::Server::new(settings)?),
        read => serde_json::from_slice(&read?)?,
    };
    std::fs::remove_file(saved)?;
    Ok(apiserver::Server::restored(settings, objects)?)
}

/// Ends this process as SIGKILL does, after it has saved the objects: etcd keeps those of a real API server.
async fn save_when_killed(objects: apiserver::ServerObjects, mut killed: Signal, saved: PathBuf) {
    killed.recv().await;
    let objects = objects.freeze();
    if let Err(error) = serde_json::to_vec(&objects).map_err(Into::into).and_then(|text| write_private(&saved, &text)) {
        tracing::error!(%error, "the objects are lost");
    }
    // Nothing stops this signal, so that the call does not return.
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
}

/// Runs the cluster's node agent, controllers, service proxy and DNS server.
#[must_use]
pub fn node(options: &ClusterProcessOptions) -> ExitCode {
    finish("lab-node", run_node(options))
}

fn run_node(options: &ClusterProcessOptions) -> Result<(), ProcessError> {
    log_to_stderr();
    let (topology, cluster) = options.topology()?;
    let kubeconfig = options.read("inside.kubeconfig")?;
    let delays = RelayDelays::of(&topology, &cluster);
    let agent = agent_settings(options, &cluster);
    let outside = outside_hosts(&topology, &cluster);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let client = clients::client(&kubeconfig).await?;
        let mut terminate = signal(SignalKind::terminate())?;
        let (view, _watches) = ClusterView::follow(&client);
        let settings = controllers::ControllerSettings { load_balancers: cluster.load_balancer_pool() };
        tokio::spawn(controllers::run(client.clone(), view.clone(), settings));
        let imports = Arc::new(Cache::default());
        tokio::spawn(controllers::imports::follow(client.clone(), imports.clone(), view.clone()));
        tokio::spawn(service_proxy::run(view.clone(), imports.clone(), surroundings(&cluster, delays.is_some())));
        if let Some(delays) = delays {
            tokio::spawn(relay::run(view.clone(), delays));
        }
        for family in &cluster.ip_families {
            tokio::spawn(serve_dns(family.dns(), view.clone(), imports.clone(), outside.clone()));
        }
        tokio::spawn(register(client.clone(), cluster));
        tokio::select! {
            ended = Agent::run(agent, client) => Ok(ended?),
            // The kernel ends every pod with this process.
            _ = terminate.recv() => Ok(()),
        }
    })
}

fn agent_settings(options: &ClusterProcessOptions, cluster: &Cluster) -> node::NodeSettings {
    node::NodeSettings {
        directory: options.own(),
        socket: options.own().join(NODE_SOCKET),
        host_addresses: cluster.uplinks(),
        pod_networks: cluster.pod_cidrs.clone(),
        dns_address: cluster.first_family().dns(),
        cluster_domain: "cluster.local".to_owned(),
        api: SocketAddr::new(cluster.first_family().api_server(), IN_CLUSTER_PORT),
    }
}

/// Creates the cluster's nodes, one for each zone. The agent keeps them ready.
async fn register(client: Client, cluster: Cluster) {
    let api: Api<Node> = Api::all(client);
    for zone in &cluster.zones {
        let name = cluster.node(zone);
        let node = serde_json::json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": {
                "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": arch(),
                ZONE: zone, REGION: cluster.region,
            }},
        });
        let params = PatchParams::apply("isthmus-lab").force();
        while let Err(error) = api.patch(&name, &params, &Patch::Apply(&node)).await {
            tracing::debug!(%error, name, "node not registered yet");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The machine's architecture, by Kubernetes' name.
fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn surroundings(cluster: &Cluster, relayed: bool) -> ProxyNetwork {
    let families = || cluster.ip_families.iter();
    let of_cluster = |network: &IpNet| cluster.ip_families.contains(&IpFamily::of(*network));
    let clusterset = controllers::imports::networks().into_iter().filter(of_cluster);
    ProxyNetwork {
        uplink: networks::UPLINK.to_owned(),
        services: families().map(|family| family.services()).chain(clusterset).collect(),
        own: families().flat_map(|family| [family.api_server(), family.dns()]).collect(),
        relayed,
    }
}

/// Returns the hosts of the issuers and of the servers outside of the mesh, with addresses of the cluster's families.
fn outside_hosts(topology: &Topology, cluster: &Cluster) -> OutsideHosts {
    let addresses: Vec<IpAddr> = cluster.ip_families.iter().map(|family| family.issuers().addr()).collect();
    let issuers = topology.issuers.iter().map(|issuer| (issuer.host.clone(), addresses.clone()));
    let external = topology.external_addresses().map(|(server, mut addresses)| {
        addresses.retain(|address| cluster.ip_families.iter().any(|family| family.has(*address)));
        (server.host.clone(), addresses)
    });
    issuers.chain(external).collect()
}

async fn serve_dns(address: IpAddr, view: Arc<ClusterView>, imports: Arc<Cache<ServiceImport>>, outside: OutsideHosts) {
    if let Err(error) = dns::serve(SocketAddr::new(address, 53), view, imports, outside).await {
        tracing::error!(%error, "no DNS in this cluster");
    }
}

/// Kills (`kill`) or revives a node through the node agent of the cluster in `directory`.
///
/// # Errors
/// Returns a message if the agent does not answer or has no such node.
pub fn inject_node_fault(directory: &Path, node: &str, kill: bool) -> Result<(), String> {
    let fault = if kill { NodeFault::Kill } else { NodeFault::Revive };
    node::inject(&directory.join(NODE_SOCKET), node, fault).map_err(|error| client_error::system(&error))
}

fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("ISTHMUS_LAB_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn,isthmus_lab=info,kube_client=off"));
    let made = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    // A second call in one process has no effect.
    let _ = made.try_init();
}
