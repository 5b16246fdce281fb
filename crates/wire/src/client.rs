//! The proxy's connection to its controller: one stream, kept up, and what waits for its answers.
//!
//! [`discovery`] gives a [`Subscriber`] (a cheap handle that any thread may hold) and a [`Discovery`] to be run on the
//! control thread. Decoded resources go to a [`Store`], which is the only place that the rest of the proxy reads: a waiter
//! is told that its name was answered, and then looks into the store.
//!
//! ```text
//! data path: subscriber.demand(kind, name, within) ─► waits ─► Answered ─► reads the store
//!                                │                      ▲
//! control:        subscription (one per name) ─► stream ─► Store::apply
//! ```
//!
//! The stream is opened again with back-off after any error, with the versions that are held, and nothing that is known is
//! given up meanwhile.

use std::future::Future;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, oneshot, watch};
use tonic::transport::{Channel, Endpoint};

use crate::Kind;
use crate::delta::{Rejected, Update};
use crate::name::Node;

mod drive;
mod waiters;

pub use drive::Discovery;

/// Where decoded resources go.
pub trait Store {
    /// Applies an update, all of it but what is named in the error. What is rejected stays as it was before.
    fn apply(&mut self, update: Update) -> Result<(), Rejected>;
}

/// How often and how long; the defaults are for production.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The wait before the first new attempt after a stream broke. Doubled for each further one.
    pub backoff_min: Duration,
    /// The longest wait between attempts.
    pub backoff_max: Duration,
    /// How long a connection and the opening of its stream may take together.
    pub open_timeout: Duration,
    /// How long "there is no such thing" is kept for a name that nobody asks for, and how long a name is asked for of
    /// which every waiter has gone.
    pub absent_ttl: Duration,
    /// How many names may be demanded at once beyond those subscribed to for good. More are answered
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

/// What became of a demand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The store holds what there is under that name.
    Present,
    /// There is nothing under that name. It stays subscribed to for a few seconds.
    Absent,
    /// No answer within the time given: the controller is not reachable, or slow.
    Unanswered,
}

/// How the stream is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Link {
    /// It never was open yet.
    Connecting,
    /// It is open.
    Connected {
        /// Since when.
        since: SystemTime,
    },
    /// It broke and is being opened again.
    Lost {
        /// Since when.
        since: SystemTime,
        /// Why the last attempt failed.
        error: String,
    },
}

/// What a [`Subscriber`] tells a [`Discovery`].
#[derive(Debug)]
enum Command {
    Subscribe(Kind, Box<str>),
    Unsubscribe(Kind, Box<str>),
    Demand(Kind, Box<str>, oneshot::Sender<Outcome>),
    Reconnect,
}

/// Says what is wanted. Clones share one stream.
#[derive(Clone, Debug)]
pub struct Subscriber {
    commands: mpsc::UnboundedSender<Command>,
    link: watch::Receiver<Link>,
}

impl Subscriber {
    /// Wants a name until [`Subscriber::unsubscribe`].
    pub fn subscribe(&self, kind: Kind, name: impl Into<Box<str>>) {
        // A stopped discovery knows nothing new; what the store holds stays valid.
        let _ = self.commands.send(Command::Subscribe(kind, name.into()));
    }

    /// No longer wants a name; the store is told when the controller confirms. For names that were demanded and have
    /// not been used for a while, too.
    pub fn unsubscribe(&self, kind: Kind, name: impl Into<Box<str>>) {
        let _ = self.commands.send(Command::Unsubscribe(kind, name.into()));
    }

    /// Subscribes to a name if it is not subscribed to, and waits until it has been answered, at most `within`.
    /// Any number may wait for the same name; the controller is asked once.
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

    /// Opens a new stream, as after new credentials. What is known stays.
    pub fn reconnect(&self) {
        let _ = self.commands.send(Command::Reconnect);
    }

    /// How the stream is, now and when it changes.
    pub fn link(&self) -> watch::Receiver<Link> {
        self.link.clone()
    }
}

/// A discovery client for this node. `connect` is called for each attempt and gives a channel to the controller; it is
/// where TLS and the workload's present certificate come in. Nothing happens until [`Discovery::run`].
pub fn discovery<S, C, F, E>(node: &Node, store: S, connect: C, settings: Settings) -> (Subscriber, Discovery<S, C>)
where
    S: Store,
    C: FnMut() -> F,
    F: Future<Output = Result<Channel, E>> + Send + 'static,
    E: std::fmt::Display + Send + 'static,
{
    let (commands, inbox) = mpsc::unbounded_channel();
    let (told, link) = watch::channel(Link::Connecting);
    (Subscriber { commands, link }, Discovery::new(node, store, connect, settings, inbox, told))
}

/// An endpoint for `uri` with the keep-alive that a stream needs that may be silent for hours: a controller that is gone
/// without a word is noticed within 15 seconds.
pub fn endpoint(uri: &str) -> Result<Endpoint, tonic::transport::Error> {
    Ok(Endpoint::from_shared(uri.to_owned())?
        .connect_timeout(Duration::from_secs(5))
        .tcp_nodelay(true)
        .tcp_keepalive(Some(Duration::from_secs(30)))
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true))
}
