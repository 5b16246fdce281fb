//! The keys of an issuer, and their rotation.
//!
//! A rotation has three steps, so that no token is refused: the issuer publishes a further key, signs with it when
//! those who verify tokens have it, and drops the former one when its last token has expired.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::key::{IssuerKey, SignError};
use crate::topology::TokenAlgorithm;

/// A step of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum RotationStep {
    /// Publish a further key beside the one that signs
    Publish,
    /// Sign with the key that was published last
    Sign,
    /// Drop the key that signed before
    Drop,
}

/// What a key is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum KeyUse {
    /// The key is published and signs nothing yet.
    Next,
    /// The key signs tokens.
    Signing,
    /// The key is published and signs no more.
    Former,
}

/// A step of a rotation is not possible now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RotationError {
    /// A further key is published already.
    #[error("key \"{0}\" is published already, and signs nothing yet")]
    Published(String),
    /// No further key is published.
    #[error("no further key is published")]
    NotPublished,
    /// There is no former key.
    #[error("no key signed before key \"{0}\"")]
    NoFormer(String),
    /// A key that signed before is still published.
    #[error("key \"{0}\" signed before, and is still published")]
    Former(String),
}

/// The keys of an issuer. One of them signs.
#[derive(Clone, Serialize, Deserialize)]
pub struct IssuerKeys {
    algorithm: TokenAlgorithm,
    /// In the order in which they were generated.
    keys: Vec<HeldKey>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct HeldKey {
    used: KeyUse,
    key: IssuerKey,
}

impl IssuerKeys {
    /// Generates the first key.
    ///
    /// # Errors
    /// Returns an error if the system has no random numbers.
    pub fn generate(algorithm: TokenAlgorithm) -> Result<Self, SignError> {
        let first = HeldKey { used: KeyUse::Signing, key: IssuerKey::generate(algorithm, "1")? };
        Ok(Self { algorithm, keys: vec![first] })
    }

    /// Returns the ID of the first key of a use.
    #[must_use]
    pub fn id_of(&self, used: KeyUse) -> Option<&str> {
        self.keys.iter().find(|held| held.used == used).map(|held| held.key.id.as_str())
    }

    /// Returns the JSON Web Key Set (RFC 7517 §5), which has no private key.
    #[must_use]
    pub fn published(&self) -> Value {
        json!({"keys": self.keys.iter().map(|held| &held.key.public).collect::<Vec<_>>()})
    }

    /// Returns a token with these claims, by the key of an ID, or by the one that signs.
    ///
    /// # Errors
    /// Returns an error if there is no such key.
    pub fn token(&self, claims: &Value, id: Option<&str>) -> Result<String, SignError> {
        let id = id.or_else(|| self.id_of(KeyUse::Signing)).unwrap_or_default();
        match self.keys.iter().find(|held| held.key.id == id) {
            Some(held) => held.key.token(claims),
            None => {
                let known: Vec<&str> = self.keys.iter().map(|held| held.key.id.as_str()).collect();
                Err(SignError::Unknown { id: id.to_owned(), known: known.join(", ") })
            }
        }
    }

    /// Returns the step that a rotation takes next.
    #[must_use]
    pub fn next_step(&self) -> RotationStep {
        match (self.id_of(KeyUse::Next), self.id_of(KeyUse::Former)) {
            (Some(_), _) => RotationStep::Sign,
            (None, Some(_)) => RotationStep::Drop,
            (None, None) => RotationStep::Publish,
        }
    }

