//! The credential with which the controller writes in other clusters.
//!
//! A remote secret has the reader's credential, which writes nothing. `isthmus join` also creates the writer account, and lets
//! the reader request tokens of it, as it does of its own. Such a token lives for an hour, in memory alone, and is replaced
//! after half of that. A cluster that was joined by a reader alone, such as by an Istio remote secret, refuses the request.

use std::sync::Arc;
use std::time::{Duration, Instant};

use api::reader::WRITER;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::{Api, Client};

use super::{Clusters, remote_client, renewal, trouble};
use crate::objects::Text;

/// The lifetime of a token.
const LIFETIME: Duration = Duration::from_secs(3600);

/// The time after which a refused request is made again.
const REFUSED: Duration = Duration::from_secs(60);

/// The writer of one cluster.
#[derive(Clone)]
pub(super) struct Held {
    /// The kubeconfig of the reader that requested the token.
    reader: Arc<[u8]>,
    client: Result<Client, String>,
    until: Instant,
}

impl Clusters {
    /// Returns a client that may write in a cluster, or why there is none. That of the own cluster is the controller's.
    pub(crate) async fn writer(&self, cluster: &Text) -> Result<Client, String> {
        if cluster == self.own() {
            return Ok(self.own_client().clone());
        }
        let held = self.shared.written().get(cluster).cloned().ok_or("the cluster is removed")?;
        let known = self.shared.writers().get(cluster).cloned();
        if let Some(known) = known.filter(|known| known.reader == held.bytes && Instant::now() < known.until) {
            return known.client;
        }
        let reader = self.client(cluster).ok_or("the cluster is removed")?;
        let made = request(reader, &held.bytes).await;
        let lasts = if made.is_ok() { LIFETIME / 2 } else { REFUSED };
        let new = Held { reader: held.bytes, client: made.clone(), until: Instant::now() + lasts };
        self.shared.writers().insert(cluster.clone(), new);
        made
    }

    /// Forgets the writer of a cluster, whose token was refused.
    pub(crate) fn forget_writer(&self, cluster: &Text) {
        self.shared.writers().remove(cluster);
    }

    /// Returns the client for writes in a cluster: the writer, else the reader, which may have been given more rights.
    pub(crate) async fn writer_or_reader(&self, cluster: &Text) -> Option<Client> {
        match self.writer(cluster).await {
            Ok(client) => Some(client),
            Err(_) => self.client(cluster),
        }
    }
}

/// Requests a token of the writer with the reader's credential, and returns a client with it.
async fn request(reader: Client, kubeconfig: &[u8]) -> Result<Client, String> {
    let namespace = renewal::namespace_of(kubeconfig).unwrap_or_else(|| api::names::SYSTEM_NAMESPACE.to_owned());
    let accounts = Api::<ServiceAccount>::namespaced(reader, &namespace);
    let mut request = TokenRequest::default();
    request.spec.expiration_seconds = i64::try_from(LIFETIME.as_secs()).ok();
    let made = accounts.create_token_request(WRITER, &PostParams::default(), &request).await;
    let made = made.map_err(|error| trouble::of(&error).to_string())?;
    let token = made.status.map(|status| status.token).unwrap_or_default();
    let text = api::kubeconfig::with_token(kubeconfig, &token).map_err(|error| error.to_string())?;
    let access = api::kubeconfig::sanitize(text.as_bytes()).map_err(|error| error.to_string())?;
    Ok(remote_client(&access.config).await?.client)
}
