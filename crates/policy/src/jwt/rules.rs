//! The rules of a workload, and the decision on a request.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header, request};
use serde_json::{Map, Value};

use super::cache::ByToken;
use super::claims::Verified;
use super::keys::KeySet;
use super::locations::TokenLocation;
use super::rejection::TokenRejection;
use super::token::{Times, Token};

/// The number of tokens that a request may have. Each costs the verification of a signature.
pub const MAX_TOKENS: usize = 4;

/// A rule: which tokens of an issuer are accepted, and what the application receives of them.
#[derive(Debug)]
pub struct TokenRule {
    /// `iss`.
    pub issuer: Arc<str>,
    /// One of these must be among the token's audiences; empty: not checked.
    pub audiences: Vec<String>,
    /// The issuer's keys.
    pub keys: KeySet,
    /// Where tokens are; empty: `Authorization: Bearer` and the query parameter `access_token`.
    pub locations: Vec<TokenLocation>,
    /// The header in which the application receives the payload as it was encoded.
    pub payload_header: Option<HeaderName>,
    /// The headers in which the application receives claims, with the claims' names. Dots separate the names of nested
    /// claims.
    pub claim_headers: Vec<(HeaderName, Box<str>)>,
    /// Whether the application receives the token.
    pub forward_token: bool,
    /// Claims whose text is a list with spaces between its elements.
    pub space_delimited: Arc<[Box<str>]>,
}

/// The compiled rules of a workload.
#[derive(Debug)]
pub struct TokenRules {
    rules: Vec<Arc<TokenRule>>,
    /// Each place of tokens, with the indexes of the rules that read it.
    locations: Vec<(TokenLocation, Vec<usize>)>,
    /// The headers that only the proxy may set.
    own_headers: Vec<HeaderName>,
}

/// A token that a rule accepted, and what the application receives of it.
#[derive(Debug)]
pub struct AcceptedToken {
    /// The claims.
    pub verified: Verified,
    times: Times,
    /// The index of the rule.
    rule: usize,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// The tokens that one worker has verified by the current rules, so that a token is verified once and not with each
/// request. Bounded. Only valid tokens are kept, so that a client without one cannot displace them.
#[derive(Debug, Default)]
pub struct TokenCache {
    rules: Option<Arc<TokenRules>>,
    tokens: ByToken<Rc<AcceptedToken>>,
}

impl TokenCache {
    /// Returns the tokens that were verified by these rules; forgets those that were verified by others.
    fn of_rules(&mut self, rules: &Arc<TokenRules>) -> &mut ByToken<Rc<AcceptedToken>> {
        if self.rules.as_ref().is_none_or(|known| !Arc::ptr_eq(known, rules)) {
            *self = Self { rules: Some(rules.clone()), tokens: ByToken::default() };
        }
        &mut self.tokens
    }
}

impl TokenRules {
    /// Compiles rules. Returns `None` without any.
    pub fn compile(rules: impl IntoIterator<Item = Arc<TokenRule>>) -> Option<Arc<Self>> {
        let rules: Vec<Arc<TokenRule>> = rules.into_iter().collect();
        let (mut locations, mut own_headers) = (Vec::<(TokenLocation, Vec<usize>)>::new(), Vec::new());
        for (index, rule) in rules.iter().enumerate() {
            let places = match &rule.locations[..] {
                [] => TokenLocation::default_ones().to_vec(),
                places => places.to_vec(),
            };
            for place in places {
                match locations.iter_mut().find(|(known, _)| *known == place) {
                    Some((_, readers)) => readers.push(index),
                    None => locations.push((place, vec![index])),
                }
            }
            let claims = rule.claim_headers.iter().map(|(name, _)| name);
            for name in rule.payload_header.iter().chain(claims) {
                if !own_headers.contains(name) {
                    own_headers.push(name.clone());
                }
            }
        }
        (!rules.is_empty()).then(|| Arc::new(Self { rules, locations, own_headers }))
    }

    /// Returns the claims of an issuer's tokens whose text is a list with spaces between its elements.
    pub fn space_delimited(&self, issuer: &str) -> &[Box<str>] {
        let rule = self.rules.iter().find(|rule| *rule.issuer == *issuer);
        rule.map_or(&[], |rule| &rule.space_delimited)
    }

