//! Peer authentication of inbound connections: Istio's `PeerAuthentication`, resolved for one workload.

/// The peer authentication mode of a port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PeerMode {
    /// Accepts the mesh's mutual TLS and everything else.
    #[default]
    Permissive,
    /// Accepts the mesh's mutual TLS only.
    Strict,
    /// Never terminates TLS.
    Disable,
}

/// The peer authentication of a workload: one mode for all ports, with exceptions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerAuthentication {
    /// The mode of ports that have no exception.
    pub mode: PeerMode,
    /// Exceptions by the application's port, sorted.
    ports: Vec<(u16, PeerMode)>,
}

/// One of several objects that apply to a workload. What it leaves open, the next one decides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerAuthenticationLayer {
    /// The mode of ports that have no exception.
    pub mode: Option<PeerMode>,
    /// Exceptions by the application's port.
    pub ports: Vec<(u16, PeerMode)>,
}

/// What a client presents in a connection's first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presented {
    /// A TLS ClientHello that offers one of the mesh's application protocols.
    MeshTls,
    /// Any other TLS ClientHello: the application's own TLS.
    OtherTls,
    /// No TLS, or no bytes yet.
    Plaintext,
}

/// How the proxy handles an inbound connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// Terminate the mesh's mutual TLS; the client must prove an identity.
    MutualTls,
    /// Accept plaintext; the peer has no identity.
    Plaintext,
    /// Forward the bytes unread: TLS between the client and the application.
    Passthrough,
    /// Close the connection.
    Refused,
}

impl PeerAuthentication {
    /// Creates a peer authentication with exceptions by port.
    pub fn new(mode: PeerMode, ports: impl IntoIterator<Item = (u16, PeerMode)>) -> Self {
        let mut ports: Vec<_> = ports.into_iter().collect();
        ports.sort_unstable_by_key(|(port, _)| *port);
        Self { mode, ports }
    }

    /// Creates the peer authentication of objects in the order of their precedence. Without any mode, it is permissive.
    pub fn layered<'a>(layers: impl IntoIterator<Item = &'a PeerAuthenticationLayer>) -> Self {
        let mut ports: Vec<(u16, PeerMode)> = Vec::new();
        for layer in layers {
            let new = layer.ports.iter().filter(|(port, _)| !ports.iter().any(|(known, _)| known == port));
            let new: Vec<_> = new.copied().collect();
            ports.extend(new);
            if let Some(mode) = layer.mode {
                return Self::new(mode, ports);
            }
        }
        Self::new(PeerMode::Permissive, ports)
    }

    /// Returns the mode of a port of the application.
    pub fn mode_of(&self, port: u16) -> PeerMode {
        self.ports.binary_search_by_key(&port, |(port, _)| *port).map_or(self.mode, |at| self.ports[at].1)
    }

    /// Decides how to handle a connection to a port. STRICT terminates TLS without the mesh's protocols too: only a
    /// mesh identity passes the handshake, and the handshake reports why it fails.
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
    fn decides_by_mode_and_presented_bytes() {
        use {Accepted::*, PeerMode::*, Presented as P};
        let table = [
            (Permissive, [MutualTls, Passthrough, Plaintext]),
            (Strict, [MutualTls, MutualTls, Refused]),
            (Disable, [Passthrough, Passthrough, Plaintext]),
        ];
        for (mode, expected) in table {
            let authentication = PeerAuthentication::new(mode, []);
            let decided = [P::MeshTls, P::OtherTls, P::Plaintext].map(|presented| authentication.decide(80, presented));
            assert_eq!(decided, expected, "{mode:?}");
        }
    }

    #[test]
    fn layers_decide_in_order_what_those_before_leave_open() {
        use PeerMode::*;
        let layer = |mode, ports: &[(u16, PeerMode)]| PeerAuthenticationLayer { mode, ports: ports.to_vec() };
        let workload = layer(None, &[(80, Disable)]);
        let (namespace, mesh) =
            (layer(Some(Strict), &[(80, Permissive), (81, Disable)]), layer(Some(Permissive), &[(82, Disable)]));
        let all = PeerAuthentication::layered([&workload, &namespace, &mesh]);
        assert_eq!([80, 81, 82, 83].map(|port| all.mode_of(port)), [Disable, Disable, Strict, Strict]);
        assert_eq!(PeerAuthentication::layered([&workload]).mode_of(1), Permissive);
    }

    #[test]
    fn a_port_can_have_its_own_mode() {
        let authentication =
            PeerAuthentication::new(PeerMode::Strict, [(9090, PeerMode::Disable), (80, PeerMode::Permissive)]);
        assert_eq!(authentication.mode_of(80), PeerMode::Permissive);
        assert_eq!(authentication.mode_of(9090), PeerMode::Disable);
        assert_eq!(authentication.mode_of(443), PeerMode::Strict);
    }
}
