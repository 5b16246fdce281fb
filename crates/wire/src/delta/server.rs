//! The controller's end of the stream: the subscriptions of one proxy.
//!
//! For each resource type, the state machine keeps the proxy's subscriptions, the version of each resource that it
//! sent, and a cursor into the log of changes. Nothing is queued for a proxy that does not read: its cursor stays where
//! it is. When the proxy reads again, it receives the difference between the versions sent and the current ones.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::{MAX_NAME, RELEASED, WINDOW};
use crate::Kind;
use crate::envoy::{Any, DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};

/// An encoded resource, the same for every proxy that receives it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Item {
    /// The resource's name.
    pub name: Arc<str>,
    /// A hash of `body`; never 0.
    pub version: u64,
    /// The encoded message.
    pub body: Bytes,
    /// The other names that match the resource in subscriptions: addresses (which begin with `@`) and collections.
    pub keys: Box<[Arc<str>]>,
}

/// A resource in a [`Source`]. A stream compares names and versions often, and takes the body only to send it.
pub trait Found {
    /// Returns the resource's name. All streams share one allocation, and keep it for as long as the client holds the
    /// resource.
    fn name(&self) -> Arc<str>;
    /// Returns a hash of the body; never 0.
    fn version(&self) -> u64;
    /// Returns the encoded message.
    fn body(&self) -> Bytes;
    /// Reports whether `matches` returns true for any of the resource's other names. Stops at the first that does.
    fn any_key(&self, matches: impl FnMut(&str) -> bool) -> bool;
}

impl Found for &Item {
    fn name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    fn version(&self) -> u64 {
        self.version
    }

    fn body(&self) -> Bytes {
        self.body.clone()
    }

    fn any_key(&self, mut matches: impl FnMut(&str) -> bool) -> bool {
        self.keys.iter().any(|key| matches(key))
    }
}

/// The resources that one proxy may receive, and the log of their changes.
pub trait Source {
    /// A resource of this source.
    type Found<'a>: Found
    where
        Self: 'a;

    /// Returns the resource with this name.
    fn get(&self, kind: Kind, name: &str) -> Option<Self::Found<'_>>;
    /// Returns all resources that match a subscription to `name`: the resource of that name, and those that have the
    /// name among their keys.
    fn members(&self, kind: Kind, name: &str) -> impl Iterator<Item = Self::Found<'_>>;
    /// Reports whether any resource matches a subscription to `name`.
    fn answers(&self, kind: Kind, name: &str) -> bool {
        self.members(kind, name).next().is_some()
    }
    /// Returns the cursor at the end of the log of changes.
    fn end(&self, kind: Kind) -> u64;
    /// Returns the names of the resources that appeared, vanished or changed (in content, keys or audience) since a
    /// cursor; `None` if the log no longer reaches back to the cursor.
    fn changed(&self, kind: Kind, since: u64) -> Option<Vec<Arc<str>>>;
    /// Reports whether the absence of a resource, or of any resource for a subscription, is certain.
    ///
    /// While it is not, the client keeps the resources that it holds. When it becomes certain, [`Source::changed`] has
    /// to return `None` once.
    fn certain(&self, kind: Kind, name: &str) -> bool {
        let _ = (kind, name);
        true
    }
}

/// The state of one stream.
#[derive(Debug, Default)]
pub struct Server {
    kinds: [Stream; Kind::ALL.len()],
    nonce: u64,
    subscriptions: usize,
    /// The bytes of names that only this stream holds.
    names: usize,
    stats: Stats,
}

/// Counters of one stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Responses by resource type, in the order of [`Kind::ALL`].
    pub responses: [u64; Kind::ALL.len()],
    /// Resources sent with their body.
    pub resources: u64,
    /// Bytes of those bodies.
    pub bytes: u64,
    /// Responses that the client rejected.
    pub nacks: u64,
    /// Subscriptions to names that no resource can have.
    pub bad_names: u64,
}

/// The state of one resource type on a stream.
#[derive(Debug, Default)]
struct Stream {
    /// The first request was received.
    opened: bool,
    /// Subscriptions, and whether the last answer to each was that resources exist.
    subscribed: HashMap<Arc<str>, bool>,
    /// The number of subscriptions to addresses.
    addresses: usize,
    /// Versions of the resources that the client holds or that are on their way to it.
    sent: HashMap<Arc<str>, u64>,
    /// Subscriptions to answer with all their resources.
    fresh: BTreeSet<Arc<str>>,
    /// Subscriptions to answer with the resources that the client does not hold in their current version.
    resumed: BTreeSet<Arc<str>>,
    /// Unsubscriptions to confirm.
    released: Vec<Arc<str>>,
    cursor: u64,
    /// Whether to compare all sent versions with the source, instead of only the logged changes.
    resync: bool,
    /// Nonces of the unacknowledged responses, and when each was sent.
    in_flight: VecDeque<(u64, Instant)>,
}

