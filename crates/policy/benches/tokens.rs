//! The time that a token takes: the bare verification of its signature, its whole validation, and its repetition.
//!
//! ```sh
//! cargo bench -p isthmus-policy --bench tokens
//! ```
//!
//! Prints a table. The bounds are 1.5 × of the bare verification, and 3 µs for a repeated token. Validation includes a copy
//! of the request's head, and finding, parsing and keeping the token.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use aws_lc_rs::signature::{self, ParsedPublicKey, RsaPublicKeyComponents};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use http::request;
use isthmus_policy::jwt::{KeySet, TokenCache, TokenRule, TokenRules};
use serde_json::{Value, json};

#[path = "../src/jwt/tests/issuer.rs"]
#[allow(dead_code, reason = "tests use the rest")]
mod issuer;

use issuer::{SigningKey, key_set};

const NOW: u64 = 1_800_000_000;
const BATCHES: usize = 51;
const BATCH: u32 = 200;

fn main() {
    println!("| algorithm | token | signature alone | validation | ratio | repeated |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: |");
    for algorithm in ["RS256", "PS256", "ES256", "ES384", "EdDSA"] {
        let key = SigningKey::generate(algorithm, "key-1");
        let token = key.token(&claims());
        let rules = rules(&key);
        let head = head(&token);
        let (signed, signature) = token.rsplit_once('.').expect("a signature");
        let signature = BASE64URL.decode(signature).expect("base64url");
        let public = parsed(algorithm, &key.public());
        let bare = || public.verify_sig(black_box(signed.as_bytes()), &signature).expect("a valid signature");
        let whole = || authenticate(&rules, &head, &mut TokenCache::default());
        let mut cache = TokenCache::default();
        let repeated = || authenticate(&rules, &head, &mut cache);
        let [bare, whole, repeated] = nanoseconds([&mut { bare }, &mut { whole }, &mut { repeated }]);
        println!(
            "| {algorithm} | {} B | {:.1} µs | {:.1} µs | {:.2} × | {:.2} µs |",
            token.len(),
            bare / 1000.0,
            whole / 1000.0,
            whole / bare,
            repeated / 1000.0
        );
    }
}

/// Returns the median of each operation's time. They take turns.
fn nanoseconds<const N: usize>(mut operations: [&mut dyn FnMut(); N]) -> [f64; N] {
    let mut times = [const { Vec::new() }; N];
    for _ in 0..BATCHES {
        for (operation, times) in operations.iter_mut().zip(&mut times) {
            let begun = Instant::now();
            for _ in 0..BATCH {
                operation();
            }
            times.push(begun.elapsed().as_nanos() as f64 / f64::from(BATCH));
        }
    }
    times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    })
}

fn authenticate(rules: &Arc<TokenRules>, head: &request::Parts, cache: &mut TokenCache) {
    let accepted = rules.authenticate(&mut black_box(head).clone(), cache, NOW);
    assert!(accepted.is_ok_and(|accepted| accepted.is_some()));
}

/// The claims of a token as identity providers issue them.
fn claims() -> Value {
    json!({
        "iss": "https://accounts.example.com/realms/shop",
        "sub": "f5a1f0de-2f0e-4f0a-9a53-7c5b8c7b2b11",
        "aud": ["shop", "account"],
        "azp": "shop-frontend",
        "exp": NOW + 300,
        "iat": NOW,
        "jti": "0b7a3b1e-6f1d-4a43-8c8e-3a0a5d6c9f10",
        "scope": "openid profile email orders:read orders:write",
        "groups": ["customers", "beta", "newsletter"],
        "email": "alice@example.com",
        "email_verified": true,
        "name": "Alice Example"
    })
}

fn rules(key: &SigningKey) -> Arc<TokenRules> {
    let (keys, problems) = KeySet::parse(&key_set(&[key.public()]));
    assert!(problems.is_empty(), "{problems:?}");
    let header = http::HeaderName::from_static;
    let rule = TokenRule {
        issuer: "https://accounts.example.com/realms/shop".into(),
        audiences: vec!["shop".into()],
        keys,
        locations: vec![],
        payload_header: None,
        claim_headers: vec![(header("x-user"), "sub".into())],
        forward_token: false,
        space_delimited: Arc::from(["scope".into(), "permission".into()]),
    };
    TokenRules::compile([Arc::new(rule)]).expect("a rule")
}

fn head(token: &str) -> request::Parts {
    let request = http::Request::get("/products/17?currency=EUR")
        .header("host", "reviews:9080")
        .header("user-agent", "shop/1.0")
        .header("accept", "application/json")
        .header("x-request-id", "5b1c4e2a-8c0d-4d7b-9a51-0f2d6a3c7e90")
        .header("authorization", format!("Bearer {token}"));
    request.body(()).expect("a request").into_parts().0
}

/// Returns a key as `aws-lc-rs` has it.
fn parsed(algorithm: &str, key: &Value) -> ParsedPublicKey {
    let bytes = |name: &str| BASE64URL.decode(key[name].as_str().expect("a text")).expect("base64url");
    let rsa = |parameters| RsaPublicKeyComponents { n: bytes("n"), e: bytes("e") }.to_parsed_public_key(parameters);
    let point = || [vec![4], bytes("x"), bytes("y")].concat();
    let parsed = match algorithm {
        "RS256" => rsa(&signature::RSA_PKCS1_2048_8192_SHA256),
        "PS256" => rsa(&signature::RSA_PSS_2048_8192_SHA256),
        "ES256" => ParsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point()),
        "ES384" => ParsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, point()),
        _ => ParsedPublicKey::new(&signature::ED25519, bytes("x")),
    };
    parsed.expect("a key")
}
