//! Which keys verify a token.

use super::*;

#[test]
fn every_algorithm_verifies_by_its_own_keys_only() {
    for algorithm in ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"] {
        let key = SigningKey::generate(algorithm, "k");
        let token = key.token(&claims());
        let with_keys = |keys: &[Value]| {
            let (keys, _) = KeySet::parse(&key_set(keys));
            outcome(&rules([TokenRule { keys, ..rule() }]), &token, NOW)
        };
        let mut named = key.public();
        assert_eq!(with_keys(&[named.clone()]).as_deref(), Ok("alice"), "{algorithm}");
        named["alg"] = algorithm.into();
        assert_eq!(with_keys(&[named.clone()]).as_deref(), Ok("alice"), "{algorithm}");
        // A key for another algorithm of its type.
        named["alg"] = if algorithm == "RS256" { "PS256" } else { "RS256" }.into();
        let refusal = with_keys(&[named, KEYS.other.public()]);
        assert!(
            matches!(refusal, Err(TokenRejection::KeyMismatch | TokenRejection::Signature)),
            "{algorithm}: {refusal:?}"
        );
    }
}

#[test]
fn a_signature_must_be_that_of_the_key_that_the_token_names() {
    let of_header = |key: &SigningKey, header: Value| key.token_of(&header.to_string(), &claims().to_string());
    let valid = KEYS.rsa.token(&claims());
    let (header, rest) = valid.split_once('.').expect("a header");
    let (payload, signature) = rest.split_once('.').expect("a payload");
    let forged = KEYS.other.token(&with(json!({"sub": "mallory"})));
    let forged_payload = forged.split('.').nth(1).expect("a payload");
    let table = [
        (valid.clone(), None),
        (of_header(&KEYS.rsa, json!({"alg": "RS256"})), None),
        (of_header(&KEYS.rsa, json!({"alg": "RS256", "kid": ""})), None),
        (KEYS.ec.token(&claims()), None),
        (KEYS.ed.token(&claims()), None),
        (forged.clone(), Some(TokenRejection::Signature)),
        (format!("{header}.{forged_payload}.{signature}"), Some(TokenRejection::Signature)),
        (format!("{header}.{payload}.{}", &signature[..336]), Some(TokenRejection::Signature)),
        (of_header(&KEYS.rsa, json!({"alg": "RS256", "kid": "ec"})), Some(TokenRejection::KeyMismatch)),
        (of_header(&KEYS.rsa, json!({"alg": "ES256", "kid": "ec"})), Some(TokenRejection::Signature)),
        (of_header(&KEYS.ec, json!({"alg": "ES384", "kid": "ec"})), Some(TokenRejection::KeyMismatch)),
        (of_header(&KEYS.rsa, json!({"alg": "PS256", "kid": "rsa"})), Some(TokenRejection::Signature)),
        (of_header(&KEYS.ed, json!({"alg": "RS256", "kid": "rsa"})), Some(TokenRejection::Signature)),
        (of_header(&KEYS.rsa, json!({"alg": "RS256", "kid": "../../etc/passwd"})), Some(TokenRejection::KeyMismatch)),
        (of_header(&KEYS.rsa, json!({"alg": "RS256", "kid": "' OR 1=1"})), Some(TokenRejection::KeyMismatch)),
    ];
    for (token, expected) in table {
        assert_eq!(refused(&token), expected, "{token}");
    }
    // Keys that the token brings are not used.
    let own = of_header(&KEYS.other, json!({"alg": "RS256", "jwk": KEYS.other.public(), "jku": "https://evil/jwks"}));
    assert_eq!(refused(&own), Some(TokenRejection::Signature));
}

#[test]
fn unusable_keys_do_not_affect_others() {
    let rsa = KEYS.rsa.public();
    let token = KEYS.rsa.token(&claims());
    let none = Err(TokenRejection::NoKeys);
    let small = json!({"kty": "RSA", "kid": "rsa", "n": "AQAB".repeat(32), "e": "AQAB"});
    let table = [
        (String::new(), none.clone(), 2),
        ("{".to_owned(), none.clone(), 2),
        ("[]".to_owned(), none.clone(), 2),
        ("{}".to_owned(), none.clone(), 2),
        (json!({"keys": 1}).to_string(), none.clone(), 2),
        (key_set(&[]), none.clone(), 1),
        (key_set(&[json!({"kty": "oct", "kid": "rsa", "k": "c2VjcmV0"})]), none.clone(), 2),
        (key_set(&[json!(1), json!({}), json!({"kty": "XX"}), rsa.clone()]), Ok("alice".to_owned()), 3),
        (key_set(&[json!({"kty": "RSA", "n": "!", "e": "AQAB"}), rsa.clone()]), Ok("alice".to_owned()), 1),
        (key_set(&[json!({"kty": "RSA", "n": "", "e": ""}), rsa.clone()]), Ok("alice".to_owned()), 1),
        (key_set(&[small, rsa.clone()]), Ok("alice".to_owned()), 1),
        (
            key_set(&[json!({"kty": "EC", "crv": "P-256", "x": "AQ", "y": "AQ"}), rsa.clone()]),
            Ok("alice".to_owned()),
            1,
        ),
        (key_set(&[json!({"kty": "EC", "crv": "secp256k1"}), rsa.clone()]), Ok("alice".to_owned()), 1),
        (key_set(&[json!({"kty": "OKP", "crv": "Ed25519", "x": "AQ"}), rsa.clone()]), Ok("alice".to_owned()), 1),
        // Two keys of one ID, while one replaces the other.
        (key_set(&[KEYS.other.public(), rsa]), Ok("alice".to_owned()), 0),
        (key_set(&vec![KEYS.other.public(); 100]), Err(TokenRejection::Signature), 1),
        (" ".repeat(600 * 1024), none, 2),
    ];
    for (jwks, expected, count) in table {
        let (keys, problems) = KeySet::parse(&jwks);
        let name = &jwks[..jwks.len().min(200)];
        assert_eq!(problems.len(), count, "{name}: {problems:?}");
        assert_eq!(outcome(&rules([TokenRule { keys, ..rule() }]), &token, NOW), expected, "{name}");
    }
    // The rule of another issuer is not affected.
    let broken = TokenRule { issuer: "B".into(), keys: KeySet::default(), ..rule() };
    let both = rules([broken, rule()]);
    assert_eq!(outcome(&both, &token, NOW).as_deref(), Ok("alice"));
    assert_eq!(outcome(&both, &KEYS.rsa.token(&with(json!({"iss": "B"}))), NOW), Err(TokenRejection::NoKeys));
}
