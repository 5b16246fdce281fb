//! The client's driver: opens the stream, and passes messages between the stream, the state machine and the store.

use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;
use tracing::{debug, info, warn};

use super::waiters::Waiters;
use super::{Command, Link, Settings, Store};
use crate::Kind;
use crate::delta::Client;
use crate::envoy::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use crate::envoy::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use crate::name::Node;

/// The largest response that the client accepts, in bytes: the first answer to a collection of 100,000 endpoints.
const MAX_RESPONSE: usize = 64 << 20;

/// The number of requests queued for sending. It is small, so that one request collects the subscriptions that are made
/// while earlier requests are queued.
const REQUESTS_AHEAD: usize = 4;

/// How often subscriptions to demanded names are checked for expiry.
const SWEEP: Duration = Duration::from_secs(1);

/// The driver of a discovery client, created by [`super::discovery`].
#[derive(Debug)]
pub struct Discovery<S, C> {
    client: Client,
    store: S,
    connect: C,
    settings: Settings,
    waiters: Waiters,
    /// Names subscribed to by [`super::Subscriber::subscribe`].
    pinned: HashSet<(Kind, Box<str>)>,
    commands: mpsc::UnboundedReceiver<Command>,
    link: watch::Sender<Link>,
    /// Failures since the last response.
    failures: u32,
}

/// The state of the connection.
enum Stream {
    /// Failed; waits for the backoff to end.
    Waiting(Pin<Box<tokio::time::Sleep>>),
    /// Waits for the connection and for the controller to accept the stream.
    Opening(Opening),
    /// Waits for responses, and for room to send requests.
    Open { requests: mpsc::Sender<DeltaDiscoveryRequest>, responses: Box<Streaming<DeltaDiscoveryResponse>> },
}

type Opened = (mpsc::Sender<DeltaDiscoveryRequest>, Box<Streaming<DeltaDiscoveryResponse>>);
type Opening = Pin<Box<dyn Future<Output = Result<Opened, String>> + Send>>;

/// An event of the connection.
enum Step {
    /// The backoff ended.
    Retry,
    Opened(Opened),
    Failed(String),
    Received(Box<DeltaDiscoveryResponse>),
    /// The queue has room for a request.
    Ready,
}