/// The number of subscriptions above which a stream ends. No proxy needs as many, and each costs memory in the
/// controller.
pub const MAX_SUBSCRIPTIONS: usize = 200_000;

/// What a subscription takes besides its name, in bytes: an entry of a map and, until it is answered, of a set, with the
/// room that they grow into.
const SUBSCRIPTION: usize = 160;
/// What a resource that the client holds takes, in bytes. Its name is shared with the source.
const SENT: usize = 64;

/// Why the server ends a stream.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    /// The type URL is of no resource type.
    #[error("unknown resource type {0:?}")]
    Type(String),
    /// The stream has too many subscriptions.
    #[error("more than {MAX_SUBSCRIPTIONS} subscriptions or held resources on one stream")]
    TooMany,
}

impl Server {
    /// Applies a request. [`Server::next`] then returns the responses to it.
    pub fn receive(&mut self, request: DeltaDiscoveryRequest) -> Result<(), Refused> {
        let kind = Kind::of_url(&request.type_url)
            .ok_or_else(|| Refused::Type(request.type_url.chars().take(200).collect()))?;
        let stream = &mut self.kinds[kind as usize];
        if !request.response_nonce.is_empty() {
            stream.acknowledge(&request.response_nonce);
            self.stats.nacks += u64::from(request.error_detail.is_some());
        }
        let first = !std::mem::replace(&mut stream.opened, true);
        if first {
            if request.initial_resource_versions.len() > MAX_SUBSCRIPTIONS {
                return Err(Refused::TooMany);
            }
            for (name, version) in request.initial_resource_versions {
                self.names += name.len();
                // A version of another form becomes 0, which no resource has, so that the resource is sent.
                stream.sent.insert(name.into(), u64::from_str_radix(&version, 16).unwrap_or(0));
            }
            stream.resync = true;
        }
        for name in request.resource_names_unsubscribe {
            let name: Arc<str> = name.into();
            if stream.subscribed.remove(&name).is_some() {
                self.subscriptions -= 1;
                self.names -= name.len();
                stream.addresses -= usize::from(name.starts_with('@'));
                stream.fresh.remove(&name);
                stream.resumed.remove(&name);
            }
            stream.released.push(name);
        }
        for name in request.resource_names_subscribe {
            if name.len() > MAX_NAME || name.is_empty() || name == "*" || name.contains(char::is_control) {
                self.stats.bad_names += 1;
            }
            let name: Arc<str> = name.into();
            if stream.subscribed.insert(name.clone(), false).is_none() {
                self.subscriptions += 1;
                self.names += name.len();
                stream.addresses += usize::from(name.starts_with('@'));
            }
            match first {
                true => stream.resumed.insert(name),
                false => stream.fresh.insert(name),
            };
        }
        if self.subscriptions > MAX_SUBSCRIPTIONS || stream.released.len() > MAX_SUBSCRIPTIONS {
            return Err(Refused::TooMany);
        }
        Ok(())
    }

    /// Returns the next response to send; `None` if nothing changed for the client, or if its window is full.
    pub fn next(&mut self, source: &impl Source, now: Instant) -> Option<DeltaDiscoveryResponse> {
        for kind in Kind::ALL {
            let stream = &mut self.kinds[kind as usize];
            if !stream.opened || stream.in_flight.len() >= WINDOW {
                continue;
            }
            let Some(difference) = stream.difference(kind, source) else { continue };
            self.nonce += 1;
            stream.in_flight.push_back((self.nonce, now));
            self.stats.responses[kind as usize] += 1;
            for any in difference.resources.iter().filter_map(|resource| resource.resource.as_ref()) {
                self.stats.resources += 1;
                self.stats.bytes += any.value.len() as u64;
            }
            return Some(DeltaDiscoveryResponse {
                resources: difference.resources,
                type_url: kind.url().into(),
                nonce: self.nonce.to_string(),
                removed_resources: difference.removed.into_iter().collect(),
                ..Default::default()
            });
        }
        None
    }

    /// Returns when the oldest unacknowledged response was sent; `None` if the client acknowledged all responses.
    pub fn waiting_since(&self) -> Option<Instant> {
        self.kinds.iter().filter_map(|stream| stream.in_flight.front()).map(|(_, sent)| *sent).min()
    }

    /// Returns the number of subscriptions.
    pub fn subscriptions(&self) -> usize {
        self.subscriptions
    }

    /// Returns an estimate of the memory that the stream takes, in bytes.
    pub fn weight(&self) -> usize {
        let sent: usize = self.kinds.iter().map(|stream| stream.sent.len()).sum();
        let waiting: usize = self.kinds.iter().map(|stream| stream.released.len()).sum();
        self.names + (self.subscriptions + waiting) * SUBSCRIPTION + sent * SENT
    }

    /// Returns the subscribed names of a resource type, in no particular order.
    pub fn subscribed(&self, kind: Kind) -> impl Iterator<Item = &str> {
        self.kinds[kind as usize].subscribed.keys().map(|name| &**name)
    }

