//! The keys of the issuers of tokens, and where they are fetched from.

use api::security::request_authentication::JwtRule;
use serde::{Deserialize, Serialize};

use super::Text;

/// Where an issuer's keys are.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum KeySource {
    /// At this URL (`jwksUri`).
    Url(Text),
    /// At the URL in the discovery document of this issuer.
    Issuer(Text),
}

impl KeySource {
    /// Returns the place of a rule's keys; `None` if the rule has them itself.
    pub fn of(rule: &JwtRule) -> Option<KeySource> {
        match (rule.jwks.is_empty(), rule.jwks_uri.is_empty()) {
            (false, _) => None,
            (true, false) => Some(KeySource::Url(rule.jwks_uri.as_str().into())),
            (true, true) => Some(KeySource::Issuer(rule.issuer.as_str().into())),
        }
    }
}

/// What is known of the keys at a place.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Keys {
    /// The last key set that was fetched, as JSON; `None`: none ever was.
    pub set: Option<Text>,
    /// Why the last attempt failed.
    #[serde(skip)]
    pub failure: Option<Text>,
}
