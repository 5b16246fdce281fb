//! Tables of tokens, with real keys and signatures.

use std::sync::{Arc, LazyLock};

use http::request;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::Claims as _;
use issuer::{SigningKey, key_set};

pub(crate) mod issuer;
mod keys;
mod requests;

const NOW: u64 = 1_800_000_000;

struct Keys {
    rsa: SigningKey,
    ec: SigningKey,
    ed: SigningKey,
    other: SigningKey,
}

static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys {
    rsa: SigningKey::generate("RS256", "rsa"),
    ec: SigningKey::generate("ES256", "ec"),
    ed: SigningKey::generate("EdDSA", "ed"),
    other: SigningKey::generate("RS256", "rsa"),
});

fn claims() -> Value {
    json!({"iss": "A", "sub": "alice", "aud": "shop", "exp": NOW + 600})
}

/// The claims of a valid token, changed.
fn with(changes: Value) -> Value {
    let mut claims = claims();
    for (name, value) in changes.as_object().expect("an object") {
        match value {
            Value::Null => claims.as_object_mut().expect("an object").remove(name),
            value => claims.as_object_mut().expect("an object").insert(name.clone(), value.clone()),
        };
    }
    claims
}

/// A rule for the issuer A and the audience `shop`.
fn rule() -> TokenRule {
    let jwks = key_set(&[KEYS.rsa.public(), KEYS.ec.public(), KEYS.ed.public()]);
    let (keys, problems) = KeySet::parse(&jwks);
    assert_eq!(problems, [] as [String; 0]);
    TokenRule {
        issuer: "A".into(),
        audiences: vec!["shop".into()],
        keys,
        locations: vec![],
        payload_header: None,
        claim_headers: vec![],
        forward_token: false,
        space_delimited: Arc::default(),
    }
}

fn rules(rules: impl IntoIterator<Item = TokenRule>) -> Arc<TokenRules> {
    TokenRules::compile(rules.into_iter().map(Arc::new)).expect("rules")
}

fn head(headers: &[(&str, &str)]) -> request::Parts {
    let request = http::Request::get("/");
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.body(()).expect("a request").into_parts().0
}

/// The outcome of a request with one token: the subject, or the reason of the refusal.
fn outcome(rules: &Arc<TokenRules>, token: &str, now: u64) -> Result<String, TokenRejection> {
    let mut head = head(&[("authorization", &format!("Bearer {token}"))]);
    let accepted = rules.authenticate(&mut head, &mut TokenCache::default(), now)?.expect("a token");
    assert!(head.headers.is_empty(), "the token is not forwarded");
    Ok(accepted.verified.subject().unwrap_or_default().to_owned())
}

fn refused(token: &str) -> Option<TokenRejection> {
    outcome(&rules([rule()]), token, NOW).err()
}