    /// Returns the version of a resource that the server last sent, or that the client declared on a new stream.
    pub fn version_sent(&self, kind: Kind, name: &str) -> Option<u64> {
        self.kinds[kind as usize].sent.get(name).copied()
    }

    /// Returns the stream's counters.
    pub fn stats(&self) -> Stats {
        self.stats
    }
}

/// The content of a response.
#[derive(Default)]
struct Difference {
    resources: Vec<Resource>,
    removed: BTreeSet<String>,
}

impl Stream {
    /// Frees the window up to this nonce. A nonce that is not in flight belongs to no response, and is ignored.
    fn acknowledge(&mut self, nonce: &str) {
        if let Ok(nonce) = nonce.parse::<u64>()
            && let Some(at) = self.in_flight.iter().position(|(sent, _)| *sent == nonce)
        {
            self.in_flight.drain(..=at);
        }
    }

    /// Returns the difference between what the client holds and the source, and the answers that are due; `None` if
    /// there is no difference and no answer is due.
    fn difference(&mut self, kind: Kind, source: &impl Source) -> Option<Difference> {
        let mut difference = Difference::default();
        // The cursor is read before the changes, so that a change in between is found by the next call.
        let end = source.end(kind);
        // Resources whose current version may differ from the one that the client holds.
        let mut candidates: HashSet<Arc<str>> = HashSet::new();
        let changed = if self.resync { None } else { source.changed(kind, self.cursor) };
        // Whether a subscription may have lost its last resource or gained its first.
        let mut recheck = changed.is_none();
        match changed {
            Some(names) => candidates.extend(names),
            None => {
                candidates.extend(self.sent.keys().cloned());
                for name in self.subscribed.keys() {
                    candidates.extend(source.members(kind, name).map(|item| item.name()));
                }
            }
        }
        self.cursor = end;
        self.resync = false;
        // Resources that no remaining subscription may match.
        for name in &self.released {
            candidates.extend(source.members(kind, name).map(|item| item.name()));
        }
        let mut send = BTreeMap::new();
        for name in candidates {
            let found = source.get(kind, &name);
            let exists = found.is_some();
            match found.filter(|item| self.matches(&name, item)) {
                Some(item) if self.sent.get(&name) != Some(&item.version()) => {
                    send.insert(name, item);
                }
                // The content is the same, but the keys may differ.
                Some(_) => recheck = true,
                None if !exists && !source.certain(kind, &name) => {}
                None if self.sent.remove(&name).is_some() => {
                    recheck = true;
                    difference.removed.insert(name.to_string());
                }
                None => {}
            }
        }
        for name in &self.fresh {
            for item in source.members(kind, name) {
                send.insert(item.name(), item);
            }
        }
        let mut answered: HashSet<Arc<str>> = HashSet::new();
        for (name, item) in &send {
            let version = item.version();
            self.sent.insert(name.clone(), version);
            answered.insert(name.clone());
            let mut aliases = Vec::new();
            if self.addresses > 0 {
                item.any_key(|key| {
                    if let Some((key, _)) = self.subscribed.get_key_value(key).filter(|_| key.starts_with('@')) {
                        aliases.push(key.to_string());
                        answered.insert(key.clone());
                    }
                    false
                });
            }
            difference.resources.push(Resource {
                version: format!("{version:016x}"),
                resource: Some(Any { type_url: kind.url().into(), value: item.body() }),
                name: name.to_string(),
                aliases,
            });
        }
        // Answers to new subscriptions, and to those that lost their last resource or gained their first.
        let recheck = recheck || !send.is_empty();
        let mut deferred = BTreeSet::new();
        for (name, present) in &mut self.subscribed {
            let answer_due = self.fresh.contains(name) || self.resumed.contains(name);
            if !answer_due && !recheck {
                continue;
            }
            let exists = source.answers(kind, name);
            if !exists && !self.fresh.contains(name) && !source.certain(kind, name) {
                // The resource may exist, and the client may hold it from an earlier stream.
                if answer_due {
                    deferred.insert(name.clone());
                }
                continue;
            }
            if exists && (answer_due || !*present) && !answered.contains(&**name) {
                difference.resources.push(marker(name, ""));
            } else if !exists && (answer_due || *present) {
                difference.removed.insert(name.to_string());
            }
            *present = exists;
        }
        for name in self.released.drain(..) {
            if !self.subscribed.contains_key(&name) {
                difference.resources.push(marker(&name, RELEASED));
            }
        }
        self.fresh.clear();
        self.resumed = deferred;
        (!difference.resources.is_empty() || !difference.removed.is_empty()).then_some(difference)
    }

    /// Reports whether any subscription matches a resource.
    fn matches(&self, name: &str, item: &impl Found) -> bool {
        self.subscribed.contains_key(name) || item.any_key(|key| self.subscribed.contains_key(key))
    }
}

/// Returns a resource without a body.
fn marker(name: &str, version: &str) -> Resource {
    Resource { name: name.into(), version: version.into(), ..Default::default() }
}
