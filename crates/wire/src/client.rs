//! The proxy's discovery client: one stream to the controller, its subscriptions, and the tasks that wait for answers.
//!
//! [`discovery`] returns a [`Subscriber`], a cheap handle for any thread, and a [`Discovery`], which runs on the
//! control thread. Decoded resources go to a [`Store`], from which the rest of the proxy reads them: a waiter receives
//! the [`Outcome`] of its name, and then reads the store.
//!
//! ```text
//! data path: subscriber.demand(kind, name, within) ─► waits ─► Outcome ─► reads the store
//!                                │                      ▲
//! control:        subscription (one per name) ─► stream ─► Store::apply
//! ```
//!
//! After an error, the client opens a new stream with backoff, and declares the versions of the resources that it
//! holds. The store keeps its resources meanwhile.

use std::future::Future;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, oneshot, watch};
use tonic::transport::{Channel, Endpoint};

use crate::Kind;
use crate::delta::{Rejected, Update};
use crate::discovery::ProxyReport;
use crate::name::Node;

mod drive;
mod waiters;

pub use drive::Discovery;

/// The destination of decoded resources.
pub trait Store {
    /// Applies an update, except for the resources that the error names. Of a rejected resource, the store keeps the
    /// content that it last accepted.
    fn apply(&mut self, update: Update) -> Result<(), Rejected>;
}

/// Durations and limits of the client. The defaults are for production.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The wait before the first new attempt after the stream was lost. It doubles with each further attempt.
    pub backoff_min: Duration,
    /// The longest wait between two attempts.
    pub backoff_max: Duration,
    /// The time limit for connecting and opening the stream together.
    pub open_timeout: Duration,
    /// How long the client stays subscribed to a demanded name since the last demand, once no task waits for it and
    /// while it is absent or unanswered.
    pub absent_ttl: Duration,
    /// The largest number of demanded names, besides the pinned ones. The outcome of a demand for a further name is
    /// [`Outcome::Unanswered`] at once.
    pub max_demanded: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            backoff_min: Duration::from_millis(10),
            backoff_max: Duration::from_secs(15),
            open_timeout: Duration::from_secs(10),
            absent_ttl: Duration::from_secs(5),
            max_demanded: 20_000,
        }
    }
}

/// The outcome of a demand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The store holds all resources of the name.
    Present,
    /// No resource of the name exists. The subscription stays for [`Settings::absent_ttl`].
    Absent,
    /// The controller did not answer within the time limit, or the limit of demanded names is reached.
    Unanswered,
}

/// The state of the stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Link {
    /// The first stream is not open yet.
    Connecting,
    /// The stream is open.
    Connected {
        /// When it was opened.
        since: SystemTime,
    },
    /// The stream was lost, and the client is opening a new one.
    Lost {
        /// When it was lost.
        since: SystemTime,
        /// Why the stream or the last attempt failed.
        error: String,
    },
}

/// A command from a [`Subscriber`] to the [`Discovery`].
#[derive(Debug)]
enum Command {
    Subscribe(Kind, Box<str>),
    Unsubscribe(Kind, Box<str>),
    Demand(Kind, Box<str>, oneshot::Sender<Outcome>),
    Report(ProxyReport),
    Reconnect,
}

/// A handle that subscribes to names. Clones share one stream.
#[derive(Clone, Debug)]
pub struct Subscriber {
    commands: mpsc::UnboundedSender<Command>,
    link: watch::Receiver<Link>,
}

impl Subscriber {
    /// Subscribes to a name and pins the subscription: it stays until [`Subscriber::unsubscribe`].
    pub fn subscribe(&self, kind: Kind, name: impl Into<Box<str>>) {
        // Sending fails once the discovery has stopped. The resources in the store stay valid.
        let _ = self.commands.send(Command::Subscribe(kind, name.into()));
    }

    /// Unsubscribes from a name, whether pinned or demanded. The store removes the resources when the controller
    /// confirms.
    pub fn unsubscribe(&self, kind: Kind, name: impl Into<Box<str>>) {
        let _ = self.commands.send(Command::Unsubscribe(kind, name.into()));
    }

    /// Waits for the answer to a name, at most for `within`. Subscribes to the name if there is no subscription yet:
    /// any number of tasks may wait for one subscription.
    pub async fn demand(&self, kind: Kind, name: impl Into<Box<str>>, within: Duration) -> Outcome {
        let (answer, answered) = oneshot::channel();
        if self.commands.send(Command::Demand(kind, name.into(), answer)).is_err() {
            return Outcome::Unanswered;
        }
        match tokio::time::timeout(within, answered).await {
            Ok(Ok(outcome)) => outcome,
            _ => Outcome::Unanswered,
        }
    }

    /// Reports what the proxy does, in place of its last report.
    pub fn report(&self, report: ProxyReport) {
        let _ = self.commands.send(Command::Report(report));
    }

    /// Opens a new stream, for example with a new certificate. Subscriptions and resources stay.
    pub fn reconnect(&self) {
        let _ = self.commands.send(Command::Reconnect);
    }

    /// Returns a receiver of the stream's state and its changes.
    pub fn link(&self) -> watch::Receiver<Link> {
        self.link.clone()
    }
}

/// Creates a discovery client for a node. It starts with [`Discovery::run`].
///
/// The client calls `connect` for each attempt. `connect` returns a channel to the controller, and sets up TLS with the
/// workload's current certificate.
pub fn discovery<S, C, F, E>(node: &Node, store: S, connect: C, settings: Settings) -> (Subscriber, Discovery<S, C>)
where
    S: Store,
    C: FnMut() -> F,
    F: Future<Output = Result<Channel, E>> + Send + 'static,
    E: std::fmt::Display + Send + 'static,
{
    let (commands, inbox) = mpsc::unbounded_channel();
    let (link_sender, link) = watch::channel(Link::Connecting);
    (Subscriber { commands, link }, Discovery::new(node, store, connect, settings, inbox, link_sender))
}

/// Returns a gRPC endpoint for `uri` with keep-alive, because a stream may be idle for hours: a controller that
/// disappears without closing the connection is detected within 15 seconds.
pub fn endpoint(uri: &str) -> Result<Endpoint, tonic::transport::Error> {
    Ok(Endpoint::from_shared(uri.to_owned())?
        .connect_timeout(Duration::from_secs(5))
        .tcp_nodelay(true)
        .tcp_keepalive(Some(Duration::from_secs(30)))
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true))
}
