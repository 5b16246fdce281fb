//! The proxy's side of the stream.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::RELEASED;
use super::update::{Body, Changed, Rejected, Rejection, Update};
use crate::Kind;
use crate::envoy::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Status};

/// What is known of a subscription.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Asked, or to be asked as soon as there is a stream.
    Waiting,
    /// It has been answered: the store holds all there is.
    Present,
    /// It has been answered: there is no such thing, yet.
    Absent,
}

/// What the client wants, what it holds, and what it has to say next.
///
/// ```text
/// connected() ─► next_request()… ─► send        receive(response) ─► store ─► applied(receipt) ─► next_request() = ack
/// ```
///
/// A broken stream is told by [`Client::disconnected`]; nothing that is known is lost by it.
#[derive(Debug)]
pub struct Client {
    node: Node,
    connected: bool,
    node_sent: bool,
    kinds: [Subscriptions; Kind::ALL.len()],
}

/// One kind's state.
#[derive(Debug, Default)]
struct Subscriptions {
    wanted: HashMap<Box<str>, Answer>,
    /// Versions of resources that the store holds.
    held: HashMap<Box<str>, Box<str>>,
    /// The first request of this kind went out on this stream.
    opened: bool,
    /// What the server takes as subscribed on this stream.
    asked: HashSet<Box<str>>,
    /// To be asked for in the next request.
    subscribe: BTreeSet<Box<str>>,
    /// To be given up in the next request.
    unsubscribe: BTreeSet<Box<str>>,
    /// Given up on this stream and not confirmed yet.
    leaving: HashSet<Box<str>>,
    acknowledgements: Vec<(String, Option<Status>)>,
}

/// A response that the store is to apply; hand it back to [`Client::applied`].
#[derive(Debug)]
#[must_use = "a response that is not acknowledged stops the stream"]
pub struct Receipt {
    kind: Kind,
    nonce: String,
    versions: Vec<(String, String)>,
    answered: Vec<(String, Answer)>,
    removed: Vec<String>,
    released: Vec<String>,
    malformed: Vec<Rejection>,
}

impl Client {
    /// A client that wants nothing yet. `id` is the text of a [`crate::name::Node`].
    pub fn new(id: String, cluster: String) -> Self {
        Client { node: Node { id, cluster }, connected: false, node_sent: false, kinds: Default::default() }
    }

    /// Wants a name, and says what is known of it so far.
    pub fn subscribe(&mut self, kind: Kind, name: &str) -> Answer {
        let state = &mut self.kinds[kind as usize];
        if let Some(answer) = state.wanted.get(name) {
            return *answer;
        }
        state.wanted.insert(name.into(), Answer::Waiting);
        if state.opened && !state.leaving.contains(name) {
            // Also where the server was not told yet that it was given up: it is asked for its answer.
            state.unsubscribe.remove(name);
            state.subscribe.insert(name.into());
        }
        Answer::Waiting
    }

    /// No longer wants a name. What is held under it goes when the server confirms.
    pub fn unsubscribe(&mut self, kind: Kind, name: &str) {
        let state = &mut self.kinds[kind as usize];
        if state.wanted.remove(name).is_none() {
            return;
        }
        state.subscribe.remove(name);
        if state.asked.contains(name) {
            state.unsubscribe.insert(name.into());
        }
    }

    /// What is known of a name; `None` if it is not subscribed to.
    pub fn answer(&self, kind: Kind, name: &str) -> Option<Answer> {
        self.kinds[kind as usize].wanted.get(name).copied()
    }

    /// How many names of a kind are wanted.
    pub fn wanted(&self, kind: Kind) -> usize {
        self.kinds[kind as usize].wanted.len()
    }

    /// A new stream is open: everything wanted is asked for, with the versions held.
    pub fn connected(&mut self) {
        self.connected = true;
        self.node_sent = false;
        for state in &mut self.kinds {
            state.reset();
        }
    }

    /// The stream broke. Answers and versions stay.
    pub fn disconnected(&mut self) {
        self.connected = false;
        for state in &mut self.kinds {
            state.reset();
        }
    }

    /// Whether [`Client::next_request`] has something.
    pub fn has_request(&self) -> bool {
        self.connected && self.kinds.iter().any(Subscriptions::has_request)
    }

    /// What to send next; `None` when there is nothing to say.
    pub fn next_request(&mut self) -> Option<DeltaDiscoveryRequest> {
        if !self.connected {
            return None;
        }
        let kind = Kind::ALL.into_iter().find(|kind| self.kinds[*kind as usize].has_request())?;
        let state = &mut self.kinds[kind as usize];
        let mut request = DeltaDiscoveryRequest { type_url: kind.url().into(), ..Default::default() };
        if !self.node_sent {
            self.node_sent = true;
            request.node = Some(self.node.clone());
        }
        if !state.opened {
            state.opened = true;
            state.subscribe.clear();
            state.asked = state.wanted.keys().cloned().collect();
            request.resource_names_subscribe = state.wanted.keys().map(|name| name.to_string()).collect();
            request.resource_names_subscribe.sort_unstable();
            request.initial_resource_versions =
                state.held.iter().map(|(name, version)| (name.to_string(), version.to_string())).collect();
            return Some(request);
        }
        if !state.acknowledgements.is_empty() {
            let (nonce, error) = state.acknowledgements.remove(0);
            request.response_nonce = nonce;
            request.error_detail = error;
        }
        request.resource_names_subscribe = take(&mut state.subscribe);
        request.resource_names_unsubscribe = take(&mut state.unsubscribe);
        state.asked.extend(request.resource_names_subscribe.iter().map(|name| name.as_str().into()));
        for name in &request.resource_names_unsubscribe {
            state.asked.remove(name.as_str());
            state.leaving.insert(name.as_str().into());
        }
        Some(request)
    }

