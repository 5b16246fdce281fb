//! Where a request of the application would go: name → address → service → route → endpoints, as the application's own request
//! would, without sending anything.
//!
//! A question is asked on the control thread (the admin page `/explain`), which resolves the name as the pod's DNS does. Each
//! worker then answers from its own balancers, since ejections without a DestinationRule are a matter of each worker. Questions
//! are answered one at a time, each within [`LIMIT`].

use std::net::{IpAddr, SocketAddr};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use proxy::exchange::outbound::explain::{self, Explanation};
use proxy::exchange::outbound::{connections, measure};
use proxy::mesh::{Lookup, Protocol};
use proxy::worker::Worker;
use tokio::sync::{mpsc, oneshot, watch};
use wire::client::Link;

use crate::dns::Names;
use crate::outbound;

mod question;
mod search;

pub(crate) use question::{Question, Scheme};
pub(crate) use search::Search;

/// The time for an answer: a service that is not known yet has to arrive from the controller, and a name may be another server's.
const LIMIT: Duration = Duration::from_secs(10);
/// The number of questions that wait.
const WAITING: usize = 4;

/// A question, and where its answer goes.
pub(crate) type Asked = (Question, oneshot::Sender<Explained>);

/// A question for a worker.
pub(crate) struct WorkerQuestion {
    question: Arc<Question>,
    /// The address that the application would connect to.
    address: SocketAddr,
    /// Whether to connect to the endpoints for measurement.
    measure: bool,
    reply: oneshot::Sender<Explanation>,
}

/// The answer to a question.
#[derive(Debug)]
pub(crate) struct Explained {
    /// What the name stands for, or why the application gets no address.
    pub(crate) name: Result<ResolvedName, String>,
    /// The answer of each worker.
    pub(crate) workers: Vec<Explanation>,
    /// The state of the link to the controller.
    pub(crate) link: Link,
}

/// What a host of a URL stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ResolvedName {
    /// The full name; `None` if the host is an address.
    pub(crate) name: Option<String>,
    /// The address that the application connects to.
    pub(crate) address: IpAddr,
    /// The mesh answers for the name; else the pod's own DNS servers do.
    pub(crate) by_mesh: bool,
}

/// What answers need.
pub(crate) struct Explainer {
    /// Resolves names of the mesh.
    pub(crate) names: Names,
    /// How short names are completed.
    pub(crate) search: Search,
    /// The state of the link to the controller.
    pub(crate) link: watch::Receiver<Link>,
    /// Asks the workers.
    pub(crate) workers: Vec<mpsc::Sender<WorkerQuestion>>,
    /// The firewall mark of the sidecar's own queries.
    pub(crate) mark: Option<u32>,
}

/// Answers questions on the present [`tokio::task::LocalSet`] while their sender lives.
pub(crate) fn serve(explainer: Explainer) -> mpsc::Sender<Asked> {
    let (sender, mut asked) = mpsc::channel::<Asked>(WAITING);
    tokio::task::spawn_local(async move {
        while let Some((question, reply)) = asked.recv().await {
            // Without an answer in time the reply is dropped. One who no longer waits needs none.
            if let Ok(explained) = tokio::time::timeout(LIMIT, explainer.answer(question)).await {
                let _ = reply.send(explained);
            }
        }
    });
    sender
}

impl Explainer {
    async fn answer(&self, question: Question) -> Explained {
        let name = self.resolve(&question.host).await;
        let mut workers = Vec::new();
        if let Ok(resolved) = &name {
            let address = SocketAddr::new(resolved.address, question.port);
            let question = Arc::new(question);
            for worker in &self.workers {
                let (reply, answer) = oneshot::channel();
                // All workers reach the same endpoints: one measures.
                let measure = question.measure && workers.is_empty();
                let asked = WorkerQuestion { question: question.clone(), address, measure, reply };
                // A worker that has ended, or answers an earlier question, is left out.
                if worker.try_send(asked).is_ok()
                    && let Ok(answer) = answer.await
                {
                    workers.push(answer);
                }
            }
        }
        Explained { name, workers, link: self.link.borrow().clone() }
    }

    /// Returns the address that the application's resolver returns first for a host.
    async fn resolve(&self, host: &str) -> Result<ResolvedName, String> {
        if let Ok(address) = host.parse() {
            return Ok(ResolvedName { name: None, address, by_mesh: false });
        }
        let mut unanswered = None;
        for name in self.search.names(host) {
            if let Some(addresses) = self.names.addresses(&name).await {
                if let Some(address) = addresses.first().copied() {
                    return Ok(ResolvedName { name: Some(name), address, by_mesh: true });
                }
                continue;
            }
            match runtime::resolve::answer(&name, self.mark).await {
                Ok((addresses, _)) => {
                    if let Some(address) = addresses.first().copied() {
                        return Ok(ResolvedName { name: Some(name), address, by_mesh: false });
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => unanswered = Some(format!("the pod's DNS servers do not answer for {name}: {error}")),
            }
        }
        Err(unanswered.unwrap_or_else(|| {
            format!(
                "neither the mesh nor the pod's DNS servers know the name {host}, so the application gets no address"
            )
        }))
    }
}

/// Answers the questions for a worker while it lives.
pub(crate) async fn answer(mut asked: mpsc::Receiver<WorkerQuestion>, worker: Weak<Worker>) {
    while let Some(WorkerQuestion { question, address, measure, reply }) = asked.recv().await {
        let Some(worker) = worker.upgrade() else { return };
        let mut explanation = explain(&question, address, &worker).await;
        if measure {
            explanation.measured = measure::measure(&explanation, &worker).await;
        }
        // One who no longer waits needs no answer.
        let _ = reply.send(explanation);
    }
}

/// Explains a request or connection to `address`, by the steps of [`outbound::serve`].
async fn explain(question: &Question, address: SocketAddr, worker: &Rc<Worker>) -> Explanation {
    let found = worker.view.reached_at(address).await;
    let destination = outbound::destination(address, &found, worker).await;
    let opaque = match destination.protocol {
        Protocol::Tcp => true,
        Protocol::Http | Protocol::Http2 | Protocol::Grpc => false,
        Protocol::Unknown => question.scheme != Scheme::Http,
    };
    if !opaque {
        let form = worker.view.snapshot().settings.path_normalization;
        return explain::request(&question.head(form), address, &destination, worker).await;
    }
    let tls = (question.scheme == Scheme::Https).then_some(question.host.as_str());
    let destination = match &found {
        Lookup::Unanswered if tls.is_some() => outbound::unknown_tls(address, worker),
        _ => destination,
    };
    let dynamic = matches!(&found, Lookup::Found(found) if found.service.is_dynamic());
    let by_name = (dynamic || destination.is_outside()) && worker.view.snapshot().settings.entries;
    let named = match tls.filter(|_| by_name) {
        Some(name) => connections::of_server_name(name, address, worker).await,
        None => None,
    };
    explain::connection(tls, address, named.as_ref().unwrap_or(&destination), worker).await
}
