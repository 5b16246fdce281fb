//! Connecting to an endpoint of a route: one after the other, and in parallel if one does not answer.
//!
//! The ClientHello has not been forwarded, so any endpoint will do. A pod that vanished answers no SYN; the client's sidecar
//! must not give up before another pod was tried, so all attempts together take less time than it grants
//! ([`crate::worker::GatewayWorker::connect_budget`]; the table is in `docs/decisions/connect-budgets.md`).

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use balance::{Outcome, Pick};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::net::TcpStream;

use crate::refusal::Refusal;
use crate::routes::{PodTarget, Route};
use crate::worker::GatewayWorker;

/// How long to wait for an endpoint before the next one is tried in parallel. Endpoints are in the gateway's network: a
/// connection takes a few milliseconds, and six fit into the budget of the default connect timeout.
const HEDGE_DELAY: Duration = Duration::from_millis(100);
/// The TCP user timeout to endpoints: within one network, data that stays unacknowledged this long goes to a pod that vanished.
const USER_TIMEOUT: Duration = Duration::from_secs(10);

/// An endpoint that is being tried.
struct TriedPod {
    id: Arc<str>,
    pick: Option<Pick<PodTarget>>,
    since: Instant,
}

/// The endpoints that were tried for a connection.
struct TriedPods(Vec<TriedPod>);

/// Connects to an endpoint of the route, within the worker's budget. `trying` receives each address that is tried.
///
/// # Errors
/// Returns an error if there is no endpoint or none accepts a connection in time.
pub(crate) async fn connect(
    route: &Route,
    worker: &GatewayWorker,
    mut trying: impl FnMut(std::net::SocketAddr),
) -> Result<(Pick<PodTarget>, TcpStream), Refusal> {
    let budget = worker.connect_budget();
    let options = net::Connect { timeout: budget, user_timeout: Some(USER_TIMEOUT), ..net::Connect::default() };
    let deadline = tokio::time::sleep(budget);
    tokio::pin!(deadline);
    let (mut tried_pods, mut running) = (TriedPods(Vec::new()), FuturesUnordered::new());
    let mut last = None;
    let mut exhausted = false;
    loop {
        if !exhausted {
            match tried_pods.next(route, worker) {
                Some((number, address)) => {
                    trying(address);
                    running.push(async move { (number, address, net::connect(address, &options).await) });
                }
                None => exhausted = true,
            }
        }
        if running.is_empty() {
            let attempts = tried_pods.0.len();
            return Err(last.map_or(Refusal::NoEndpoint, |last| Refusal::Connect { attempts, last }));
        }
        tokio::select! {
            biased;
            Some((number, address, connected)) = running.next() => match connected {
                Ok(upstream) => {
                    trying(address);
                    return Ok((tried_pods.won(number), upstream));
                }
                Err(error) => {
                    tracing::debug!(endpoint = %address, %error, "cannot connect to the endpoint");
                    tried_pods.failed(number);
                    last = Some(error);
                }
            },
            () = &mut deadline => {
                let attempts = tried_pods.0.len();
                tried_pods.all_failed();
                return Err(Refusal::Connect { attempts, last: io::ErrorKind::TimedOut.into() });
            }
            () = tokio::time::sleep(HEDGE_DELAY), if !exhausted => {}
        }
    }
}

impl TriedPods {
    /// Picks the next endpoint, and returns its number and address.
    fn next(&mut self, route: &Route, worker: &GatewayWorker) -> Option<(usize, std::net::SocketAddr)> {
        if self.0.len() >= worker.settings.attempts {
            return None;
        }
        let tried: Vec<Arc<str>> = self.0.iter().map(|pod| pod.id.clone()).collect();
        let pick = worker.pick(route, &tried)?;
        if !tried.is_empty() {
            worker.counts.retries.increment();
        }
        let address = pick.target.address;
        self.0.push(TriedPod { id: pick.id.clone(), pick: Some(pick), since: Instant::now() });
        Some((tried.len(), address))
    }

    fn failed(&mut self, number: usize) {
        if let Some(pick) = self.0[number].pick.take() {
            pick.report(Outcome::ConnectFailure, Instant::now());
        }
    }

    /// Reports the winner, and those that had more time than it needed as failed.
    fn won(mut self, number: usize) -> Pick<PodTarget> {
        let winner = self.0[number].pick.take().expect("an endpoint answers once");
        winner.report(Outcome::Success, Instant::now());
        for loser in self.0 {
            if let Some(pick) = loser.pick
                && loser.since.elapsed() >= HEDGE_DELAY
                && !pick.has_succeeded_since(loser.since)
            {
                pick.report(Outcome::ConnectFailure, Instant::now());
            }
        }
        winner
    }

    fn all_failed(&mut self) {
        (0..self.0.len()).for_each(|number| self.failed(number));
    }
}
