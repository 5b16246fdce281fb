//! The test beds.

use serde::Deserialize;

/// The test bed of a kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TestBed {
    /// Clients whose sidecars are under test, and servers without any: [`crate::run`].
    #[default]
    Routing,
    /// Servers whose sidecars are under test, and clients with several identities: [`crate::policies`].
    Policies,
    /// A client and a server with sidecars in a namespace for each case: [`crate::cells`].
    Sidecars,
    /// A gateway in a namespace for each case: [`crate::cells`].
    Gateways,
}

impl TestBed {
    /// All beds, in the order in which their cases are run.
    pub const ALL: [Self; 4] = [Self::Routing, Self::Policies, Self::Sidecars, Self::Gateways];

    /// The client and the destination of requests that name none.
    pub(super) fn defaults(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Routing | Self::Policies => None,
            Self::Sidecars => Some(("CELL/client", "server.CELL")),
            Self::Gateways => Some((crate::places::PLAIN, "gateway.CELL")),
        }
    }
}
