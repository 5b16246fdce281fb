//! The controllers of a cluster: the Kubernetes controllers, the scheduler and the service proxy.
//!
//! Each controller is a module with a pure decision (objects in, actions out, tested with tables) and a driver that
//! carries out the actions through the API server, like any other client. All of them read one [`ClusterView`], which
//! one watch per kind keeps up to date. A driver looks at all objects whenever one has changed: a lab has tens of
//! objects, so this costs microseconds and nothing can be missed. A driver's writes go into the view at once, so it
//! never acts twice before the watch reports them.

pub mod cache;
pub mod cron_job;
pub mod daemon_set;
pub mod deployment;
pub mod endpoint_slice;
pub mod endpoints;
pub mod imports;
mod ineffective;
pub mod job;
pub mod load_balancer;
pub mod namespace;
mod node_fit;
pub mod node_lifecycle;
mod owner;
pub mod pod_state;
mod reconcile;
pub mod record;
pub mod replica_set;
pub mod retry;
pub mod revision;
pub mod rollout;
pub mod scheduler;
pub mod selector;
pub mod service_proxy;
pub mod stateful_set;
pub mod template;
pub mod view;

use std::net::IpAddr;
use std::sync::Arc;

use kube::Client;
use tokio::task::JoinSet;
pub use view::ClusterView;

/// Settings of a cluster's controllers.
#[derive(Debug, Clone)]
pub struct ControllerSettings {
    /// LoadBalancer addresses of the cluster.
    pub load_balancers: Vec<IpAddr>,
}

/// Runs every controller. Returns if one of them panics.
pub async fn run(client: Client, view: Arc<ClusterView>, settings: ControllerSettings) {
    let mut tasks = JoinSet::new();
    tasks.spawn(namespace::run(client.clone(), view.clone()));
    tasks.spawn(deployment::run(client.clone(), view.clone()));
    tasks.spawn(replica_set::run(client.clone(), view.clone()));
    tasks.spawn(stateful_set::run(client.clone(), view.clone()));
    tasks.spawn(daemon_set::run(client.clone(), view.clone()));
    tasks.spawn(job::run(client.clone(), view.clone()));
    tasks.spawn(cron_job::run(client.clone(), view.clone()));
    tasks.spawn(scheduler::run(client.clone(), view.clone()));
    tasks.spawn(endpoint_slice::run(client.clone(), view.clone()));
    tasks.spawn(endpoints::run(client.clone(), view.clone()));
    tasks.spawn(endpoints::mirror(client.clone(), view.clone()));
    tasks.spawn(ineffective::run(client.clone()));
    tasks.spawn(load_balancer::run(client.clone(), view.clone(), settings.load_balancers));
    tasks.spawn(node_lifecycle::run(client, view));
    if let Some(Err(error)) = tasks.join_next().await {
        tracing::error!(%error, "a controller has ended");
    }
}

#[cfg(test)]
mod tests;
