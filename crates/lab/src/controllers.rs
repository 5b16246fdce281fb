//! What a cluster does beside its API server: the kube controllers, the scheduler and the service proxy.
//!
//! Each controller is a module with a pure decision (objects in, actions out, tested with tables) and a small
//! driver that carries the actions out through the API server like any other client. All of them read one
//! [`View`] of the cluster, which is kept by one watch per kind. A driver looks at everything again whenever
//! anything changed: a lab has tens of objects, so this costs microseconds and nothing can be missed. What a driver
//! writes goes into the view at once, so it never acts twice on what the watch has not told yet.

pub mod cache;
pub mod deployment;
pub mod endpoint_slice;
pub mod load_balancer;
pub mod namespace;
pub mod node_lifecycle;
mod owner;
pub mod pod_state;
mod reconcile;
pub mod record;
pub mod replica_set;
pub mod retry;
pub mod rollout;
pub mod scheduler;
pub mod selector;
pub mod service_proxy;

use std::net::Ipv4Addr;
use std::sync::Arc;

pub use cache::View;
use kube::Client;
use tokio::task::JoinSet;

/// What the controllers of a cluster need to know of it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The addresses that Services of type LoadBalancer are given.
    pub load_balancers: Vec<Ipv4Addr>,
}

/// Runs every controller until one of them ends, which none does unless it panics.
pub async fn run(client: Client, view: Arc<View>, settings: Settings) {
    let mut tasks = JoinSet::new();
    tasks.spawn(namespace::run(client.clone(), view.clone()));
    tasks.spawn(deployment::run(client.clone(), view.clone()));
    tasks.spawn(replica_set::run(client.clone(), view.clone()));
    tasks.spawn(scheduler::run(client.clone(), view.clone()));
    tasks.spawn(endpoint_slice::run(client.clone(), view.clone()));
    tasks.spawn(load_balancer::run(client.clone(), view.clone(), settings.load_balancers));
    tasks.spawn(node_lifecycle::run(client, view));
    if let Some(Err(error)) = tasks.join_next().await {
        tracing::error!(%error, "a controller ended");
    }
}

#[cfg(test)]
mod tests;
