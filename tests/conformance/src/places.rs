//! The namespaces of cases that have one of their own, and the identities of their pods.

/// Namespaces that are made for cases, each with a server.
pub const SLOTS: usize = 16;

/// Namespaces of other pods, which have a server as well.
pub const PLACES: [&str; 1] = ["shop"];

/// The clients, as NAMESPACE/NAME; each has a service account of its name.
pub const CLIENTS: [&str; 3] = ["shop/frontend", "bank/teller", "shop/web.admin"];

/// The client with a sidecar that is outside of cells.
pub const TELLER: &str = "bank/teller";

/// Namespaces that are made for cases of Gateways, Sidecars and ServiceEntries.
const CELLS: usize = 8;

/// The pods of a cell, each with a service account of its name.
pub(crate) const OF_CELL: [&str; 3] = ["client", "server", "gateway"];

/// A client without a sidecar.
pub const PLAIN: &str = "legacy/plain";

/// A service account whose identity a pod has.
#[derive(Clone, Debug)]
pub(crate) struct PodIdentity {
    namespace: String,
    account: String,
}

impl PodIdentity {
    pub(crate) fn of_client(client: &str) -> Self {
        let (namespace, account) = client.split_once('/').unwrap_or(("default", client));
        Self { namespace: namespace.to_owned(), account: account.to_owned() }
    }

    pub(crate) fn of_pod(namespace: &str, account: &str) -> Self {
        Self { namespace: namespace.to_owned(), account: account.to_owned() }
    }

    pub(crate) fn of_server(namespace: &str) -> Self {
        Self { namespace: namespace.to_owned(), account: "server".to_owned() }
    }

    /// The path of its SPIFFE ID.
    pub(crate) fn path(&self) -> String {
        format!("ns/{}/sa/{}", self.namespace, self.account)
    }

    /// The name of the files of its certificate.
    pub(crate) fn file(&self) -> String {
        format!("identity-{}-{}", self.namespace, self.account)
    }
}

/// The identities of all pods with sidecars.
pub(crate) fn identities() -> Vec<PodIdentity> {
    let servers = namespaces_of_servers();
    let servers = servers.iter().map(|namespace| PodIdentity::of_server(namespace));
    let in_cells = cells().into_iter().flat_map(|cell| OF_CELL.map(|account| PodIdentity::of_pod(&cell, account)));
    servers.chain(CLIENTS.map(PodIdentity::of_client)).chain(in_cells).collect()
}

/// The namespace of a slot.
pub(crate) fn slot(index: usize) -> String {
    format!("slot-{index:02}")
}

/// The namespaces of cells.
pub(crate) fn cells() -> Vec<String> {
    (0..CELLS).map(|index| format!("cell-{index:02}")).collect()
}

/// The namespaces that have a server.
pub(crate) fn namespaces_of_servers() -> Vec<String> {
    (0..SLOTS).map(slot).chain(PLACES.map(str::to_owned)).collect()
}
