//! The keys of an issuer: JSON Web Key Sets (RFC 7517), as far as they are public keys for signatures.

use std::fmt;

use aws_lc_rs::signature::{self, ParsedPublicKey, RsaParameters, RsaPublicKeyComponents, VerificationAlgorithm};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde_json::{Map, Value};

use super::rejection::TokenRejection;

/// The number of keys of an issuer that are used. Those of real issuers have up to ten.
const MAX_KEYS: usize = 64;

/// The length limit of a key set.
const MAX_BYTES: usize = 512 * 1024;

/// A signature algorithm with a public key (RFC 7518 §3.1, RFC 8037).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
    EdDsa,
}

impl Algorithm {
    /// Returns the algorithm of this name. `none` and algorithms with shared secrets are not among them.
    pub(super) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Algorithm::Rs256,
            "RS384" => Algorithm::Rs384,
            "RS512" => Algorithm::Rs512,
            "PS256" => Algorithm::Ps256,
            "PS384" => Algorithm::Ps384,
            "PS512" => Algorithm::Ps512,
            "ES256" => Algorithm::Es256,
            "ES384" => Algorithm::Es384,
            "ES512" => Algorithm::Es512,
            "EdDSA" => Algorithm::EdDsa,
            _ => return None,
        })
    }
}

/// The algorithms of RSA keys.
static RSA: [(Algorithm, &RsaParameters); 6] = [
    (Algorithm::Rs256, &signature::RSA_PKCS1_2048_8192_SHA256),
    (Algorithm::Rs384, &signature::RSA_PKCS1_2048_8192_SHA384),
    (Algorithm::Rs512, &signature::RSA_PKCS1_2048_8192_SHA512),
    (Algorithm::Ps256, &signature::RSA_PSS_2048_8192_SHA256),
    (Algorithm::Ps384, &signature::RSA_PSS_2048_8192_SHA384),
    (Algorithm::Ps512, &signature::RSA_PSS_2048_8192_SHA512),
];

/// A curve of RFC 7518 §6.2.1.1.
struct Curve {
    name: &'static str,
    algorithm: Algorithm,
    verification: &'static dyn VerificationAlgorithm,
    coordinate_bytes: usize,
}

static CURVES: [Curve; 3] = [
    Curve {
        name: "P-256",
        algorithm: Algorithm::Es256,
        verification: &signature::ECDSA_P256_SHA256_FIXED,
        coordinate_bytes: 32,
    },
    Curve {
        name: "P-384",
        algorithm: Algorithm::Es384,
        verification: &signature::ECDSA_P384_SHA384_FIXED,
        coordinate_bytes: 48,
    },
    Curve {
        name: "P-521",
        algorithm: Algorithm::Es512,
        verification: &signature::ECDSA_P521_SHA512_FIXED,
        coordinate_bytes: 66,
    },
];

/// The usable keys of an issuer. Without any, every token of the issuer is refused.
#[derive(Debug, Default)]
pub struct KeySet {
    keys: Vec<Key>,
}

/// A key for one algorithm. An RSA key that names no algorithm is here six times, prepared for each.
struct Key {
    id: Option<Box<str>>,
    algorithm: Algorithm,
    parsed: ParsedPublicKey,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("id", &self.id).field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

impl KeySet {
    /// Reads a key set. Returns its usable keys, and a sentence for each reason why others are not.
    pub fn parse(text: &str) -> (Self, Vec<String>) {
        let (mut set, mut problems) = (Self::default(), Vec::new());
        match key_list(text) {
            Ok(list) => {
                for (index, key) in list.iter().enumerate() {
                    if index == MAX_KEYS {
                        problems
                            .push(format!("the key set has {} keys, of which the first {index} are used", list.len()));
                        break;
                    }
                    match read_key(key) {
                        Ok(keys) => set.keys.extend(keys),
                        Err(problem) => problems.push(format!("keys[{index}]: {problem}")),
                    }
                }
            }
            Err(problem) => problems.push(problem),
        }
        if set.keys.is_empty() {
            problems.push("the key set has no usable key, so all tokens of the issuer are refused".to_owned());
        }
        (set, problems)
    }