#[test]
fn a_token_with_a_bad_form_is_refused() {
    let valid = KEYS.rsa.token(&claims());
    let (signed, signature) = valid.rsplit_once('.').expect("a signature");
    let of_header = |header: &str| KEYS.rsa.token_of(header, &claims().to_string());
    let of_payload = |payload: &str| KEYS.rsa.token_of(r#"{"alg":"RS256","kid":"rsa"}"#, payload);
    let deep = format!(r#"{{"iss":"A","x":{}{}}}"#, "[".repeat(200), "]".repeat(200));
    let table = [
        ("a".to_owned(), TokenRejection::Format),
        (String::from("."), TokenRejection::Format),
        (signed.to_owned(), TokenRejection::Format),
        (format!("{signed}."), TokenRejection::Format),
        (format!("{valid}.{valid}"), TokenRejection::Format),
        ("a.b.c.d.e".to_owned(), TokenRejection::Format),
        (format!("{valid}{}", "A".repeat(MAX_TOKEN_BYTES)), TokenRejection::TooLong),
        ("%.b.c".to_owned(), TokenRejection::Format),
        (format!("{valid}=="), TokenRejection::SignatureEncoding),
        (format!("{signed}.{}", signature.replace(&signature[..1], "+")), TokenRejection::SignatureEncoding),
        ("a.b.c".to_owned(), TokenRejection::HeaderEncoding),
        (of_header("{"), TokenRejection::HeaderJson),
        (of_header("[]"), TokenRejection::HeaderJson),
        (of_header(r#"{"alg":"none","alg":"RS256"}"#), TokenRejection::HeaderJson),
        (of_header("{}"), TokenRejection::AlgorithmType),
        (of_header(r#"{"alg":256}"#), TokenRejection::AlgorithmType),
        (of_header(r#"{"alg":"none"}"#), TokenRejection::Algorithm),
        (of_header(r#"{"alg":"nOnE"}"#), TokenRejection::Algorithm),
        (of_header(r#"{"alg":"HS256","kid":"rsa"}"#), TokenRejection::Algorithm),
        (of_header(r#"{"alg":"RS256","kid":7}"#), TokenRejection::KeyIdType),
        (of_header(r#"{"alg":"RS256","crit":["b64"],"b64":false}"#), TokenRejection::Critical),
        (of_payload("{"), TokenRejection::PayloadJson),
        (of_payload("7"), TokenRejection::PayloadJson),
        // A token in a token.
        (of_payload(&valid), TokenRejection::PayloadJson),
        (of_payload(&deep), TokenRejection::PayloadJson),
        (of_payload(r#"{"iss":"A","iss":"B"}"#), TokenRejection::PayloadJson),
        (of_payload(r#"{"iss":"A","aud":"shop","o":{"a":1,"a":2}}"#), TokenRejection::PayloadJson),
    ];
    for (token, expected) in table {
        assert_eq!(refused(&token), Some(expected), "{}", &token[..token.len().min(100)]);
    }
}

#[test]
fn a_token_with_bad_claims_is_refused() {
    let table = [
        (json!({"iss": "B"}), Some(TokenRejection::UnknownIssuer)),
        (json!({"iss": null}), Some(TokenRejection::UnknownIssuer)),
        (json!({"iss": 1}), Some(TokenRejection::ClaimNotString("iss"))),
        (json!({"sub": ["a"]}), Some(TokenRejection::ClaimNotString("sub"))),
        (json!({"jti": 1}), Some(TokenRejection::ClaimNotString("jti"))),
        (json!({"aud": "other"}), Some(TokenRejection::Audience)),
        (json!({"aud": null}), Some(TokenRejection::Audience)),
        (json!({"aud": []}), Some(TokenRejection::Audience)),
        (json!({"aud": ["other", "shop"]}), None),
        (json!({"aud": "https://shop/"}), None),
        (json!({"aud": ["shop", 1]}), Some(TokenRejection::AudienceType)),
        (json!({"exp": NOW - 60}), None),
        (json!({"exp": NOW - 61}), Some(TokenRejection::Expired)),
        (json!({"exp": NOW as f64 - 60.5}), Some(TokenRejection::Expired)),
        (json!({"exp": 0}), Some(TokenRejection::Expired)),
        (json!({"exp": null}), None),
        (json!({"exp": u64::MAX}), None),
        (json!({"exp": 1e300}), Some(TokenRejection::ClaimOutOfRange("exp"))),
        (json!({"exp": -1}), Some(TokenRejection::ClaimOutOfRange("exp"))),
        (json!({"exp": "1800000600"}), Some(TokenRejection::ClaimNotInteger("exp"))),
        (json!({"nbf": NOW + 60}), None),
        (json!({"nbf": NOW + 61}), Some(TokenRejection::NotYetValid)),
        (json!({"nbf": -0.5}), Some(TokenRejection::ClaimOutOfRange("nbf"))),
        (json!({"iat": NOW + 600}), None),
        (json!({"iat": "now"}), Some(TokenRejection::ClaimNotInteger("iat"))),
    ];
    for (changes, expected) in table {
        assert_eq!(refused(&KEYS.rsa.token(&with(changes.clone()))), expected, "{changes}");
    }
}

#[test]
fn each_issuer_has_its_own_keys_and_audiences() {
    let (keys, _) = KeySet::parse(&key_set(&[KEYS.other.public()]));
    let second = TokenRule { issuer: "B".into(), audiences: vec![], keys, ..rule() };
    let third = TokenRule { audiences: vec!["mail".into()], ..rule() };
    let rules = rules([rule(), second, third]);
    let of_b = with(json!({"iss": "B", "aud": null}));
    let table = [
        (KEYS.rsa.token(&claims()), None),
        (KEYS.other.token(&of_b), None),
        (KEYS.rsa.token(&with(json!({"aud": "mail"}))), None),
        (KEYS.rsa.token(&of_b), Some(TokenRejection::Signature)),
        (KEYS.other.token(&claims()), Some(TokenRejection::Signature)),
        (KEYS.rsa.token(&with(json!({"iss": "C"}))), Some(TokenRejection::UnknownIssuer)),
        (KEYS.other.token(&with(json!({"iss": "B", "exp": 1}))), Some(TokenRejection::Expired)),
        (KEYS.rsa.token(&with(json!({"aud": "chat"}))), Some(TokenRejection::Audience)),
    ];
    for (token, expected) in table {
        assert_eq!(outcome(&rules, &token, NOW).err(), expected, "{token}");
    }
}

fn part() -> impl Strategy<Value = String> {
    prop_oneof![
        "[A-Za-z0-9_.=-]{0,40}",
        r#"[{}\[\]":,a-z0-9.]{0,60}"#.prop_map(|json| encode(&json)),
        ("(alg|kid|iss|exp|nbf|aud|crit)", r#"(-?[0-9]{1,30}|"(RS256|ES256|A|none)"|\[\]|null|1e400)"#)
            .prop_map(|(name, value)| encode(&format!(r#"{{"alg":"RS256","iss":"A","x":1,"{name}":{value}}}"#))),
    ]
}

fn encode(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text)
}

proptest! {
    #[test]
    fn no_token_makes_it_panic_and_none_is_accepted(parts in prop::collection::vec(part(), 1..5)) {
        prop_assert!(outcome(&rules([rule()]), &parts.join("."), NOW).is_err());
    }

    #[test]
    fn no_request_makes_it_panic(value in prop::collection::vec(any::<u8>(), 0..80), query in "[a-z%=&_0-9]{0,60}") {
        let mut rule = rule();
        rule.locations.extend(TokenLocation::default_ones());
        rule.locations.push(TokenLocation::Cookie("c".into()));
        let rules = rules([rule]);
        let mut head = head(&[]);
        if let Ok(value) = http::HeaderValue::from_bytes(&value) {
            head.headers.insert("authorization", value.clone());
            head.headers.insert("cookie", value);
        }
        head.uri = format!("/?access_token={query}").parse().expect("a target");
        prop_assert!(rules.authenticate(&mut head, &mut TokenCache::default(), NOW).is_err());
    }

    #[test]
    fn no_key_set_makes_it_panic(text in r#"[{}\[\]":,a-zA-Z0-9.-]{0,200}"#) {
        let (_, problems) = KeySet::parse(&text);
        prop_assert!(!problems.is_empty());
    }
}
