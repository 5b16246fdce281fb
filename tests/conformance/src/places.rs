//! The namespaces of cases of policies, and the identities of their pods.

/// Namespaces that are made for cases, each with a server.
pub const SLOTS: usize = 16;

/// Namespaces of other pods, which have a server as well.
pub const PLACES: [&str; 1] = ["shop"];

/// The clients, as NAMESPACE/NAME; each has a service account of its name.
pub const CLIENTS: [&str; 3] = ["shop/frontend", "bank/teller", "shop/web.admin"];

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
    servers.chain(CLIENTS.map(PodIdentity::of_client)).collect()
}

/// The namespace of a slot.
pub(crate) fn slot(index: usize) -> String {
    format!("slot-{index:02}")
}

/// The namespaces that have a server.
pub(crate) fn namespaces_of_servers() -> Vec<String> {
    (0..SLOTS).map(slot).chain(PLACES.map(str::to_owned)).collect()
}
