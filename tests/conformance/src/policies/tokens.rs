//! Tokens of cases, and the keys that sign them. Keys are made anew in each run: outcomes do not depend on them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde_json::{Map, Value, json};

use crate::case::CaseToken;

#[path = "../../../../crates/policy/src/jwt/tests/issuer.rs"]
#[allow(dead_code, reason = "tests of the policies' own crate use the rest")]
mod issuer;

use issuer::{SigningKey, key_set};

/// The keys of a run, which are made when they are needed.
#[derive(Default)]
pub struct Keys {
    made: Mutex<BTreeMap<String, SigningKey>>,
}

impl Keys {
    /// A set of keys, by their names, separated by commas.
    pub fn set(&self, names: &str) -> String {
        let keys: Vec<Value> = names.split(',').map(|name| self.with(name, SigningKey::public)).collect();
        key_set(&keys)
    }

    /// Does something with a key. Its name says its algorithm and is its ID; `impostor` has the ID of `rsa`.
    fn with<T>(&self, name: &str, action: impl FnOnce(&SigningKey) -> T) -> T {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let key = made.entry(name.to_owned()).or_insert_with(|| {
            let id = if name == "impostor" { "rsa" } else { name };
            SigningKey::generate(algorithm(name), id)
        });
        action(key)
    }

    /// Makes a token.
    ///
    /// # Errors
    /// Returns an error if a time is not valid.
    pub fn token(&self, token: &CaseToken) -> Result<String> {
        if let Some(text) = &token.text {
            return Ok(text.clone());
        }
        let name = token.key.as_deref().unwrap_or("rsa");
        let id = if name == "impostor" { "rsa" } else { name };
        let header = merged(json!({"alg": algorithm(name), "kid": id}), &token.header)?;
        let payload = claims(token)?;
        let signed = format!("{}.{}", BASE64URL.encode(header.to_string()), BASE64URL.encode(payload.to_string()));
        if let Some(signature) = &token.signature {
            return Ok(format!("{signed}.{signature}"));
        }
        if header["alg"] == "HS256" {
            // The public key as a shared secret.
            let public = self.with(name, SigningKey::public).to_string();
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, public.as_bytes()), signed.as_bytes());
            return Ok(format!("{signed}.{}", BASE64URL.encode(tag)));
        }
        Ok(self.with(name, |key| key.token_of(&header.to_string(), &payload.to_string())))
    }
}

/// The claims of a token.
///
/// # Errors
/// Returns an error if a time is not valid.
pub fn claims(token: &CaseToken) -> Result<Value> {
    merged(json!({"iss": "https://issuer.example", "sub": "alice", "exp": "now+3600"}), &token.claims)
}

fn algorithm(key: &str) -> &'static str {
    match key.split('-').next().unwrap_or_default() {
        "rs384" => "RS384",
        "rs512" => "RS512",
        "ps256" => "PS256",
        "ps384" => "PS384",
        "ps512" => "PS512",
        "es256" => "ES256",
        "es384" => "ES384",
        "es512" => "ES512",
        "ed" => "EdDSA",
        _ => "RS256",
    }
}

fn merged(mut base: Value, with: &Map<String, Value>) -> Result<Value> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    if let Some(fields) = base.as_object_mut() {
        fields.extend(with.clone());
        fields.retain(|_, value| !value.is_null());
        for value in fields.values_mut() {
            if let Some(seconds) =
                value.as_str().and_then(|text| text.strip_prefix("now")).filter(|text| !text.is_empty())
            {
                let seconds: i64 = seconds.parse().with_context(|| format!("{value} is no time"))?;
                *value = json!(now.saturating_add_signed(seconds));
            }
        }
    }
    Ok(base)
}