    /// Reads a response. The update goes to the store, the receipt to [`Client::applied`]. `None` for a type that this
    /// client does not know: it is left unanswered.
    pub fn receive(&mut self, response: DeltaDiscoveryResponse) -> Option<(Update, Receipt)> {
        let kind = Kind::of_url(&response.type_url)?;
        let mut update = Update { kind, changed: Vec::new(), removed: response.removed_resources };
        let mut receipt = Receipt {
            kind,
            nonce: response.nonce,
            versions: Vec::with_capacity(response.resources.len()),
            answered: Vec::new(),
            removed: update.removed.clone(),
            released: Vec::new(),
            malformed: Vec::new(),
        };
        for resource in response.resources {
            let Some(any) = resource.resource else {
                match resource.version == RELEASED {
                    true => receipt.released.push(resource.name),
                    false => receipt.answered.push((resource.name, Answer::Present)),
                }
                continue;
            };
            receipt.answered.push((resource.name.clone(), Answer::Present));
            receipt.answered.extend(resource.aliases.iter().map(|alias| (alias.clone(), Answer::Present)));
            match Body::decode(kind, &any.type_url, any.value) {
                Ok(body) => {
                    receipt.versions.push((resource.name.clone(), resource.version));
                    update.changed.push(Changed { name: resource.name, aliases: resource.aliases, body });
                }
                Err(error) => {
                    receipt.malformed.push(Rejection { name: resource.name, reason: error.to_string() });
                }
            }
        }
        receipt.answered.extend(update.removed.iter().map(|name| (name.clone(), Answer::Absent)));
        Some((update, receipt))
    }

    /// The store has applied the update, or all of it but some. Queues the acknowledgement, and returns the
    /// subscriptions whose answer is news.
    pub fn applied(&mut self, receipt: Receipt, result: Result<(), Rejected>) -> Vec<(Box<str>, Answer)> {
        let state = &mut self.kinds[receipt.kind as usize];
        let mut rejected = result.err().unwrap_or_default().0;
        for name in &receipt.removed {
            state.held.remove(name.as_str());
        }
        for (name, version) in receipt.versions {
            if !rejected.iter().any(|rejection| rejection.name == name) {
                state.held.insert(name.into(), version.into());
            }
        }
        rejected.extend(receipt.malformed);
        let error = (!rejected.is_empty()).then(|| Status { code: INVALID_ARGUMENT, message: summary(&rejected) });
        if self.connected && state.opened {
            state.acknowledgements.push((receipt.nonce, error));
        }
        let mut news = Vec::new();
        for (name, answer) in receipt.answered {
            if state.leaving.contains(name.as_str()) {
                continue;
            }
            if let Some(known) = state.wanted.get_mut(name.as_str())
                && *known != answer
            {
                *known = answer;
                news.push((name.into(), answer));
            }
        }
        for name in receipt.released {
            if state.leaving.remove(name.as_str()) && state.wanted.contains_key(name.as_str()) {
                state.subscribe.insert(name.into());
            }
        }
        news
    }
}

impl Subscriptions {
    fn reset(&mut self) {
        self.opened = false;
        self.asked.clear();
        self.subscribe.clear();
        self.unsubscribe.clear();
        self.leaving.clear();
        self.acknowledgements.clear();
    }

    fn has_request(&self) -> bool {
        if !self.opened {
            // What is held and no longer wanted is told as well, to be removed.
            return !self.wanted.is_empty() || !self.held.is_empty();
        }
        !self.acknowledgements.is_empty() || !self.subscribe.is_empty() || !self.unsubscribe.is_empty()
    }
}

/// google.rpc.Code.INVALID_ARGUMENT.
const INVALID_ARGUMENT: i32 = 3;

fn take(names: &mut BTreeSet<Box<str>>) -> Vec<String> {
    std::mem::take(names).into_iter().map(String::from).collect()
}

/// At most a kilobyte or so of what was rejected, for the controller's log.
fn summary(rejected: &[Rejection]) -> String {
    let mut first: BTreeMap<&str, &str> = BTreeMap::new();
    for rejection in rejected.iter().take(4) {
        first.insert(&rejection.name, &rejection.reason);
    }
    let mut text = first.iter().map(|(name, reason)| format!("{name}: {reason}")).collect::<Vec<_>>().join("; ");
    if rejected.len() > first.len() {
        text.push_str(&format!("; and {} more", rejected.len() - first.len()));
    }
    text.chars().take(1000).collect()
}
