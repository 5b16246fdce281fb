//! The controller's side of the stream: one proxy's subscriptions against what there is.
//!
//! The machine keeps, per kind, what the proxy subscribed to, which version of each resource it was sent, and a cursor
//! into the log of changes. Nothing is queued for a proxy that does not read: its cursor stands still, and when it reads
//! again it gets the difference between what it has and what there is then.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::{MAX_NAME, RELEASED, WINDOW};
use crate::Kind;
use crate::envoy::{Any, DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};

/// A resource as all proxies get it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Item {
    /// Its name.
    pub name: Arc<str>,
    /// A hash of `body`; never 0.
    pub version: u64,
    /// The encoded message.
    pub body: Bytes,
    /// The other names under which it is subscribed to: addresses (which begin with `@`) and collections.
    pub keys: Box<[Arc<str>]>,
}

/// A resource as a source holds it: looked at often, encoded only where it is sent.
pub trait Found {
    /// Its name. One copy for all streams, which keep it for as long as the client holds the resource.
    fn name(&self) -> Arc<str>;
    /// A hash of the body; never 0.
    fn version(&self) -> u64;
    /// The encoded message.
    fn body(&self) -> Bytes;
    /// Whether any of the other names that it answers to does; asks about one after the other until one does.
    fn any_key(&self, does: impl FnMut(&str) -> bool) -> bool;
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

    fn any_key(&self, mut does: impl FnMut(&str) -> bool) -> bool {
        self.keys.iter().any(|key| does(key))
    }
}

/// What there is, as one proxy may see it.
pub trait Source {
    /// How it gives a resource.
    type Found<'a>: Found
    where
        Self: 'a;

    /// The resource of that name.
    fn get(&self, kind: Kind, name: &str) -> Option<Self::Found<'_>>;
    /// All resources that answer to a name: the resource of that name, and those that have it among their keys.
    fn members(&self, kind: Kind, name: &str) -> impl Iterator<Item = Self::Found<'_>>;
    /// Whether anything answers to a name.
    fn answers(&self, kind: Kind, name: &str) -> bool {
        self.members(kind, name).next().is_some()
    }
    /// Where the log of changes of a kind ends.
    fn end(&self, kind: Kind) -> u64;
    /// Names of resources of a kind that changed (content, keys or who may see them), appeared or vanished since a
    /// cursor; `None` if the log no longer goes back so far.
    fn changed(&self, kind: Kind, since: u64) -> Option<Vec<Arc<str>>>;
    /// Whether it is known that a resource or subscription that is not there does not exist. While that is not certain,
    /// the client keeps what it holds; when it becomes so, [`Source::changed`] has to return `None` once.
    fn certain(&self, kind: Kind, name: &str) -> bool {
        let _ = (kind, name);
        true
    }
}

/// One stream.
#[derive(Debug, Default)]
pub struct Server {
    kinds: [Stream; Kind::ALL.len()],
    nonce: u64,
    subscriptions: usize,
    stats: Stats,
}

/// What went over a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Responses by kind, in the order of [`Kind::ALL`].
    pub responses: [u64; Kind::ALL.len()],
    /// Resources sent with their body.
    pub resources: u64,
    /// Bytes of those bodies.
    pub bytes: u64,
    /// Responses that the client rejected.
    pub nacks: u64,
    /// Names that no resource can have.
    pub bad_names: u64,
}

#[derive(Debug, Default)]
struct Stream {
    opened: bool,
    /// Subscriptions, and whether anything answers to them as the client was last told.
    subscribed: HashMap<Arc<str>, bool>,
    /// How many of those are addresses.
    addresses: usize,
    /// Versions that the client holds or is being sent.
    sent: HashMap<Arc<str>, u64>,
    /// Subscriptions to be answered in full.
    fresh: BTreeSet<Arc<str>>,
    /// As `fresh`, but what the client holds in the right version is not sent again.
    resumed: BTreeSet<Arc<str>>,
    /// Unsubscriptions to be confirmed.
    released: Vec<Arc<str>>,
    cursor: u64,
    /// Compare all that was sent with what there is.
    resync: bool,
    in_flight: VecDeque<(u64, Instant)>,
}

/// More subscriptions than this end the stream: no proxy uses so many, and each costs memory here.
pub const MAX_SUBSCRIPTIONS: usize = 200_000;

/// Why a stream is ended.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    /// The type is not one of ours.
    #[error("type {0:?} is not served here")]
    Type(String),
    /// Too many subscriptions.
    #[error("more than {MAX_SUBSCRIPTIONS} subscriptions or held resources on one stream")]
    TooMany,
}

