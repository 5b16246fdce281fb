//! Kubernetes clients of a lab's clusters.

use install::client_error;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::topology::Topology;

/// A kubeconfig of a lab cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cluster {cluster}: {message}")]
pub struct ClientsError {
    cluster: String,
    message: String,
}

/// The clients of a running lab, in the order of its clusters.
pub struct Clients(pub Vec<Client>);

impl Clients {
    /// Creates a client from each of the lab's kubeconfigs.
    ///
    /// # Errors
    /// Returns an error if a kubeconfig cannot be used.
    pub async fn new(topology: &Topology, kubeconfigs: &[String]) -> Result<Self, ClientsError> {
        let mut clients = Vec::new();
        for (cluster, text) in topology.clusters.iter().zip(kubeconfigs) {
            let client = client(text).await;
            clients.push(client.map_err(|message| ClientsError { cluster: cluster.name.clone(), message })?);
        }
        Ok(Self(clients))
    }
}

/// Creates a client from the text of a kubeconfig.
///
/// # Errors
/// Returns a description of what is wrong with the kubeconfig.
pub async fn client(kubeconfig: &str) -> Result<Client, String> {
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig).map_err(|error| client_error::kubeconfig(&error))?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    let mut config = config.map_err(|error| client_error::kubeconfig(&error))?;
    // HTTP proxies of the environment do not lead to 127.0.0.1.
    config.proxy_url = None;
    Client::try_from(config).map_err(|error| client_error::describe(&error))
}
