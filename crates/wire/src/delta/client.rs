//! The proxy's end of the stream: its subscriptions, and the versions of the resources that it holds.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::RELEASED;
use super::update::{Body, Changed, Rejected, Rejection, Update};
use crate::Kind;
use crate::discovery::ProxyReport;
use crate::envoy::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Status};

/// The state of a subscription.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The server has not answered yet.
    Waiting,
    /// The server answered: the store holds all resources of this name.
    Present,
    /// The server answered: no resource of this name exists yet.
    Absent,
}

/// The state of the proxy's end: subscriptions, versions of held resources, and the requests to send.
///
/// ```text
/// connected() ─► next_request()… ─► send
/// receive(response) ─► store ─► applied(receipt) ─► next_request(): the acknowledgement
/// ```
///
/// Subscriptions, answers and versions outlive a stream; see [`Client::disconnected`].
#[derive(Debug)]
pub struct Client {
    node: Node,
    connected: bool,
    node_sent: bool,
    /// The newest report, and whether it was sent on this stream.
    report: Option<(ProxyReport, bool)>,
    kinds: [Subscriptions; Kind::ALL.len()],
}

/// The state of one resource type.
#[derive(Debug, Default)]
struct Subscriptions {
    /// Subscriptions, on this stream or on the next.
    answers: HashMap<Box<str>, Answer>,
    /// Versions of resources that the store holds.
    held: HashMap<Box<str>, Box<str>>,
    /// The first request of this type was sent on this stream.
    opened: bool,
    /// Names that requests on this stream subscribed to.
    subscribed: HashSet<Box<str>>,
    /// Names that the next request subscribes to.
    subscribe: BTreeSet<Box<str>>,
    /// Names that the next request unsubscribes from.
    unsubscribe: BTreeSet<Box<str>>,
    /// Unsubscriptions on this stream that the server has not confirmed.
    unconfirmed: HashSet<Box<str>>,
    /// Nonces to acknowledge, or to reject with an error.
    acknowledgements: Vec<(String, Option<Status>)>,
}

