//! Compares what rules of routing, policies and edges do in a mesh of Isthmus with what they do in Istio.
//!
//! [`case`] reads the cases of `cases/`: configurations as users write them, and requests. [`bed`] starts a lab with
//! servers ([`server`]) and clients ([`client`]) in pods, and applies all configurations; the clients' pods have
//! sidecars of Isthmus, or Envoys under Istio's control plane ([`istio`]). [`run`] sends the requests, and [`ledger`]
//! knows what arrived where. [`secrets`] gives those Envoys certificates. [`policies`] has the bed of policies, whose
//! servers have sidecars as well, and [`cells`] those of Gateways and Sidecars. [`export`] has exported services used by Istio. [`waves`] distributes cases over
//! namespaces. What Istio does is recorded ([`outcome`]) in `recorded/`; [`compare`] finds the differences, and
//! [`report`] prints them.

pub mod agent;
pub mod bed;
pub mod case;
pub mod cells;
pub mod certificates;
pub mod client;
pub mod compare;
pub mod drive;
pub mod export;
pub mod istio;
pub mod ledger;
pub mod outcome;
pub mod places;
pub mod policies;
pub mod report;
pub mod run;
pub mod secrets;
pub mod server;
pub mod waves;

/// How YAML is read: only `true` and `false` are booleans, as in Kubernetes.
pub(crate) fn yaml_options() -> serde_saphyr::Options {
    serde_saphyr::options! { strict_booleans: true }
}

/// Runs a program of this crate.
///
/// # Errors
/// Returns an error if the runtime cannot be started, or the program's own.
pub fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    net::socket::raise_open_files_limit()?;
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(work)
}