    /// Takes a step of a rotation.
    ///
    /// # Errors
    /// Returns an error if the step is not possible, or no key can be generated. Then nothing has changed.
    pub fn rotate(&mut self, step: RotationStep) -> Result<(), super::IssuersError> {
        match step {
            RotationStep::Publish => {
                if let Some(id) = self.id_of(KeyUse::Next) {
                    return Err(RotationError::Published(id.to_owned()).into());
                }
                if let Some(id) = self.id_of(KeyUse::Former) {
                    return Err(RotationError::Former(id.to_owned()).into());
                }
                let newest = self.keys.iter().filter_map(|held| held.key.id.parse::<u32>().ok()).max().unwrap_or(0);
                let id = newest.saturating_add(1).to_string();
                let key = IssuerKey::generate(self.algorithm, &id)?;
                self.keys.push(HeldKey { used: KeyUse::Next, key });
            }
            RotationStep::Sign => {
                if self.id_of(KeyUse::Next).is_none() {
                    return Err(RotationError::NotPublished.into());
                }
                for held in &mut self.keys {
                    held.used = if held.used == KeyUse::Next { KeyUse::Signing } else { KeyUse::Former };
                }
            }
            RotationStep::Drop => {
                if self.id_of(KeyUse::Former).is_none() {
                    let signing = self.id_of(KeyUse::Signing).unwrap_or_default().to_owned();
                    return Err(RotationError::NoFormer(signing).into());
                }
                self.keys.retain(|held| held.used != KeyUse::Former);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The IDs of the published keys, and of the one that signs.
    fn state(keys: &IssuerKeys) -> (Vec<String>, String) {
        let published = keys.published()["keys"].as_array().expect("keys").clone();
        let ids = published.iter().map(|key| key["kid"].as_str().expect("an ID").to_owned()).collect();
        (ids, keys.id_of(KeyUse::Signing).expect("a key that signs").to_owned())
    }

    #[test]
    fn a_rotation_publishes_signs_and_drops() {
        let mut keys = IssuerKeys::generate(TokenAlgorithm::EdDsa).expect("keys");
        assert_eq!(state(&keys), (vec!["1".to_owned()], "1".to_owned()));
        for (step, published, signing) in [
            (RotationStep::Publish, &["1", "2"][..], "1"),
            (RotationStep::Sign, &["1", "2"], "2"),
            (RotationStep::Drop, &["2"], "2"),
            (RotationStep::Publish, &["2", "3"], "2"),
        ] {
            assert_eq!(keys.next_step(), step);
            keys.rotate(step).expect("the next step");
            let published: Vec<String> = published.iter().map(|id| (*id).to_owned()).collect();
            assert_eq!(state(&keys), (published, signing.to_owned()), "{step:?}");
        }
    }

    #[test]
    fn a_step_that_would_leave_no_key_is_refused_and_changes_nothing() {
        let mut keys = IssuerKeys::generate(TokenAlgorithm::Es256).expect("keys");
        let refused = |keys: &mut IssuerKeys, step| keys.rotate(step).expect_err("refused").to_string();
        assert!(refused(&mut keys, RotationStep::Sign).contains("no further key"));
        assert!(refused(&mut keys, RotationStep::Drop).contains("no key signed before key \"1\""));
        keys.rotate(RotationStep::Publish).expect("published");
        assert!(refused(&mut keys, RotationStep::Publish).contains("key \"2\" is published already"));
        assert!(refused(&mut keys, RotationStep::Drop).contains("key \"1\""));
        keys.rotate(RotationStep::Sign).expect("signs");
        assert!(refused(&mut keys, RotationStep::Publish).contains("key \"1\" signed before"));
        assert_eq!(state(&keys).0, ["1", "2"]);
    }

    #[test]
    fn any_published_key_signs_on_request_and_the_key_set_has_no_private_key() {
        let mut keys = IssuerKeys::generate(TokenAlgorithm::Es256).expect("keys");
        keys.rotate(RotationStep::Publish).expect("published");
        let claims = json!({"sub": "ada"});
        let header = |id| keys.token(&claims, id).expect("a token").split('.').next().expect("a header").to_owned();
        assert_ne!(header(None), header(Some("2")));
        assert_eq!(header(None), header(Some("1")));
        let error = keys.token(&claims, Some("9")).expect_err("no such key").to_string();
        assert!(error.contains("no key \"9\"") && error.contains("keys: 1, 2"), "{error}");
        for key in keys.published()["keys"].as_array().expect("keys") {
            let mut names: Vec<&str> = key.as_object().expect("a key").keys().map(String::as_str).collect();
            names.sort_unstable();
            assert_eq!(names, ["alg", "crv", "kid", "kty", "use", "x", "y"]);
        }
    }
}