/// The client's part of a response. Pass it to [`Client::applied`] once the store has applied the update.
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
    /// Creates a client without subscriptions. `id` is the text form of a [`crate::name::Node`].
    pub fn new(id: String, cluster: String) -> Self {
        Client {
            node: Node { id, cluster },
            connected: false,
            node_sent: false,
            report: None,
            kinds: Default::default(),
        }
    }

    /// Subscribes to a name, and returns the state of the subscription.
    pub fn subscribe(&mut self, kind: Kind, name: &str) -> Answer {
        let state = &mut self.kinds[kind as usize];
        if let Some(answer) = state.answers.get(name) {
            return *answer;
        }
        state.answers.insert(name.into(), Answer::Waiting);
        if state.opened && !state.unconfirmed.contains(name) {
            // An unsubscription that was not sent yet is dropped. The server answers the new subscription.
            state.unsubscribe.remove(name);
            state.subscribe.insert(name.into());
        }
        Answer::Waiting
    }

    /// Unsubscribes from a name. The response that confirms it removes the resources that no other subscription
    /// matches.
    pub fn unsubscribe(&mut self, kind: Kind, name: &str) {
        let state = &mut self.kinds[kind as usize];
        if state.answers.remove(name).is_none() {
            return;
        }
        state.subscribe.remove(name);
        if state.subscribed.contains(name) {
            state.unsubscribe.insert(name.into());
        }
    }

    /// Returns the state of a subscription; `None` if the client is not subscribed to the name.
    pub fn answer(&self, kind: Kind, name: &str) -> Option<Answer> {
        self.kinds[kind as usize].answers.get(name).copied()
    }

    /// Returns the number of subscriptions of a resource type.
    pub fn wanted(&self, kind: Kind) -> usize {
        self.kinds[kind as usize].answers.len()
    }

    /// Reports what the proxy does, in place of the last report. The next request carries it, and one on each new stream.
    pub fn report(&mut self, report: ProxyReport) {
        self.report = Some((report, false));
    }

    /// Starts a new stream: the next requests carry all subscriptions, the versions of all held resources, and the report.
    pub fn connected(&mut self) {
        self.connected = true;
        self.node_sent = false;
        if let Some((_, sent)) = &mut self.report {
            *sent = false;
        }
        for state in &mut self.kinds {
            state.reset();
        }
    }

    /// Ends the stream. Subscriptions, answers and versions stay.
    pub fn disconnected(&mut self) {
        self.connected = false;
        for state in &mut self.kinds {
            state.reset();
        }
    }

    /// Reports whether [`Client::next_request`] returns a request.
    pub fn has_request(&self) -> bool {
        self.connected && (self.kinds.iter().any(Subscriptions::has_request) || self.reported_by().is_some())
    }

    /// Returns the type by whose request a report is sent that is due: one that was opened, so that the request changes
    /// nothing else.
    fn reported_by(&self) -> Option<Kind> {
        self.report.as_ref().filter(|(_, sent)| !sent)?;
        Kind::ALL.into_iter().find(|kind| self.kinds[*kind as usize].opened)
    }

    /// Returns the next request to send; `None` if there is none or no stream is open.
    pub fn next_request(&mut self) -> Option<DeltaDiscoveryRequest> {
        if !self.connected {
            return None;
        }
        let requested = Kind::ALL.into_iter().find(|kind| self.kinds[*kind as usize].has_request());
        let kind = requested.or_else(|| self.reported_by())?;
        let state = &mut self.kinds[kind as usize];
        let mut request = DeltaDiscoveryRequest { type_url: kind.url().into(), ..Default::default() };
        if requested.is_none() {
            request.report = self.report.as_mut().map(|(report, sent)| {
                *sent = true;
                report.clone()
            });
            return Some(request);
        }
        if !self.node_sent {
            self.node_sent = true;
            request.node = Some(self.node.clone());
        }
        if !state.opened {
            state.opened = true;
            state.subscribe.clear();
            state.subscribed = state.answers.keys().cloned().collect();
            request.resource_names_subscribe = state.answers.keys().map(|name| name.to_string()).collect();
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
        state.subscribed.extend(request.resource_names_subscribe.iter().map(|name| name.as_str().into()));
        for name in &request.resource_names_unsubscribe {
            state.subscribed.remove(name.as_str());
            state.unconfirmed.insert(name.as_str().into());
        }
        Some(request)
    }

    /// Decodes a response into an update for the store and a receipt for [`Client::applied`].
    ///
    /// Returns `None` for a type that this client does not know. Such a response is not acknowledged.
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

    /// Records that the store applied the update, except for the rejected resources. Queues the acknowledgement, and
    /// returns the subscriptions whose answer changed.
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
        let mut changed = Vec::new();
        for (name, answer) in receipt.answered {
            if state.unconfirmed.contains(name.as_str()) {
                continue;
            }
            if let Some(known) = state.answers.get_mut(name.as_str())
                && *known != answer
            {
                *known = answer;
                changed.push((name.into(), answer));
            }
        }
        for name in receipt.released {
            if state.unconfirmed.remove(name.as_str()) && state.answers.contains_key(name.as_str()) {
                state.subscribe.insert(name.into());
            }
        }
        changed
    }
}

impl Subscriptions {
    fn reset(&mut self) {
        self.opened = false;
        self.subscribed.clear();
        self.subscribe.clear();
        self.unsubscribe.clear();
        self.unconfirmed.clear();
        self.acknowledgements.clear();
    }

    fn has_request(&self) -> bool {
        if !self.opened {
            // The first request also carries held resources without a subscription, for the server to remove.
            return !self.answers.is_empty() || !self.held.is_empty();
        }
        !self.acknowledgements.is_empty() || !self.subscribe.is_empty() || !self.unsubscribe.is_empty()
    }
}

/// google.rpc.Code.INVALID_ARGUMENT.
const INVALID_ARGUMENT: i32 = 3;

fn take(names: &mut BTreeSet<Box<str>>) -> Vec<String> {
    std::mem::take(names).into_iter().map(String::from).collect()
}

/// Returns the first rejections in at most 1,000 characters, for the controller's log.
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