impl<S, C, F, E> Discovery<S, C>
where
    S: Store,
    C: FnMut() -> F,
    F: Future<Output = Result<Channel, E>> + Send + 'static,
    E: std::fmt::Display + Send + 'static,
{
    pub(super) fn new(
        node: &Node,
        store: S,
        connect: C,
        settings: Settings,
        commands: mpsc::UnboundedReceiver<Command>,
        link: watch::Sender<Link>,
    ) -> Self {
        Discovery {
            client: Client::new(node.to_string(), node.cluster.clone()),
            store,
            connect,
            settings,
            waiters: Waiters::default(),
            pinned: HashSet::new(),
            commands,
            link,
            failures: 0,
        }
    }

    /// Runs the client until every [`super::Subscriber`] is dropped.
    pub async fn run(mut self) {
        let mut stream = Stream::Opening(self.open());
        let mut sweep = tokio::time::interval(SWEEP);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let has_request = self.client.has_request();
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(Command::Reconnect) => {
                        self.client.disconnected();
                        stream = Stream::Opening(self.open());
                    }
                    Some(command) => self.command(command),
                    None => return,
                },
                step = stream.step(has_request) => stream = self.advance(stream, step),
                _ = sweep.tick() => {
                    let pinned = |kind, name: &str| self.pinned.contains(&(kind, name.into()));
                    self.waiters.sweep(&mut self.client, pinned, self.settings.absent_ttl, Instant::now());
                }
            }
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Subscribe(kind, name) => {
                self.client.subscribe(kind, &name);
                self.pinned.insert((kind, name));
            }
            Command::Unsubscribe(kind, name) => {
                self.client.unsubscribe(kind, &name);
                self.waiters.forget(kind, name.clone());
                self.pinned.remove(&(kind, name));
            }
            Command::Demand(kind, name, waiter) => {
                self.waiters.demand(&mut self.client, kind, name, waiter, self.settings.max_demanded, Instant::now());
            }
            Command::Report(report) => self.client.report(report),
            Command::Reconnect => {}
        }
    }

    /// Handles an event, and returns the next state of the connection.
    fn advance(&mut self, mut stream: Stream, step: Step) -> Stream {
        match step {
            Step::Retry => Stream::Opening(self.open()),
            Step::Opened((requests, responses)) => {
                info!("discovery stream open");
                self.client.connected();
                self.link.send_replace(Link::Connected { since: SystemTime::now() });
                Stream::Open { requests, responses }
            }
            Step::Failed(error) => self.failed(error),
            Step::Received(response) => {
                self.failures = 0;
                self.received(*response);
                stream
            }
            Step::Ready => {
                if let Stream::Open { requests, .. } = &mut stream
                    && let Some(request) = self.client.next_request()
                {
                    // The queue has room: `Step::Ready` reports it, and this is the only sender. A closed channel is
                    // reported as `Step::Failed`.
                    let _ = requests.try_send(request);
                }
                stream
            }
        }
    }

    fn received(&mut self, response: DeltaDiscoveryResponse) {
        let Some((update, receipt)) = self.client.receive(response) else {
            return;
        };
        let kind = update.kind;
        debug!(%kind, changed = update.changed.len(), removed = update.removed.len(), "discovery response");
        let result = self.store.apply(update);
        if let Err(rejected) = &result {
            warn!(%kind, %rejected, "update rejected; the last accepted resources stay in use");
        }
        for (name, answer) in self.client.applied(receipt, result) {
            self.waiters.answered(kind, name, answer);
        }
    }

    fn failed(&mut self, error: String) -> Stream {
        self.client.disconnected();
        let wait = backoff(&self.settings, self.failures);
        self.failures = self.failures.saturating_add(1);
        // Only the first failure after a response is logged at the info level.
        match self.failures {
            1 => info!(error, "discovery stream lost; the last accepted resources stay in use"),
            failures => debug!(error, failures, ?wait, "discovery stream not opened"),
        }
        self.link.send_modify(|link| {
            let since = match link {
                Link::Lost { since, .. } => *since,
                _ => SystemTime::now(),
            };
            *link = Link::Lost { since, error };
        });
        Stream::Waiting(Box::pin(tokio::time::sleep(wait)))
    }

    fn open(&mut self) -> Opening {
        let connecting = (self.connect)();
        let timeout = self.settings.open_timeout;
        Box::pin(async move {
            let opening = async {
                let channel = connecting.await.map_err(|error| error.to_string())?;
                let (requests, outbox) = mpsc::channel(REQUESTS_AHEAD);
                let mut service =
                    AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_RESPONSE);
                let responses = service.delta_aggregated_resources(ReceiverStream::new(outbox)).await;
                Ok((requests, Box::new(responses.map_err(describe)?.into_inner())))
            };
            match tokio::time::timeout(timeout, opening).await {
                Ok(opened) => opened,
                Err(_) => Err(format!("no discovery stream within {timeout:?}")),
            }
        })
    }
}

impl Stream {
    /// Waits for the next event. Dropping the future loses no message.
    async fn step(&mut self, has_request: bool) -> Step {
        match self {
            Stream::Waiting(sleep) => {
                sleep.as_mut().await;
                Step::Retry
            }
            Stream::Opening(opening) => match opening.as_mut().await {
                Ok(opened) => Step::Opened(opened),
                Err(error) => Step::Failed(error),
            },
            Stream::Open { requests, responses } => tokio::select! {
                room = requests.reserve(), if has_request => match room {
                    Ok(_) => Step::Ready,
                    Err(_) => Step::Failed("the stream was closed".into()),
                },
                response = responses.message() => match response {
                    Ok(Some(response)) => Step::Received(Box::new(response)),
                    Ok(None) => Step::Failed("the controller closed the stream".into()),
                    Err(status) => Step::Failed(describe(status)),
                },
            },
        }
    }
}

/// Returns the text of a status with its causes, which `Display` omits.
fn describe(status: tonic::Status) -> String {
    let mut text = format!("{}: {}", status.code(), status.message());
    let mut cause = std::error::Error::source(&status);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text.chars().take(500).collect()
}

/// Returns the wait before attempt `failures + 1`. It doubles each time, and is reduced by up to half at random, so
/// that proxies do not reconnect all at once.
fn backoff(settings: &Settings, failures: u32) -> Duration {
    let full = settings.backoff_min.saturating_mul(1 << failures.min(20)).min(settings.backoff_max);
    full.mul_f64(rand::random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_the_maximum() {
        let settings = Settings::default();
        for (failures, full_ms) in [(0, 10), (1, 20), (5, 320), (10, 10_240), (11, 15_000), (1000, 15_000)] {
            let wait = backoff(&settings, failures).as_millis();
            assert!((full_ms / 2..=full_ms).contains(&wait), "{failures}: {wait}");
        }
    }
}
