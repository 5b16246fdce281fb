use super::*;

#[test]
fn patterns_match_as_istio_documents() {
    let table = [
        ("abc", "abc", true),
        ("abc", "abcd", false),
        ("abc", "ABC", false),
        ("abc*", "abcd", true),
        ("abc*", "abc", true),
        ("abc*", "ab", false),
        ("*abc", "zabc", true),
        ("*abc", "abcz", false),
        ("*", "x", true),
        ("*", "", false),
    ];
    for (pattern, value, expected) in table {
        assert_eq!(Pattern::parse(pattern).unwrap().matches(value), expected, "{pattern} {value}");
    }
}

#[test]
fn patterns_of_namespaces_have_wildcards_anywhere() {
    let table = [
        ("a*c*e", "abcde", true),
        ("a*c*e", "ace", true),
        ("a*c*e", "acd", false),
        ("a*a", "a", false),
        ("*b*", "abc", true),
        ("*b*", "ac", false),
        ("a*", "abc", true),
        ("a.c", "abc", false),
        ("a.*", "abc", false),
        ("*.c*d", "abcd", false),
        ("a+*", "aab", false),
        ("(a|b)*", "ab", false),
    ];
    for (pattern, value, expected) in table {
        assert_eq!(Pattern::parse_glob(pattern).unwrap().matches(value), expected, "{pattern} {value}");
    }
    assert!(Pattern::parse_glob("").is_err());
}

struct Token(&'static str, &'static str);

impl Claims for Token {
    fn issuer(&self) -> Option<&str> {
        Some(self.0)
    }

    fn subject(&self) -> Option<&str> {
        (!self.1.is_empty()).then_some(self.1)
    }

    fn any(&self, _: &[Arc<str>], _: &mut dyn FnMut(&str) -> bool) -> bool {
        false
    }
}

#[test]
fn principals_of_tokens_match_as_in_istio() {
    let token = Token("https://a.example", "ada");
    for (pattern, expected) in [
        ("*", true),
        ("https://a.example/ada", true),
        ("https://a.example/*", true),
        ("https://a.example/a*", true),
        ("*/ada", true),
        ("*a.example/ada", true),
        ("https*", true),
        ("*da", true),
        ("https://a.example/bob", false),
        ("https://b.example/*", false),
        ("*b.example/ada", false),
        ("b*", false),
        ("*bob", false),
    ] {
        assert_eq!(TokenPrincipal::parse(pattern).unwrap().matches(&token), expected, "{pattern}");
    }
    assert!(!TokenPrincipal::parse("*").unwrap().matches(&Token("a", "")));
    for invalid in ["", "ada", "a*b/c", "*/", "/", "https://a.example/", "*a/b*", "a/b*c"] {
        assert!(TokenPrincipal::parse(invalid).is_err(), "{invalid}");
    }
}

#[test]
fn hosts_match_without_case() {
    let table = [
        ("Example.com", "example.COM", true),
        ("example.com:*", "EXAMPLE.com:8080", true),
        ("*.example.com", "a.EXAMPLE.com", true),
        ("*.example.com", "m", false),
        ("ü*", "ü", true),
        ("ab*", "aü", false),
    ];
    for (pattern, value, expected) in table {
        assert_eq!(Pattern::parse(pattern).unwrap().matches_ignoring_case(value), expected, "{pattern} {value}");
    }
}

#[test]
fn invalid_patterns_are_errors() {
    for text in ["", "a*b", "*a*", "**", "*a*b"] {
        assert!(Pattern::parse(text).is_err(), "{text}");
    }
    for text in ["/*/baz/{*}", "/**/baz/{*}", "/{**}/foo/{*}", "/foo/{*}.txt", "foo/{*}", "/{", "/}", "/{***}", "/{}"] {
        assert!(PathPattern::parse(text).is_err(), "{text}");
    }
    let message = Pattern::parse("a*b").unwrap_err().to_string();
    assert_eq!(message, "\"a*b\" is not a pattern: '*' is allowed only at the beginning or at the end");
}

#[test]
fn templates_match_as_in_istios_tests() {
    let table: [(&str, &[&str], &[&str]); 5] = [
        (
            "/allow/admin/{**}",
            &["/allow/admin/", "/allow/admin/temp", "/allow/admin/temp.txt", "/allow/admin/foo/temp.txt"],
            &["/allow/admin", "/allow/user/", "/allow"],
        ),
        (
            "/foo/{*}/bar/{**}",
            &["/foo/buzz/bar/bat.txt", "/foo/buzz/bar/bat/fuzz.txt", "/foo/buzz/bar/bat"],
            &["/foo/bar/bat.txt", "/foo//bar/bat.txt"],
        ),
        ("/store/{**}/cart", &["/store//cart", "/store/foo/cart", "/store/foo/bar/cart"], &["/store/cart"]),
        ("/v1/{*}", &["/v1/a"], &["/v1/", "/v1/a/", "/v1/a/b", "/v1"]),
        // Characters of templates in a path are like any others (CVE-2025-46821).
        ("/v2/{*}/x", &["/v2/*/x", "/v2/a*b/x", "/v2/**/x", "/v2/{*}/x", "/v2/{**}/x"], &["/v2/*", "/v2/*/*/x"]),
    ];
    for (template, matching, others) in table {
        let pattern = PathPattern::parse(template).unwrap();
        for path in matching {
            assert!(pattern.matches(path), "{template} {path}");
        }
        for path in others {
            assert!(!pattern.matches(path), "{template} {path}");
        }
    }
}

proptest::proptest! {
    #[test]
    fn nothing_panics(pattern in "[a/*{}ü]{0,8}", value in "[a/ü]{0,8}") {
        if let Ok(pattern) = Pattern::parse(&pattern) {
            pattern.matches(&value);
            pattern.matches_ignoring_case(&value);
        }
        if let Ok(pattern) = Pattern::parse_glob(&pattern) {
            pattern.matches(&value);
        }
        drop(TokenPrincipal::parse(&pattern));
        if let Ok(pattern) = PathPattern::parse(&pattern) {
            pattern.matches(&value);
        }
    }
}

#[test]
fn an_empty_header_is_present() {
    let parse = |text| Pattern::parse_header(text).unwrap();
    assert!(parse("*").matches("") && parse("*").matches("a"));
    assert!(!parse("a*").matches("") && !Pattern::parse("*").unwrap().matches(""));
}
