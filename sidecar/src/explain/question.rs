//! The request that is asked about.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header, request};
use proxy::http::PathNormalization;

/// The largest number of headers.
const MAX_HEADERS: usize = 64;

/// What a URL asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// A request in plaintext, as applications of the mesh send it.
    Http,
    /// TLS of the application's own.
    Https,
    /// Opaque bytes.
    Tcp,
}

/// A request of the application.
#[derive(Debug)]
pub(crate) struct Question {
    /// The URL.
    pub(crate) url: String,
    /// The scheme.
    pub(crate) scheme: Scheme,
    /// The host, without port and brackets.
    pub(crate) host: String,
    /// The port.
    pub(crate) port: u16,
    /// The method.
    pub(crate) method: Method,
    /// Whether to connect to the endpoints for measurement.
    pub(crate) measure: bool,
    uri: Uri,
    headers: HeaderMap,
}

impl Question {
    /// Parses a URL, a method (GET if empty) and lines of headers, `NAME:VALUE`.
    ///
    /// # Errors
    /// Returns what is wrong, and what to write instead.
    pub(crate) fn parse<'a>(url: &str, method: &str, lines: impl Iterator<Item = &'a str>) -> Result<Question, String> {
        let example = "write it as http://reviews:9080/path, https://… or tcp://HOST:PORT";
        let uri: Uri = url.parse().map_err(|error| format!("{url:?} is not a URL ({error}); {example}"))?;
        let scheme = match uri.scheme_str() {
            Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            Some("tcp") => Scheme::Tcp,
            Some(other) => return Err(format!("the scheme {other:?} is not carried by the mesh; {example}")),
            None => return Err(format!("{url:?} has no scheme; {example}")),
        };
        let authority = uri.authority().ok_or_else(|| format!("{url:?} names no host; {example}"))?;
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(format!("{url:?} names no host; {example}"));
        }
        let port = match (uri.port_u16(), scheme) {
            (Some(0), _) => return Err("port 0 is not a port; name one from 1 to 65535".to_owned()),
            (Some(port), _) => port,
            (None, Scheme::Http) => 80,
            (None, Scheme::Https) => 443,
            (None, Scheme::Tcp) => return Err(format!("{url:?} names no port; {example}")),
        };
        let method = match method {
            "" => Method::GET,
            text => text.parse().map_err(|_| format!("{text:?} is not a method"))?,
        };
        let mut headers = HeaderMap::new();
        let of_url = HeaderValue::from_str(authority.as_str()).map_err(|_| format!("{url:?} is not a URL"))?;
        headers.insert(header::HOST, of_url);
        for (at, line) in lines.enumerate() {
            if at >= MAX_HEADERS {
                return Err(format!("there are more than {MAX_HEADERS} headers"));
            }
            let wrong = || format!("{line:?} is not a header; write NAME:VALUE");
            let (name, value) = line.split_once(':').ok_or_else(wrong)?;
            let name: HeaderName = name.trim().parse().map_err(|_| wrong())?;
            let value = HeaderValue::from_str(value.trim()).map_err(|_| wrong())?;
            match name == header::HOST {
                true => drop(headers.insert(name, value)),
                false => drop(headers.append(name, value)),
            }
        }
        let (url, host) = (url.to_owned(), host.to_ascii_lowercase());
        Ok(Question { url, scheme, host, port, method, measure: false, uri, headers })
    }

    /// Sets whether to connect to the endpoints for measurement.
    pub(crate) fn measured(self, measure: bool) -> Self {
        Question { measure, ..self }
    }

    /// Returns the head of the request as the application sends it, with the path in this form.
    pub(crate) fn head(&self, form: PathNormalization) -> request::Parts {
        let path = form.of(self.uri.path()).unwrap_or_default();
        let target = match self.uri.query() {
            Some(query) => format!("{path}?{query}"),
            None => path.into_owned(),
        };
        let mut head = Request::new(()).into_parts().0;
        head.method = self.method.clone();
        head.uri = target.parse().unwrap_or_default();
        head.headers = self.headers.clone();
        head
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Question, String> {
        Question::parse(url, "", std::iter::empty())
    }

    #[test]
    fn a_url_names_scheme_host_and_port() {
        for (url, scheme, host, port) in [
            ("http://Reviews:9080", Scheme::Http, "reviews", 9080),
            ("http://reviews", Scheme::Http, "reviews", 80),
            ("https://reviews/x", Scheme::Https, "reviews", 443),
            ("tcp://db:3306", Scheme::Tcp, "db", 3306),
            ("http://[fd00::1]:80/", Scheme::Http, "fd00::1", 80),
        ] {
            let question = parse(url).unwrap();
            assert_eq!((question.scheme, &*question.host, question.port), (scheme, host, port), "{url}");
        }
        for (url, why) in [
            ("reviews:9080", "scheme"),
            ("/path", "scheme"),
            ("ftp://reviews", "scheme"),
            ("tcp://db", "port"),
            ("http://reviews:0", "port 0"),
            ("http://a b", "not a URL"),
        ] {
            let error = parse(url).map(|question| question.url).unwrap_err();
            assert!(error.contains(why), "{url}: {error}");
        }
    }

    #[test]
    fn the_head_is_that_of_the_application() {
        let lines = ["x-user: jason", "Host: other"];
        let question = Question::parse("http://reviews:9080/a/../b?c=d", "POST", lines.into_iter()).unwrap();
        let head = question.head(PathNormalization::Base);
        assert_eq!((head.method.as_str(), head.uri.to_string()), ("POST", "/b?c=d".to_owned()));
        assert_eq!(
            (&head.headers["host"], &head.headers["x-user"]),
            (&"other".parse().unwrap(), &"jason".parse().unwrap())
        );
        assert_eq!(parse("http://reviews:9080").unwrap().head(PathNormalization::Base).headers["host"], "reviews:9080");
        assert!(Question::parse("http://a", "", ["x"].into_iter()).is_err());
        assert!(Question::parse("http://a", "G T", std::iter::empty()).is_err());
        assert!(Question::parse("http://a", "", std::iter::repeat_n("a:b", 65)).is_err());
    }
}
