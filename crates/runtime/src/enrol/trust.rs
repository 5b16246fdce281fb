//! The trust bundle in discovery messages.

use identity::Trust;
use rustls_pki_types::CertificateDer;

/// Converts the trust bundle of a discovery message.
///
/// # Errors
/// Returns the reason if the bundle is invalid.
pub fn trust_of(message: &wire::discovery::Trust) -> Result<Trust, String> {
    let roots = message.roots.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
    let issuers = message
        .issuers
        .iter()
        .map(|issuer| {
            let public_key_sha256 = <[u8; 32]>::try_from(&issuer.public_key_sha256[..])
                .map_err(|_| format!("the public key hash of cluster {} must have 32 bytes", issuer.cluster))?;
            Ok(identity::Issuer { cluster: issuer.cluster.as_str().into(), public_key_sha256 })
        })
        .collect::<Result<Vec<_>, String>>()?;
    Trust::new(&message.trust_domain, roots, issuers).map_err(|error| error.to_string())
}
