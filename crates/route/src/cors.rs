//! Cross-origin resource sharing.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD,
    ORIGIN,
};
use http::{HeaderMap, HeaderValue, Method};

use crate::StringMatch;

/// Which origins may read responses, as Envoy's filter decides it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Cors {
    /// Patterns of origins.
    pub allow_origins: Box<[StringMatch]>,
    /// Methods, separated by commas; `None`: no such header.
    pub allow_methods: Option<HeaderValue>,
    /// Headers of requests.
    pub allow_headers: Option<HeaderValue>,
    /// Headers of responses.
    pub expose_headers: Option<HeaderValue>,
    /// Seconds.
    pub max_age: Option<HeaderValue>,
    /// Whether requests may have credentials.
    pub allow_credentials: bool,
    /// Preflight requests of other origins are answered here, without the header that permits the origin.
    pub ignore_unmatched_preflights: bool,
}

/// What follows for a request.
#[derive(Debug, Clone, PartialEq)]
pub enum CorsOutcome {
    /// It goes on, and these headers are set on the response.
    Forward(HeaderMap),
    /// It is a preflight request, which is answered 200 with these headers.
    Preflight(HeaderMap),
}

impl Cors {
    /// Decides about a request.
    pub fn decide(&self, method: &Method, headers: &HeaderMap) -> CorsOutcome {
        let Some(origin) = headers.get(ORIGIN).filter(|origin| !origin.is_empty()) else {
            return CorsOutcome::Forward(HeaderMap::new());
        };
        let preflight = method == Method::OPTIONS
            && headers.get(ACCESS_CONTROL_REQUEST_METHOD).is_some_and(|requested| !requested.is_empty());
        let allowed = self.allow_origins.iter().any(|pattern| pattern.matches(origin.as_bytes()));
        let answered = preflight && self.ignore_unmatched_preflights;
        if !allowed && !answered {
            return CorsOutcome::Forward(HeaderMap::new());
        }
        let mut answer = HeaderMap::new();
        if allowed {
            answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            if self.allow_credentials {
                answer.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            }
        }
        let mut put = |name, value: &Option<HeaderValue>| {
            if let Some(value) = value {
                answer.insert(name, value.clone());
            }
        };
        if preflight {
            put(ACCESS_CONTROL_ALLOW_METHODS, &self.allow_methods);
            put(ACCESS_CONTROL_ALLOW_HEADERS, &self.allow_headers);
            put(ACCESS_CONTROL_MAX_AGE, &self.max_age);
        }
        put(ACCESS_CONTROL_EXPOSE_HEADERS, &self.expose_headers);
        if preflight { CorsOutcome::Preflight(answer) } else { CorsOutcome::Forward(answer) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preflights_of_allowed_origins_are_answered_and_others_go_on() {
        let cors = Cors {
            allow_origins: [StringMatch::Exact("https://a.example".into())].into(),
            allow_methods: Some(HeaderValue::from_static("GET,POST")),
            expose_headers: Some(HeaderValue::from_static("x-a")),
            max_age: Some(HeaderValue::from_static("60")),
            allow_credentials: true,
            ..Cors::default()
        };
        let request = |origin: &'static str, preflight: bool| {
            let mut headers = HeaderMap::new();
            headers.insert(ORIGIN, HeaderValue::from_static(origin));
            if preflight {
                headers.insert(ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static("PUT"));
            }
            headers
        };
        let CorsOutcome::Preflight(answer) = cors.decide(&Method::OPTIONS, &request("https://a.example", true)) else {
            panic!("it is a preflight");
        };
        assert_eq!(answer[ACCESS_CONTROL_ALLOW_ORIGIN], "https://a.example");
        assert_eq!(answer[ACCESS_CONTROL_ALLOW_METHODS], "GET,POST");
        assert_eq!(answer[ACCESS_CONTROL_MAX_AGE], "60");
        assert_eq!(answer[ACCESS_CONTROL_EXPOSE_HEADERS], "x-a");
        let CorsOutcome::Forward(answer) = cors.decide(&Method::GET, &request("https://a.example", false)) else {
            panic!("it is no preflight");
        };
        assert_eq!(answer[ACCESS_CONTROL_EXPOSE_HEADERS], "x-a");
        assert_eq!(answer[ACCESS_CONTROL_ALLOW_CREDENTIALS], "true");
        let nothing = CorsOutcome::Forward(HeaderMap::new());
        assert_eq!(cors.decide(&Method::OPTIONS, &request("https://b.example", true)), nothing);
        assert_eq!(cors.decide(&Method::OPTIONS, &request("https://a.example", false)), {
            let CorsOutcome::Forward(answer) = cors.decide(&Method::GET, &request("https://a.example", false)) else {
                panic!()
            };
            CorsOutcome::Forward(answer)
        });
        assert_eq!(cors.decide(&Method::GET, &HeaderMap::new()), nothing);
        let strict = Cors { ignore_unmatched_preflights: true, ..cors };
        let CorsOutcome::Preflight(answer) = strict.decide(&Method::OPTIONS, &request("https://b.example", true))
        else {
            panic!("it is answered without permission");
        };
        assert!(!answer.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN));
    }
}