impl Server {
    /// Takes a request in. [`Server::next`] then has what is to be said.
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
                // A version that is none of ours never matches, so the resource is sent.
                stream.sent.insert(name.into(), u64::from_str_radix(&version, 16).unwrap_or(0));
            }
            stream.resync = true;
        }
        for name in request.resource_names_unsubscribe {
            let name: Arc<str> = name.into();
            if stream.subscribed.remove(&name).is_some() {
                self.subscriptions -= 1;
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

    /// The next response, if there is something to tell and the client has room for it.
    pub fn next(&mut self, source: &impl Source, now: Instant) -> Option<DeltaDiscoveryResponse> {
        for kind in Kind::ALL {
            let stream = &mut self.kinds[kind as usize];
            if !stream.opened || stream.in_flight.len() >= WINDOW {
                continue;
            }
            let Some(news) = stream.news(kind, source) else { continue };
            self.nonce += 1;
            stream.in_flight.push_back((self.nonce, now));
            self.stats.responses[kind as usize] += 1;
            for any in news.resources.iter().filter_map(|resource| resource.resource.as_ref()) {
                self.stats.resources += 1;
                self.stats.bytes += any.value.len() as u64;
            }
            return Some(DeltaDiscoveryResponse {
                resources: news.resources,
                type_url: kind.url().into(),
                nonce: self.nonce.to_string(),
                removed_resources: news.removed.into_iter().collect(),
                ..Default::default()
            });
        }
        None
    }

    /// When the oldest response was sent that is not acknowledged; `None` if the client is up to date with all it was
    /// sent.
    pub fn waiting_since(&self) -> Option<Instant> {
        self.kinds.iter().filter_map(|stream| stream.in_flight.front()).map(|(_, sent)| *sent).min()
    }

    /// How many names are subscribed to.
    pub fn subscriptions(&self) -> usize {
        self.subscriptions
    }

    /// Which names of a kind are subscribed to, in no order.
    pub fn subscribed(&self, kind: Kind) -> impl Iterator<Item = &str> {
        self.kinds[kind as usize].subscribed.keys().map(|name| &**name)
    }

    /// The version of a resource that the client was last sent or said to hold.
    pub fn version_sent(&self, kind: Kind, name: &str) -> Option<u64> {
        self.kinds[kind as usize].sent.get(name).copied()
    }

    /// What went over it so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }
}

#[derive(Default)]
struct News {
    resources: Vec<Resource>,
    removed: BTreeSet<String>,
}

impl Stream {
    /// Frees the window up to this nonce. A nonce that is not in flight is ignored: it is of no response of ours.
    fn acknowledge(&mut self, nonce: &str) {
        if let Ok(nonce) = nonce.parse::<u64>()
            && let Some(at) = self.in_flight.iter().position(|(sent, _)| *sent == nonce)
        {
            self.in_flight.drain(..=at);
        }
    }

    /// All that the client should be told now; `None` if that is nothing.
    fn news(&mut self, kind: Kind, source: &impl Source) -> Option<News> {
        let mut news = News::default();
        // Which resources may differ from what the client holds. The cursor moves first: what changes later is seen later.
        let end = source.end(kind);
        let mut look: HashSet<Arc<str>> = HashSet::new();
        let changed = if self.resync { None } else { source.changed(kind, self.cursor) };
        let changed_all = changed.is_none();
        match changed {
            Some(names) => look.extend(names),
            None => {
                look.extend(self.sent.keys().cloned());
                for name in self.subscribed.keys() {
                    look.extend(source.members(kind, name).map(|item| item.name()));
                }
            }
        }
        self.cursor = end;
        self.resync = false;
        let mut moved = changed_all;
        // What an unsubscription may leave uncovered.
        for name in &self.released {
            look.extend(source.members(kind, name).map(|item| item.name()));
        }
        let mut send = BTreeMap::new();
        for name in look {
            let found = source.get(kind, &name);
            let exists = found.is_some();
            match found.filter(|item| self.covers(&name, item)) {
                Some(item) if self.sent.get(&name) != Some(&item.version()) => {
                    send.insert(name, item);
                }
                // Unchanged in content; it may answer to other names than before.
                Some(_) => moved = true,
                None if !exists && !source.certain(kind, &name) => {}
                None if self.sent.remove(&name).is_some() => {
                    moved = true;
                    news.removed.insert(name.to_string());
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
            news.resources.push(Resource {
                version: format!("{version:016x}"),
                resource: Some(Any { type_url: kind.url().into(), value: item.body() }),
                name: name.to_string(),
                aliases,
            });
        }
        // Answers to subscriptions that are new, and to those that lost their last resource or gained their first.
        let moved = moved || !send.is_empty();
        let mut unsaid = BTreeSet::new();
        for (name, some) in &mut self.subscribed {
            let asked = self.fresh.contains(name) || self.resumed.contains(name);
            if !asked && !moved {
                continue;
            }
            let now = source.answers(kind, name);
            if !now && !self.fresh.contains(name) && !source.certain(kind, name) {
                // The client may hold it from another stream, and it may well exist.
                if asked {
                    unsaid.insert(name.clone());
                }
                continue;
            }
            if now && (asked || !*some) && !answered.contains(&**name) {
                news.resources.push(marker(name, ""));
            } else if !now && (asked || *some) {
                news.removed.insert(name.to_string());
            }
            *some = now;
        }
        for name in self.released.drain(..) {
            if !self.subscribed.contains_key(&name) {
                news.resources.push(marker(&name, RELEASED));
            }
        }
        self.fresh.clear();
        self.resumed = unsaid;
        (!news.resources.is_empty() || !news.removed.is_empty()).then_some(news)
    }

    fn covers(&self, name: &str, item: &impl Found) -> bool {
        self.subscribed.contains_key(name) || item.any_key(|key| self.subscribed.contains_key(key))
    }
}

fn marker(name: &str, version: &str) -> Resource {
    Resource { name: name.into(), version: version.into(), ..Default::default() }
}
