//! Keys that sign tokens, for tests and benchmarks.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaEncoding, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde_json::{Value, json};

/// A key that signs tokens.
pub(crate) struct SigningKey {
    pair: Pair,
    id: String,
    algorithm: &'static str,
}

enum Pair {
    Rsa(Box<RsaKeyPair>),
    Ec(EcdsaKeyPair, &'static str),
    Ed(Ed25519KeyPair),
}

impl SigningKey {
    /// Generates a key for an algorithm.
    pub(crate) fn generate(algorithm: &'static str, id: &str) -> Self {
        let ec = |algorithm, curve| Pair::Ec(EcdsaKeyPair::generate(algorithm).expect("a key"), curve);
        let pair = match algorithm {
            "ES256" => ec(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, "P-256"),
            "ES384" => ec(&signature::ECDSA_P384_SHA384_FIXED_SIGNING, "P-384"),
            "ES512" => ec(&signature::ECDSA_P521_SHA512_FIXED_SIGNING, "P-521"),
            "EdDSA" => Pair::Ed(Ed25519KeyPair::generate().expect("a key")),
            _ => Pair::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).expect("a key").into()),
        };
        Self { pair, id: id.to_owned(), algorithm }
    }

    /// Returns the public key as a JSON Web Key that names no algorithm.
    pub(crate) fn public(&self) -> Value {
        let encode = |bytes: &[u8]| BASE64URL.encode(bytes);
        match &self.pair {
            Pair::Rsa(pair) => {
                let (modulus, exponent) = rsa_numbers(pair.public_key().as_ref());
                json!({"kty": "RSA", "kid": self.id, "n": encode(modulus), "e": encode(exponent)})
            }
            Pair::Ec(pair, curve) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                json!({"kty": "EC", "kid": self.id, "crv": curve, "x": encode(x), "y": encode(y)})
            }
            Pair::Ed(pair) => {
                json!({"kty": "OKP", "kid": self.id, "crv": "Ed25519", "x": encode(pair.public_key().as_ref())})
            }
        }
    }

    /// Returns a token with these claims.
    pub(crate) fn token(&self, claims: &Value) -> String {
        self.token_of(&json!({"alg": self.algorithm, "kid": self.id}).to_string(), &claims.to_string())
    }

    /// Returns a token with this header and this payload, signed by the key's algorithm.
    pub(crate) fn token_of(&self, header: &str, payload: &str) -> String {
        let signed = format!("{}.{}", BASE64URL.encode(header), BASE64URL.encode(payload));
        format!("{signed}.{}", BASE64URL.encode(self.sign(signed.as_bytes())))
    }

    /// Signs a message.
    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Rsa(pair) => {
                let encoding: &'static dyn RsaEncoding = match self.algorithm {
                    "RS384" => &signature::RSA_PKCS1_SHA384,
                    "RS512" => &signature::RSA_PKCS1_SHA512,
                    "PS256" => &signature::RSA_PSS_SHA256,
                    "PS384" => &signature::RSA_PSS_SHA384,
                    "PS512" => &signature::RSA_PSS_SHA512,
                    _ => &signature::RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(encoding, &random, message, &mut signature).expect("a signature");
                signature
            }
            Pair::Ec(pair, _) => pair.sign(&random, message).expect("a signature").as_ref().to_vec(),
            Pair::Ed(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }
}

/// Returns a key set.
pub(crate) fn key_set(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

/// Reads the DER of an RSAPublicKey (RFC 8017 §A.1.1): a sequence of two integers.
fn rsa_numbers(der: &[u8]) -> (&[u8], &[u8]) {
    /// Splits the first element's content from what follows it.
    fn element(der: &[u8]) -> (&[u8], &[u8]) {
        let (length, start) = match usize::from(der[1]) {
            short @ 0..128 => (short, 2),
            long => {
                let bytes = &der[2..2 + (long & 0x7f)];
                (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), 2 + bytes.len())
            }
        };
        der[start..].split_at(length)
    }
    let (modulus, rest) = element(element(der).0);
    let without_sign = |number| <[u8]>::strip_prefix(number, &[0]).unwrap_or(number);
    (without_sign(modulus), without_sign(element(rest).0))
}
