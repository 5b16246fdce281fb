//! The controller's debug pages, read through the API server's service proxy.
//!
//! The pages need a token of a user who may read them. This client requests one of service account `isthmus-debug`, with an
//! audience of its own, so that neither the user's own credentials nor a token for anything else reach the controller.

use std::time::{Duration, Instant};

use api::names::{DEBUG_AUDIENCE, DEBUG_READER, DEBUG_TOKEN_HEADER};
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::components::{CONTROLLER, MONITORING_PORT};

/// The lifetime of a token in seconds: the shortest that API servers issue.
const LIFETIME: u32 = 600;
/// The age at which a token is replaced.
const REPLACED: Duration = Duration::from_secs(300);

/// A reader of the debug pages of one controller.
pub struct DebugPages {
    client: Client,
    namespace: String,
    token: Mutex<Option<(String, Instant)>>,
}

impl DebugPages {
    /// Creates a reader of the pages of the controller in `namespace`.
    #[must_use]
    pub fn new(client: Client, namespace: &str) -> Self {
        DebugPages { client, namespace: namespace.to_owned(), token: Mutex::default() }
    }

    /// Returns a page, such as `clusters`.
    ///
    /// # Errors
    /// Returns the error of the API server or of the controller.
    pub async fn read(&self, page: &str) -> Result<String, kube::Error> {
        let (namespace, token) = (&self.namespace, self.token().await?);
        let path = format!("/api/v1/namespaces/{namespace}/services/{CONTROLLER}:{MONITORING_PORT}/proxy/debug/{page}");
        let request = http::Request::get(path).header(DEBUG_TOKEN_HEADER, token).body(Vec::new());
        self.client.request_text(request.map_err(kube::Error::HttpError)?).await
    }

    async fn token(&self) -> Result<String, kube::Error> {
        let mut held = self.token.lock().await;
        if let Some((token, since)) = &*held
            && since.elapsed() < REPLACED
        {
            return Ok(token.clone());
        }
        let path = format!("/api/v1/namespaces/{}/serviceaccounts/{DEBUG_READER}/token", self.namespace);
        let spec = json!({"audiences": [DEBUG_AUDIENCE], "expirationSeconds": LIFETIME});
        let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
        let request = http::Request::post(path).header("content-type", "application/json");
        let request = request.body(body.to_string().into_bytes()).map_err(kube::Error::HttpError)?;
        let answer: Value = self.client.request(request).await?;
        let token = answer["status"]["token"].as_str().unwrap_or_default().to_owned();
        *held = Some((token.clone(), Instant::now()));
        Ok(token)
    }
}
