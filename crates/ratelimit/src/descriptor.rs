//! Descriptors: the keys and values that a request is counted by, and the actions that take them from it (Envoy:
//! `config.route.v3.RateLimit.Action`).

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;
use policy::Facts;
use route::StringMatch;

/// The length to which a value counts, in bytes. Longer ones that begin with the same bytes are one value.
const LONGEST: usize = 4096;
/// The value of peers without an identity.
const UNAUTHENTICATED: &str = "unauthenticated";

/// What actions see of a request.
#[derive(Clone, Copy)]
pub struct RequestFacts<'a> {
    /// What policies see of it.
    pub facts: &'a Facts<'a>,
    /// The path with the query.
    pub path_and_query: &'a str,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// The proxy's own application and namespace.
    pub source_cluster: &'a dyn fmt::Display,
    /// The name of the upstream cluster.
    pub destination_cluster: &'a dyn fmt::Display,
}

/// A key with the value of a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Entry<'a> {
    /// The key.
    pub key: &'a str,
    /// The value.
    pub value: Cow<'a, str>,
}

/// The entries of a request, in the order of the actions.
pub type Descriptor<'a> = Vec<Entry<'a>>;

/// The actions of a descriptor.
#[derive(Debug, Clone, PartialEq)]
pub struct DescriptorActions {
    /// The actions.
    pub actions: Box<[Action]>,
    /// The stage: a rule uses those of routes that have its own.
    pub stage: u32,
}

/// An action: an entry of a descriptor.
#[derive(Debug, Clone, PartialEq)]
pub struct Action {
    /// The key.
    pub key: Box<str>,
    /// Whether a request without a value has the descriptor without the entry. Otherwise it does not have the descriptor.
    pub skip_if_absent: bool,
    /// Where the value is.
    pub source: Source,
}

/// Where the value of an entry is.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// The same for all requests.
    Constant(Box<str>),
    /// A header; of several lines, all of them with commas between them.
    Header(HeaderOf),
    /// The first value of a parameter of the query, as it is written.
    Query(Box<str>),
    /// The original client's address, with the number of its leading bits that count, for each family.
    RemoteAddress {
        /// Of IPv4.
        v4_bits: u8,
        /// Of IPv6.
        v6_bits: u8,
    },
    /// A text if headers match.
    HeaderMatch {
        /// The text.
        value: Box<str>,
        /// The conditions, all of which have to be met.
        conditions: Box<[HeaderCondition]>,
        /// The value is there if not all of them are.
        invert: bool,
    },
    /// The path without the query.
    Path,
    /// The peer's SPIFFE ID.
    Identity,
    /// The proxy's own application and namespace.
    SourceCluster,
    /// The upstream cluster.
    DestinationCluster,
}

/// A header, or a part of the request that has the name of one.
#[derive(Debug, Clone, PartialEq)]
pub enum HeaderOf {
    /// `:path`: the path with the query.
    Path,
    /// `:method`
    Method,
    /// `:authority`
    Authority,
    /// A header.
    Named(HeaderName),
}

/// A condition on a header.
#[derive(Debug, Clone, PartialEq)]
pub struct HeaderCondition {
    /// The header.
    pub header: HeaderOf,
    /// The pattern of its value.
    pub value: StringMatch,
    /// The condition is met if the header is absent or its value does not match.
    pub invert: bool,
}

impl HeaderOf {
    /// Returns the header of a name.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            ":path" => HeaderOf::Path,
            ":method" => HeaderOf::Method,
            ":authority" | "host" => HeaderOf::Authority,
            name => HeaderOf::Named(name.parse().ok()?),
        })
    }

    fn of<'a>(&self, request: &RequestFacts<'a>) -> Option<Cow<'a, str>> {
        let of = request.facts.request;
        match self {
            HeaderOf::Path => Some(request.path_and_query.into()),
            HeaderOf::Method => of.map(|of| of.method.into()),
            HeaderOf::Authority => of.map(|of| of.host.into()),
            HeaderOf::Named(name) => {
                let mut lines =
                    request.headers.get_all(name).iter().map(|line| String::from_utf8_lossy(line.as_bytes()));
                let first = lines.next()?;
                Some(lines.fold(first, |all, line| Cow::Owned(format!("{all},{line}"))))
            }
        }
    }
}

impl HeaderCondition {
    fn is_met(&self, request: &RequestFacts<'_>) -> bool {
        self.header.of(request).is_some_and(|value| self.value.matches(value.as_bytes())) != self.invert
    }
}

impl DescriptorActions {
    /// Returns the descriptor of a request, or `None` if it has none.
    pub fn of<'a>(&'a self, request: &RequestFacts<'a>) -> Option<Descriptor<'a>> {
        let mut entries = Vec::with_capacity(self.actions.len());
        for action in &self.actions {
            match action.source.of(request) {
                Some(value) => entries.push(Entry { key: &action.key, value: shortened(value) }),
                None if action.skip_if_absent => {}
                None => return None,
            }
        }
        (!entries.is_empty()).then_some(entries)
    }
}

impl Source {
    fn of<'a>(&'a self, request: &RequestFacts<'a>) -> Option<Cow<'a, str>> {
        let facts = request.facts;
        match self {
            Source::Constant(value) => Some((&**value).into()),
            Source::Header(header) => header.of(request),
            Source::Query(name) => parameter(request.path_and_query, name).map(Cow::Borrowed),
            Source::RemoteAddress { v4_bits, v6_bits } => Some(network(facts.remote, *v4_bits, *v6_bits).into()),
            Source::HeaderMatch { value, conditions, invert } => {
                let all = conditions.iter().all(|condition| condition.is_met(request));
                (all != *invert).then(|| (&**value).into())
            }
            Source::Path => Some(facts.request?.path.into()),
            Source::Identity => Some(facts.principal.map_or(UNAUTHENTICATED, |id| id.as_str()).into()),
            Source::SourceCluster => Some(request.source_cluster.to_string().into()),
            Source::DestinationCluster => Some(request.destination_cluster.to_string().into()),
        }
    }
}

/// Returns an address, or the network of its leading bits as Envoy writes it.
fn network(ip: IpAddr, v4_bits: u8, v6_bits: u8) -> String {
    let bits = if ip.is_ipv4() { v4_bits } else { v6_bits };
    match IpNet::new(ip, bits) {
        Ok(network) if bits < network.max_prefix_len() => network.trunc().to_string(),
        _ => ip.to_string(),
    }
}

/// Returns the first value of a parameter; without `=`, it is empty.
fn parameter<'a>(path_and_query: &'a str, name: &str) -> Option<&'a str> {
    let (_, query) = path_and_query.split_once('?')?;
    let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
}

fn shortened(value: Cow<'_, str>) -> Cow<'_, str> {
    if value.len() <= LONGEST {
        return value;
    }
    let end = value.floor_char_boundary(LONGEST);
    match value {
        Cow::Borrowed(text) => Cow::Borrowed(&text[..end]),
        Cow::Owned(mut text) => {
            text.truncate(end);
            Cow::Owned(text)
        }
    }
}

#[cfg(test)]
mod tests;
