//! Routes of connections.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::Destination;

/// The parts of a connection that conditions are about.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionFacts<'a> {
    /// The client's address.
    pub source: IpAddr,
    /// The address that the client connected to.
    pub destination: IpAddr,
    /// The port that the client connected to.
    pub port: u16,
    /// The server name of the client's TLS handshake.
    pub server_name: Option<&'a str>,
}

/// Conditions on a connection, all of which have to be met.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TcpMatch {
    /// On the destination's address: one of these subnets; empty: any.
    pub destination_subnets: Box<[IpNet]>,
    /// On the client's address.
    pub source_subnet: Option<IpNet>,
    /// On the port that the client connected to.
    pub port: Option<u16>,
}

/// Conditions on a connection with TLS, all of which have to be met.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TlsMatch {
    /// On the server name: one of these; empty: any.
    pub server_names: Box<[ServerName]>,
    /// The others.
    pub rest: TcpMatch,
}

/// A pattern of a server name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerName {
    /// This name, in any case.
    Exact(Box<str>),
    /// Names that end so, with a `.` at the beginning.
    Suffix(Box<str>),
    /// Any name.
    Any,
}

/// A route of opaque connections.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TcpRoute {
    /// Any of them must be met; empty: every connection.
    pub matches: Box<[TcpMatch]>,
    /// The destinations, of which one is chosen by weight.
    pub destinations: Box<[Destination]>,
}

/// A route of connections with TLS of the client's own.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TlsRoute {
    /// Any of them must be met.
    pub matches: Box<[TlsMatch]>,
    /// The destinations, of which one is chosen by weight.
    pub destinations: Box<[Destination]>,
}

impl TcpMatch {
    /// Returns whether a connection meets all conditions.
    pub fn is_met(&self, facts: &ConnectionFacts<'_>) -> bool {
        self.port.is_none_or(|port| port == facts.port)
            && self.source_subnet.is_none_or(|subnet| subnet.contains(&facts.source))
            && (self.destination_subnets.is_empty()
                || self.destination_subnets.iter().any(|subnet| subnet.contains(&facts.destination)))
    }
}

impl ServerName {
    /// Parses `name`, `*.suffix` or `*`.
    pub fn parse(text: &str) -> Self {
        match text.strip_prefix('*') {
            Some("") => Self::Any,
            Some(suffix) => Self::Suffix(suffix.into()),
            None => Self::Exact(text.into()),
        }
    }

    /// Returns whether the pattern matches a name.
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(exact) => name.eq_ignore_ascii_case(exact),
            Self::Suffix(suffix) => {
                let from = name.len().checked_sub(suffix.len()).filter(|from| *from > 0);
                from.and_then(|from| name.get(from..)).is_some_and(|end| end.eq_ignore_ascii_case(suffix))
            }
            Self::Any => true,
        }
    }
}

impl TlsMatch {
    /// Returns whether a connection meets all conditions.
    pub fn is_met(&self, facts: &ConnectionFacts<'_>) -> bool {
        let named = |name: &str| self.server_names.iter().any(|pattern| pattern.matches(name));
        (self.server_names.is_empty() || facts.server_name.is_some_and(named)) && self.rest.is_met(facts)
    }
}

impl TcpRoute {
    /// Returns whether the route takes a connection.
    pub fn takes(&self, facts: &ConnectionFacts<'_>) -> bool {
        self.matches.is_empty() || self.matches.iter().any(|condition| condition.is_met(facts))
    }
}

impl TlsRoute {
    /// Returns whether the route takes a connection.
    pub fn takes(&self, facts: &ConnectionFacts<'_>) -> bool {
        self.matches.iter().any(|condition| condition.is_met(facts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_names_match_exactly_or_by_suffix() {
        for (pattern, name, expected) in [
            ("a.example", "A.example", true),
            ("a.example", "b.a.example", false),
            ("*.example", "a.example", true),
            ("*.example", "b.a.EXAMPLE", true),
            ("*.example", ".example", false),
            ("*.example", "example", false),
            ("*", "x", true),
        ] {
            assert_eq!(ServerName::parse(pattern).matches(name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn connections_are_matched_by_address_and_port() {
        let facts = ConnectionFacts {
            source: "10.1.2.3".parse().unwrap(),
            destination: "10.96.0.1".parse().unwrap(),
            port: 3306,
            server_name: None,
        };
        let subnets = |text: &str| -> Box<[IpNet]> { [text.parse().unwrap()].into() };
        for (condition, expected) in [
            (TcpMatch::default(), true),
            (TcpMatch { port: Some(3306), ..TcpMatch::default() }, true),
            (TcpMatch { port: Some(3307), ..TcpMatch::default() }, false),
            (TcpMatch { destination_subnets: subnets("10.96.0.0/16"), ..TcpMatch::default() }, true),
            (TcpMatch { destination_subnets: subnets("10.97.0.0/16"), ..TcpMatch::default() }, false),
            (TcpMatch { source_subnet: "10.1.0.0/16".parse().ok(), ..TcpMatch::default() }, true),
            (TcpMatch { source_subnet: "10.2.0.0/16".parse().ok(), ..TcpMatch::default() }, false),
        ] {
            assert_eq!(condition.is_met(&facts), expected, "{condition:?}");
        }
        let tls = TlsMatch { server_names: [ServerName::Any].into(), rest: TcpMatch::default() };
        assert!(!tls.is_met(&facts), "without a server name");
        assert!(TcpRoute::default().takes(&facts) && !TlsRoute::default().takes(&facts));
    }
}
