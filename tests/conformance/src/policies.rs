//! Cases of policies: AuthorizationPolicy, PeerAuthentication and RequestAuthentication.
//!
//! The servers' sidecars are under test. Each case has a namespace with a server of its own, so that many cases run at the same time
//! without seeing each other's policies: a wave. [`waves`] distributes cases over them, [`bed`] starts the pods and knows when a
//! policy is in force, and [`run`] sends the requests. [`question`] asks the sidecar what it decides about a request, as
//! `isthmus authz test` does. [`tokens`] makes tokens, and [`authorizer`] is the server that policies of action `CUSTOM` ask.
//!
//! In a case, `SLOT` stands for the namespace, which is also the server's label `slot`. `{ip:shop/frontend}` is the address of a
//! pod, `{ip:server}` that of the case's server, `{jwks:rsa,es256}` a set of keys, and `{token:NAME}` a token of the case.
//!
//! The server's Service `server` has these ports:
//!
//! | port | target | protocol |
//! | --- | --- | --- |
//! | 80 | 8080 | HTTP |
//! | 81 | 8081 | gRPC |
//! | 82 | 8082 | detected |
//! | 443 | 9443 | TLS |
//! | 9000 | 9000 | TCP |
//!
//! Port 8083 of its pod serves HTTP and is in no Service.

use anyhow::Result;
use serde_json::Value;

pub mod authorizer;
pub mod bed;
mod pods;
pub mod question;
pub mod run;
pub mod tokens;
pub mod waves;

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
    fn of_client(client: &str) -> Self {
        let (namespace, account) = crate::bed::split(client);
        Self { namespace: namespace.to_owned(), account: account.to_owned() }
    }

    fn of_server(namespace: &str) -> Self {
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

fn namespaces_of_servers() -> Vec<String> {
    (0..SLOTS).map(slot).chain(PLACES.map(str::to_owned)).collect()
}

/// Fills in what users write in every object.
pub(crate) fn complete(object: &mut Value, name: &str) -> Result<()> {
    let security = ["AuthorizationPolicy", "PeerAuthentication", "RequestAuthentication"];
    let is_security = object["kind"].as_str().is_some_and(|kind| security.contains(&kind));
    let api_version = if is_security { "security.istio.io/v1" } else { "networking.istio.io/v1" };
    crate::case::complete_with(object, api_version, name, "SLOT")
}
