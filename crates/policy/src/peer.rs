//! What an inbound connection may be: Istio's `PeerAuthentication`, already resolved for one workload.

/// The mode of a port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PeerMode {
    /// Mutual TLS of the mesh or anything else.
    #[default]
    Permissive,
    /// Mutual TLS of the mesh alone.
    Strict,
    /// The proxy never ends TLS here.
    Disable,
}

/// The modes of a workload: one for all ports, and exceptions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerAuthentication {
    /// The mode of ports without one of their own.
    pub mode: PeerMode,
    /// Exceptions by the application's port, sorted by port.
    ports: Vec<(u16, PeerMode)>,
}

/// What the first bytes of a connection show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presented {
    /// A TLS ClientHello that offers one of the mesh's application protocols.
    MeshTls,
    /// A TLS ClientHello of somebody else: the application's own TLS.
    OtherTls,
    /// Anything else, or nothing yet.
    Plaintext,
}

/// What to do with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// End the mesh's mutual TLS; the client must prove an identity.
    MutualTls,
    /// Take it as plaintext from nobody in particular.
    Plaintext,
    /// Hand the bytes on unread: TLS between the client and the application.
    Passthrough,
    /// Close it.
    Refused,
}

impl PeerAuthentication {
    /// Modes with exceptions by port.
    pub fn new(mode: PeerMode, ports: impl IntoIterator<Item = (u16, PeerMode)>) -> Self {
        let mut ports: Vec<_> = ports.into_iter().collect();
        ports.sort_unstable_by_key(|(port, _)| *port);
        Self { mode, ports }
    }

    /// The mode of a port of the application.
    pub fn mode_of(&self, port: u16) -> PeerMode {
        self.ports.binary_search_by_key(&port, |(port, _)| *port).map_or(self.mode, |at| self.ports[at].1)
    }

    /// Decides on a connection to a port. Under STRICT, TLS without the mesh's protocols is ended too, since the
    /// handshake then says why it fails; nothing but a mesh identity gets through it.
    pub fn decide(&self, port: u16, presented: Presented) -> Accepted {
        match (self.mode_of(port), presented) {
            (PeerMode::Permissive | PeerMode::Strict, Presented::MeshTls) => Accepted::MutualTls,
            (PeerMode::Permissive, Presented::OtherTls) => Accepted::Passthrough,
            (PeerMode::Permissive | PeerMode::Disable, Presented::Plaintext) => Accepted::Plaintext,
            (PeerMode::Strict, Presented::OtherTls) => Accepted::MutualTls,
            (PeerMode::Strict, Presented::Plaintext) => Accepted::Refused,
            (PeerMode::Disable, Presented::MeshTls | Presented::OtherTls) => Accepted::Passthrough,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decides_by_mode_and_what_is_presented() {
        use {Accepted::*, PeerMode::*, Presented as P};
        let table = [
            (Permissive, [MutualTls, Passthrough, Plaintext]),
            (Strict, [MutualTls, MutualTls, Refused]),
            (Disable, [Passthrough, Passthrough, Plaintext]),
        ];
        for (mode, expected) in table {
            let authentication = PeerAuthentication::new(mode, []);
            let decided = [P::MeshTls, P::OtherTls, P::Plaintext].map(|shown| authentication.decide(80, shown));
            assert_eq!(decided, expected, "{mode:?}");
        }
    }

    #[test]
    fn a_port_may_differ() {
        let authentication =
            PeerAuthentication::new(PeerMode::Strict, [(9090, PeerMode::Disable), (80, PeerMode::Permissive)]);
        assert_eq!(authentication.mode_of(80), PeerMode::Permissive);
        assert_eq!(authentication.mode_of(9090), PeerMode::Disable);
        assert_eq!(authentication.mode_of(443), PeerMode::Strict);
    }
}
