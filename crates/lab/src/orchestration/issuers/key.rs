//! A private key that signs tokens, and its public half as a JSON Web Key (RFC 7517).

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::topology::TokenAlgorithm;

/// A key cannot be made, or does not sign.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// No key could be generated.
    #[error("no key can be generated: the system has no random numbers")]
    Generate,
    /// The key in the file is not one.
    #[error("key \"{0}\" cannot be used\n  start the lab again: isthmus lab down, isthmus lab up")]
    Unusable(String),
    /// There is no key of that ID.
    #[error("there is no key \"{id}\"\n  keys: {known}")]
    Unknown {
        /// ID of the key.
        id: String,
        /// IDs of the keys that there are.
        known: String,
    },
}

/// A key pair. It has no `Debug`, so that no log has the private half.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct IssuerKey {
    pub(super) id: String,
    algorithm: TokenAlgorithm,
    /// The public half, with ID and algorithm.
    pub(super) public: Value,
    /// The private half: PKCS #8, in base64url.
    private: String,
}

impl IssuerKey {
    pub(super) fn generate(algorithm: TokenAlgorithm, id: &str) -> Result<Self, SignError> {
        let failed = |_| SignError::Generate;
        let random = SystemRandom::new();
        let private = match algorithm {
            TokenAlgorithm::Rs256 => {
                let pair = RsaKeyPair::generate(KeySize::Rsa2048).map_err(failed)?;
                let der: Pkcs8V1Der<'_> = pair.as_der().map_err(failed)?;
                der.as_ref().to_vec()
            }
            TokenAlgorithm::Es256 => {
                let pair = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).map_err(failed)?;
                pair.as_ref().to_vec()
            }
            TokenAlgorithm::EdDsa => Ed25519KeyPair::generate_pkcs8(&random).map_err(failed)?.as_ref().to_vec(),
        };
        let mut key = Self { id: id.to_owned(), algorithm, public: Value::Null, private: BASE64URL.encode(private) };
        let mut public = key.pair()?.public().ok_or(SignError::Generate)?;
        public["kid"] = json!(id);
        public["alg"] = json!(algorithm.name());
        public["use"] = json!("sig");
        key.public = public;
        Ok(key)
    }

    /// Returns a token with these claims (RFC 7519).
    pub(super) fn token(&self, claims: &Value) -> Result<String, SignError> {
        let header = json!({"alg": self.algorithm.name(), "kid": self.id, "typ": "JWT"});
        let signed = format!("{}.{}", BASE64URL.encode(header.to_string()), BASE64URL.encode(claims.to_string()));
        let signature = self.pair()?.sign(signed.as_bytes()).ok_or_else(|| SignError::Unusable(self.id.clone()))?;
        Ok(format!("{signed}.{}", BASE64URL.encode(signature)))
    }

    fn pair(&self) -> Result<Pair, SignError> {
        let unusable = || SignError::Unusable(self.id.clone());
        let private = BASE64URL.decode(&self.private).map_err(|_| unusable())?;
        let pair = match self.algorithm {
            TokenAlgorithm::Rs256 => RsaKeyPair::from_pkcs8(&private).map(|pair| Pair::Rsa(pair.into())),
            TokenAlgorithm::Es256 => EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &private).map(Pair::Ec),
            TokenAlgorithm::EdDsa => Ed25519KeyPair::from_pkcs8(&private).map(Pair::Ed),
        };
        pair.map_err(|_| unusable())
    }
}

enum Pair {
    Rsa(Box<RsaKeyPair>),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

impl Pair {
    /// Returns the parameters of the public half (RFC 7518 §6, RFC 8037 §2).
    fn public(&self) -> Option<Value> {
        let encode = |bytes: &[u8]| BASE64URL.encode(bytes);
        Some(match self {
            Self::Rsa(pair) => {
                let (modulus, exponent) = rsa_numbers(pair.public_key().as_ref())?;
                json!({"kty": "RSA", "n": encode(modulus), "e": encode(exponent)})
            }
            Self::Ec(pair) => {
                // An uncompressed point: 4, and two coordinates (SEC 1 §2.3.3).
                let point = pair.public_key().as_ref().get(1..)?;
                let (x, y) = point.split_at_checked(point.len() / 2)?;
                json!({"kty": "EC", "crv": "P-256", "x": encode(x), "y": encode(y)})
            }
            Self::Ed(pair) => json!({"kty": "OKP", "crv": "Ed25519", "x": encode(pair.public_key().as_ref())}),
        })
    }

    fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).ok()?;
                Some(signature)
            }
            Self::Ec(pair) => Some(pair.sign(&random, message).ok()?.as_ref().to_vec()),
            Self::Ed(pair) => Some(pair.sign(message).as_ref().to_vec()),
        }
    }
}

/// Reads modulus and exponent from the DER of an RSAPublicKey (RFC 8017 §A.1.1): a sequence of two integers.
fn rsa_numbers(der: &[u8]) -> Option<(&[u8], &[u8])> {
    /// Splits the first element's content from what follows it.
    fn element(der: &[u8]) -> Option<(&[u8], &[u8])> {
        let (length, start) = match usize::from(*der.get(1)?) {
            short @ 0..128 => (short, 2),
            long => {
                let bytes = der.get(2..2 + (long & 0x7f))?;
                (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), 2 + bytes.len())
            }
        };
        der.get(start..)?.split_at_checked(length)
    }
    let without_sign = |number| <[u8]>::strip_prefix(number, &[0]).unwrap_or(number);
    let (modulus, rest) = element(element(der)?.0)?;
    Some((without_sign(modulus), without_sign(element(rest)?.0)))
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
    };

    use super::*;

    #[test]
    fn the_public_half_verifies_what_the_private_half_signs() {
        for algorithm in TokenAlgorithm::ALL {
            let key = IssuerKey::generate(algorithm, "7").expect("a key");
            let restored: IssuerKey =
                serde_json::from_value(serde_json::to_value(&key).expect("JSON")).expect("the same");
            let token = restored.token(&json!({"sub": "ada"})).expect("signed");
            let (signed, signature) = token.rsplit_once('.').expect("three parts");
            let (header, claims) = signed.split_once('.').expect("three parts");
            let json = |part: &str| -> Value {
                serde_json::from_slice(&BASE64URL.decode(part).expect("base64url")).expect("JSON")
            };
            assert_eq!(json(header), json!({"alg": algorithm.name(), "kid": "7", "typ": "JWT"}));
            assert_eq!(json(claims), json!({"sub": "ada"}));
            assert_eq!((&key.public["kid"], &key.public["alg"]), (&json!("7"), &json!(algorithm.name())));
            let part = |name: &str| BASE64URL.decode(key.public[name].as_str().expect(name)).expect("base64url");
            let (message, signature) = (signed.as_bytes(), BASE64URL.decode(signature).expect("base64url"));
            let verified = match algorithm {
                TokenAlgorithm::Rs256 => RsaPublicKeyComponents { n: part("n"), e: part("e") }.verify(
                    &RSA_PKCS1_2048_8192_SHA256,
                    message,
                    &signature,
                ),
                TokenAlgorithm::Es256 => {
                    let point = [vec![4], part("x"), part("y")].concat();
                    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, &signature)
                }
                TokenAlgorithm::EdDsa => UnparsedPublicKey::new(&ED25519, part("x")).verify(message, &signature),
            };
            assert!(verified.is_ok(), "{}", algorithm.name());
        }
    }

    #[test]
    fn der_that_ends_early_has_no_numbers() {
        for der in [&[][..], &[0x30], &[0x30, 0x82, 1], &[0x30, 4, 2, 2, 1], &[0x30, 3, 2, 1, 1]] {
            assert_eq!(rsa_numbers(der), None, "{der:?}");
        }
        assert_eq!(rsa_numbers(&[0x30, 7, 2, 2, 0, 0x81, 2, 1, 3]), Some((&[0x81][..], &[3][..])));
    }
}
