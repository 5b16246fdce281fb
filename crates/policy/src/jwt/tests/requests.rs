//! Requests with no token, with one and with several; what is known of tokens.

use super::*;

/// Authenticates a request, and returns the subject and what the application receives.
fn received(rules: &Arc<TokenRules>, headers: &[(&str, &str)]) -> Result<(Option<String>, String), TokenRejection> {
    let mut head = head(headers);
    let accepted = rules.authenticate(&mut head, &mut TokenCache::default(), NOW)?;
    let subject = accepted.and_then(|accepted| accepted.verified.subject().map(str::to_owned));
    let mut lines: Vec<_> = head
        .headers
        .iter()
        .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
        .collect();
    lines.sort();
    Ok((subject, lines.join("\n")))
}

#[test]
fn of_several_tokens_all_must_be_valid() {
    let header =
        |name: &'static str| TokenLocation::Header { name: http::HeaderName::from_static(name), prefix: "".into() };
    let (keys, _) = KeySet::parse(&key_set(&[KEYS.other.public()]));
    let second = TokenRule {
        issuer: "B".into(),
        keys,
        locations: vec![header("x-b"), TokenLocation::Cookie("c".into())],
        ..rule()
    };
    let rules = rules([TokenRule { locations: vec![header("x-a")], ..rule() }, second]);
    let (a, b) = (KEYS.rsa.token(&claims()), KEYS.other.token(&with(json!({"iss": "B", "sub": "bob"}))));
    let cookie = format!("a=1; c={b}; d=2");
    let subject = |name: &str| Some(name.to_owned());
    assert_eq!(received(&rules, &[]), Ok((None, String::new())));
    assert_eq!(received(&rules, &[("authorization", "Bearer x")]), Ok((None, "authorization: Bearer x".into())));
    assert_eq!(received(&rules, &[("x-b", &b), ("x-a", &a)]), Ok((subject("alice"), String::new())));
    assert_eq!(received(&rules, &[("x-a", &a), ("x-a", &a)]), Ok((subject("alice"), String::new())));
    assert_eq!(received(&rules, &[("cookie", &cookie)]), Ok((subject("bob"), "cookie: a=1; d=2".into())));
    let table: [(&[(&str, &str)], TokenRejection); 6] = [
        (&[("x-a", &a), ("x-b", "bad")], TokenRejection::Format),
        (&[("x-a", "bad"), ("x-b", &b)], TokenRejection::Format),
        (&[("x-a", &b)], TokenRejection::UnknownIssuer),
        (&[("x-a", "")], TokenRejection::Format),
        (&[("cookie", &cookie), ("cookie", "c=bad")], TokenRejection::Format),
        (&[("x-a", &a), ("x-a", &a), ("x-a", &a), ("x-a", &a), ("x-a", &a)], TokenRejection::TooMany),
    ];
    for (headers, expected) in table {
        assert_eq!(received(&rules, headers), Err(expected), "{headers:?}");
    }
}

#[test]
fn claims_become_headers_and_forged_ones_are_removed() {
    let name = http::HeaderName::from_static;
    let claim = |header, claim: &str| (name(header), claim.into());
    let rules = rules([TokenRule {
        payload_header: Some(name("x-payload")),
        claim_headers: vec![
            claim("x-sub", "sub"),
            claim("x-n", "n"),
            claim("x-nested", "o.k"),
            claim("x-list", "list"),
            claim("x-none", "none"),
            claim("x-bad", "bad"),
        ],
        forward_token: true,
        ..rule()
    }]);
    let forged = ["x-payload", "x-sub", "x-n", "x-nested", "x-list", "x-none", "x-bad"].map(|name| (name, "forged"));
    assert_eq!(received(&rules, &forged), Ok((None, String::new())));
    let spelled = [("x_sub", "forged"), ("X_payload", "forged"), ("x_other", "1")];
    assert_eq!(received(&rules, &spelled), Ok((None, "x_other: 1".into())));
    let claims = with(json!({"n": -5, "o": {"k": true}, "list": ["a"], "none": null, "bad": "a\r\nx-admin: 1"}));
    let token = KEYS.rsa.token(&claims);
    let bearer = format!("Bearer {token}");
    let (_, lines) = received(&rules, &[&forged[..], &[("authorization", &*bearer)]].concat()).expect("a valid token");
    let payload = token.split('.').nth(1).expect("a payload");
    let expected = format!(
        "authorization: {bearer}\nx-list: WyJhIl0=\nx-n: -5\nx-nested: true\nx-payload: {payload}\nx-sub: alice"
    );
    assert_eq!(lines, expected);
    // Nor does a preflight have them; its token is not read.
    let mut preflight = head(&[("origin", "a"), ("access-control-request-method", "GET"), ("x-sub", "forged")]);
    preflight.method = http::Method::OPTIONS;
    preflight.headers.insert("authorization", http::HeaderValue::from_static("Bearer bad"));
    assert!(matches!(rules.authenticate(&mut preflight, &mut TokenCache::default(), NOW), Ok(None)));
    assert!(!preflight.headers.contains_key("x-sub"));
    preflight.headers.remove("origin");
    assert!(rules.authenticate(&mut preflight, &mut TokenCache::default(), NOW).is_err());
}

#[test]
fn a_cached_token_is_refused_once_it_expires_or_the_rules_change() {
    let (rules, mut cache) = (rules([rule()]), TokenCache::default());
    let bearer = format!("Bearer {}", KEYS.rsa.token(&claims()));
    let mut at = |rules: &Arc<TokenRules>, now| {
        rules
            .authenticate(&mut head(&[("authorization", &bearer)]), &mut cache, now)
            .map(|token| token.expect("a token"))
    };
    let first = at(&rules, NOW).expect("valid");
    assert!(std::rc::Rc::ptr_eq(&first, &at(&rules, NOW + 660).expect("valid")), "from the cache");
    assert_eq!(at(&rules, NOW + 661).err(), Some(TokenRejection::Expired));
    assert!(!std::rc::Rc::ptr_eq(&first, &at(&rules, NOW).expect("valid")), "no longer in the cache");
    // The key was withdrawn.
    let (keys, _) = KeySet::parse(&key_set(&[KEYS.other.public()]));
    let withdrawn = self::rules([TokenRule { keys, ..rule() }]);
    assert_eq!(at(&withdrawn, NOW).err(), Some(TokenRejection::Signature));
    assert!(at(&rules, NOW).is_ok());
}

/// While an issuer replaces its key, its set has both: tokens of either are valid, before and after the change.
#[test]
fn a_key_is_replaced_without_a_refused_token() {
    let new = SigningKey::generate("ES256", "new");
    let sets = [vec![KEYS.ec.public()], vec![KEYS.ec.public(), new.public()], vec![new.public()]];
    let [before, during, after] =
        sets.map(|keys| rules([TokenRule { keys: KeySet::parse(&key_set(&keys)).0, ..rule() }]));
    let (old_token, new_token) = (KEYS.ec.token(&claims()), new.token(&claims()));
    for (rules, old_valid, new_valid) in [(before, true, false), (during, true, true), (after, false, true)] {
        assert_eq!(outcome(&rules, &old_token, NOW).is_ok(), old_valid);
        assert_eq!(outcome(&rules, &new_token, NOW).is_ok(), new_valid);
    }
}
