//! The certificate service.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use identity::{Authority, PublicKey, SpiffeId};
use tonic::{Request, Response, Status};
use wire::ca::istio_certificate_service_server::IstioCertificateService;
use wire::ca::{IstioCertificateRequest, IstioCertificateResponse};

/// Signs certificates for the bearers of known tokens. Clones share the tokens.
#[derive(Clone)]
pub struct Signer {
    authority: Arc<Authority>,
    validity: Duration,
    tokens: Arc<Mutex<HashMap<String, SpiffeId>>>,
}

impl Signer {
    /// Creates a signer without tokens. Its certificates are valid for `validity`.
    pub fn new(authority: Arc<Authority>, validity: Duration) -> Self {
        Self { authority, validity, tokens: Arc::default() }
    }

    /// Accepts a token as proof of an identity.
    pub fn accept(&self, token: &str, id: SpiffeId) {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).insert(token.to_owned(), id);
    }
}

#[tonic::async_trait]
impl IstioCertificateService for Signer {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let header = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        let token = header.and_then(|header| header.strip_prefix("Bearer ")).unwrap_or_default();
        let id = self.tokens.lock().unwrap_or_else(PoisonError::into_inner).get(token).cloned();
        let id = id.ok_or_else(|| Status::unauthenticated("the token is unknown"))?;
        let key = PublicKey::from_request_pem(&request.get_ref().csr)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let chain = self.authority.issue(&key, &id, self.validity);
        let chain = chain.map_err(|error| Status::internal(error.to_string()))?;
        let pem = identity::certificates_to_pem(&chain);
        Ok(Response::new(IstioCertificateResponse { cert_chain: vec![pem, self.authority.roots_pem()] }))
    }
}