    /// Verifies a signature. Of keys with IDs, only those with the token's ID are used; without an ID, a key or a token
    /// matches all. The algorithm must be the key's.
    pub(super) fn verify(
        &self,
        algorithm: Algorithm,
        key_id: Option<&str>,
        signed: &[u8],
        signature: &[u8],
    ) -> Result<(), TokenRejection> {
        if self.keys.is_empty() {
            return Err(TokenRejection::NoKeys);
        }
        let mut rejection = TokenRejection::KeyMismatch;
        for key in &self.keys {
            let same_id = match (key.id.as_deref(), key_id) {
                (Some(id), Some(of_token)) => id == of_token,
                _ => true,
            };
            if !same_id || key.algorithm != algorithm {
                continue;
            }
            if key.parsed.verify_sig(signed, signature).is_ok() {
                return Ok(());
            }
            rejection = TokenRejection::Signature;
        }
        Err(rejection)
    }
}

fn key_list(text: &str) -> Result<Vec<Value>, String> {
    if text.is_empty() {
        return Err("there is no key set".to_owned());
    }
    if text.len() > MAX_BYTES {
        return Err(format!("the key set has {} bytes; at most {MAX_BYTES} are read", text.len()));
    }
    let set: Value = serde_json::from_str(text).map_err(|_| "the key set is not JSON".to_owned())?;
    match set {
        Value::Object(mut set) => match set.remove("keys") {
            Some(Value::Array(keys)) => Ok(keys),
            Some(_) => Err("\"keys\" is not a list".to_owned()),
            None => Err("the key set has no member \"keys\"".to_owned()),
        },
        _ => Err("the key set is not an object".to_owned()),
    }
}

fn read_key(key: &Value) -> Result<Vec<Key>, String> {
    let key = key.as_object().ok_or("it is not an object")?;
    let id: Option<Box<str>> = optional(key, "kid")?.filter(|id| !id.is_empty()).map(Box::from);
    let named = optional(key, "alg")?;
    let algorithm = match named {
        None => None,
        Some(name) => Some(Algorithm::parse(name).ok_or(format!("the algorithm {name:?} is not supported"))?),
    };
    let usable = match required(key, "kty")? {
        "RSA" => rsa(key)?,
        "EC" => vec![elliptic(key)?],
        "OKP" => vec![edwards(key)?],
        other => return Err(format!("the key type {other:?} is not supported; known are RSA, EC and OKP")),
    };
    let keys: Vec<_> =
        usable.into_iter().filter(|(of, _)| algorithm.is_none_or(|algorithm| algorithm == *of)).collect();
    if keys.is_empty() {
        return Err(format!("the algorithm {:?} is not one of the key's type", named.unwrap_or_default()));
    }
    Ok(keys.into_iter().map(|(algorithm, parsed)| Key { id: id.clone(), algorithm, parsed }).collect())
}

type Usable = (Algorithm, ParsedPublicKey);

fn rsa(key: &Map<String, Value>) -> Result<Vec<Usable>, String> {
    let (modulus, exponent) = (number(key, "n")?, number(key, "e")?);
    let bits = modulus.len() * 8 - modulus.first().map_or(0, |first| first.leading_zeros() as usize);
    if !(2048..=8192).contains(&bits) {
        return Err(format!("an RSA key of {bits} bits is not used; it must have 2048 to 8192"));
    }
    let components = RsaPublicKeyComponents { n: modulus, e: exponent };
    let parse = |(algorithm, parameters): &(Algorithm, &'static RsaParameters)| -> Result<Usable, String> {
        let parsed = components.to_parsed_public_key(parameters).map_err(|_| "it is not an RSA key")?;
        Ok((*algorithm, parsed))
    };
    RSA.iter().map(parse).collect()
}

fn elliptic(key: &Map<String, Value>) -> Result<Usable, String> {
    let name = required(key, "crv")?;
    let curve = CURVES.iter().find(|curve| curve.name == name);
    let curve =
        curve.ok_or_else(|| format!("the curve {name:?} is not supported; known are P-256, P-384 and P-521"))?;
    let mut point = vec![4];
    for coordinate in ["x", "y"] {
        let bytes = number(key, coordinate)?;
        let padding = curve.coordinate_bytes.checked_sub(bytes.len()).ok_or(format!("{coordinate:?} is too long"))?;
        point.extend(std::iter::repeat_n(0, padding));
        point.extend(bytes);
    }
    let parsed = ParsedPublicKey::new(curve.verification, point);
    Ok((curve.algorithm, parsed.map_err(|_| "it is not a point on its curve")?))
}

fn edwards(key: &Map<String, Value>) -> Result<Usable, String> {
    let name = required(key, "crv")?;
    if name != "Ed25519" {
        return Err(format!("the curve {name:?} is not supported; known is Ed25519"));
    }
    let parsed = ParsedPublicKey::new(&signature::ED25519, bytes(key, "x")?);
    Ok((Algorithm::EdDsa, parsed.map_err(|_| "it is not an Ed25519 key")?))
}

/// Returns the bytes of a number without leading zeros.
fn number(key: &Map<String, Value>, name: &str) -> Result<Vec<u8>, String> {
    let bytes = bytes(key, name)?;
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    Ok(bytes[zeros..].to_vec())
}

fn bytes(key: &Map<String, Value>, name: &str) -> Result<Vec<u8>, String> {
    let text = required(key, name)?.trim_end_matches('=');
    BASE64URL.decode(text).map_err(|_| format!("{name:?} is not base64url"))
}

fn required<'a>(key: &'a Map<String, Value>, name: &str) -> Result<&'a str, String> {
    optional(key, name)?.ok_or_else(|| format!("{name:?} is missing"))
}

fn optional<'a>(key: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, String> {
    match key.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("{name:?} is not a text")),
    }
}