    /// Authenticates the end user of a request at `now`, in seconds since 1970. Returns `None` if the request has no token.
    /// Each token must be valid: otherwise an application could take one that nobody verified. Of several, the claims of
    /// the first one count, in the order of rules and their places.
    ///
    /// Changes the request to what the application receives: without headers that only the proxy may set, without tokens
    /// that are not forwarded, and with the claims in headers.
    ///
    /// # Errors
    /// Returns the reason if a token is not valid.
    pub fn authenticate(
        self: &Arc<Self>,
        head: &mut request::Parts,
        cache: &mut TokenCache,
        now: u64,
    ) -> Result<Option<Rc<AcceptedToken>>, TokenRejection> {
        self.remove_forged(&mut head.headers);
        if is_preflight(head) {
            return Ok(None);
        }
        let mut tokens: Vec<(Cow<'_, [u8]>, usize)> = Vec::new();
        for (index, (location, _)) in self.locations.iter().enumerate() {
            location.each_token(head, |token| tokens.push((token, index)));
        }
        if tokens.is_empty() {
            return Ok(None);
        }
        let known = cache.of_rules(self);
        let (mut first, mut removed) = (None::<Rc<AcceptedToken>>, Vec::new());
        for (at, (token, location)) in tokens.iter().enumerate() {
            if at >= MAX_TOKENS {
                return Err(TokenRejection::TooMany);
            }
            let accepted = self.accept(token, &self.locations[*location].1, known, now)?;
            if !self.rules[accepted.rule].forward_token {
                removed.push(*location);
            }
            if first.as_ref().is_none_or(|first| accepted.rule < first.rule) {
                first = Some(accepted);
            }
        }
        drop(tokens);
        for location in removed {
            self.locations[location].0.remove(head);
        }
        for (name, value) in first.iter().flat_map(|accepted| &accepted.headers) {
            head.headers.insert(name, value.clone());
        }
        Ok(first)
    }

    /// Removes the headers that only the proxy may set, and those that some applications take for them: CGI, and what
    /// descends from it, does not tell `-` from `_`.
    fn remove_forged(&self, headers: &mut HeaderMap) {
        for name in &self.own_headers {
            headers.remove(name);
        }
        if !self.own_headers.is_empty() && headers.keys().any(|name| name.as_str().contains('_')) {
            let dashes = |name: &HeaderName| name.as_str().replace('_', "-");
            let is_forged = |name: &&HeaderName| self.own_headers.iter().any(|own| dashes(own) == dashes(name));
            let forged: Vec<HeaderName> = headers.keys().filter(is_forged).cloned().collect();
            for name in forged {
                headers.remove(name);
            }
        }
    }

    /// Accepts or refuses a token at a place that these rules read.
    fn accept(
        &self,
        text: &[u8],
        readers: &[usize],
        known: &mut ByToken<Rc<AcceptedToken>>,
        now: u64,
    ) -> Result<Rc<AcceptedToken>, TokenRejection> {
        if let Some(accepted) = known.get(text)
            && readers.contains(&accepted.rule)
        {
            if accepted.times.check(now).is_ok() {
                return Ok(accepted);
            }
            known.remove(text);
        }
        let mut token = Token::parse(text)?;
        let mut rejection = None;
        for index in readers {
            let rule = &self.rules[*index];
            if *rule.issuer != *token.issuer() {
                continue;
            }
            match rule.check(&token, now) {
                Ok(()) => {
                    let accepted = Rc::new(AcceptedToken {
                        headers: rule.headers(&token),
                        times: token.times,
                        rule: *index,
                        verified: Verified::new(std::mem::take(&mut token.claims), rule.space_delimited.clone()),
                    });
                    known.insert(text.into(), accepted.clone());
                    return Ok(accepted);
                }
                // That of the first rule for the issuer, as in Envoy.
                Err(reason) => rejection = rejection.or(Some(reason)),
            }
        }
        Err(rejection.unwrap_or(TokenRejection::UnknownIssuer))
    }
}

impl TokenRule {
    /// Checks a token of this issuer, in the order of Envoy's checks.
    fn check(&self, token: &Token<'_>, now: u64) -> Result<(), TokenRejection> {
        token.times.check(now)?;
        let is_allowed = |audience: &String| self.audiences.iter().any(|of| bare(of) == bare(audience));
        if !self.audiences.is_empty() && !token.audiences.iter().any(is_allowed) {
            return Err(TokenRejection::Audience);
        }
        self.keys.verify(token.algorithm, token.key_id.as_deref(), token.signed, &token.signature)
    }

    /// Returns the headers that the application receives. A claim that is not a valid value of a header has none.
    fn headers(&self, token: &Token<'_>) -> Vec<(HeaderName, HeaderValue)> {
        let payload = self.payload_header.iter().map(|name| (name, token.payload.to_vec()));
        let claims =
            self.claim_headers.iter().filter_map(|(name, path)| Some((name, claim_text(&token.claims, path)?)));
        let of_value = |(name, text): (&HeaderName, Vec<u8>)| Some((name.clone(), HeaderValue::try_from(text).ok()?));
        payload.chain(claims).filter_map(of_value).collect()
    }
}

/// Returns an audience as Envoy compares it: without the scheme and a slash at the end.
fn bare(audience: &str) -> &str {
    let name = audience.strip_prefix("https://").or_else(|| audience.strip_prefix("http://")).unwrap_or(audience);
    name.strip_suffix('/').unwrap_or(name)
}

/// Returns a claim as a header's value: lists and objects as JSON in base64, as Envoy does.
fn claim_text(claims: &Map<String, Value>, path: &str) -> Option<Vec<u8>> {
    let mut names = path.split('.');
    let mut value = claims.get(names.next()?)?;
    for name in names {
        value = value.as_object()?.get(name)?;
    }
    match value {
        Value::String(text) => Some(text.clone().into_bytes()).filter(|text| !text.is_empty()),
        Value::Number(number) => Some(number.to_string().into_bytes()),
        Value::Bool(bool) => Some(bool.to_string().into_bytes()),
        Value::Array(_) | Value::Object(_) => Some(BASE64.encode(value.to_string()).into_bytes()),
        Value::Null => None,
    }
}

/// Returns whether a request is a CORS preflight. A browser sends it without credentials.
fn is_preflight(head: &request::Parts) -> bool {
    let has = |name| head.headers.get(name).is_some_and(|value: &HeaderValue| !value.is_empty());
    head.method == Method::OPTIONS && has(header::ORIGIN) && has(header::ACCESS_CONTROL_REQUEST_METHOD)
}
