//! Routes: the resource or path that a URL addresses, and query parameters.

use percent_encoding::percent_decode_str;

use crate::status::{Result, Status};

/// The route of a resource, an object or a subresource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResourceRoute {
    pub(crate) group: String,
    pub(crate) version: String,
    /// Empty for cluster-scoped resources and for lists over all namespaces.
    pub(crate) namespace: String,
    pub(crate) plural: String,
    /// Empty for the collection.
    pub(crate) name: String,
    /// Empty for the object itself.
    pub(crate) subresource: String,
    /// The path after the subresource with its leading slash: the path of a proxied request.
    pub(crate) rest: String,
}

/// The route of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RequestRoute {
    Resource(ResourceRoute),
    /// Discovery, health, version, documents, or an unknown path.
    Path(String),
}

/// The decoded query parameters.
#[derive(Clone, Debug, Default)]
pub(crate) struct QueryParameters(Vec<(String, String)>);

impl RequestRoute {
    pub(crate) fn parse(path: &str) -> Result<Self> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (group, version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => (String::new(), *version, rest),
            ["apis", group, version, rest @ ..] if !rest.is_empty() => (decode(group)?, *version, rest),
            _ => return Ok(Self::Path(path.to_owned())),
        };
        let mut route = ResourceRoute { group, version: decode(version)?, ..ResourceRoute::default() };
        let rest = match rest {
            // Subresources of a namespace, not resources in it.
            ["namespaces", name, sub @ ("status" | "finalize")] => {
                route.plural = "namespaces".into();
                route.name = decode(name)?;
                route.subresource = (*sub).into();
                return Ok(Self::Resource(route));
            }
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => {
                route.namespace = decode(namespace)?;
                rest
            }
            rest => rest,
        };
        route.plural = decode(rest[0])?;
        if let Some(name) = rest.get(1) {
            route.name = decode(name)?;
        }
        if let Some(subresource) = rest.get(2) {
            route.subresource = decode(subresource)?;
        }
        if rest.len() > 3 {
            // A proxied path is passed on unchanged, with its escapes and its trailing slash.
            let skipped: usize = parts[..parts.len() - rest.len() + 3].iter().map(|part| part.len() + 1).sum();
            let lead = path.len() - path.trim_start_matches('/').len();
            route.rest = path[lead + skipped - 1..].to_owned();
        } else if rest.len() == 3 && path.ends_with('/') {
            route.rest = "/".into();
        }
        Ok(Self::Resource(route))
    }
}

fn decode(segment: &str) -> Result<String> {
    let text = percent_decode_str(segment).decode_utf8();
    match text {
        Ok(text) if text.is_empty() || text == "." || text == ".." || text.contains(['/', '%', '\0']) => {
            Err(Status::bad_request(format!("invalid path segment {segment:?}")))
        }
        Ok(text) => Ok(text.into_owned()),
        Err(_) => Err(Status::bad_request(format!("path segment {segment:?} is not UTF-8"))),
    }
}

impl QueryParameters {
    pub(crate) fn parse(query: Option<&str>) -> Self {
        let pairs = url::form_urlencoded::parse(query.unwrap_or("").as_bytes());
        Self(pairs.into_owned().collect())
    }

    /// The value of a parameter. An empty value counts as absent.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// Returns whether a parameter is present and true.
    pub(crate) fn flag(&self, key: &str) -> bool {
        self.0.iter().any(|(known, value)| known == key && matches!(value.as_str(), "true" | "1" | ""))
    }

    /// The value of a parameter as a number.
    pub(crate) fn number(&self, key: &str) -> Result<Option<u64>> {
        let Some(text) = self.get(key) else { return Ok(None) };
        text.parse()
            .map(Some)
            .map_err(|_| Status::bad_request(format!("{key}: Invalid value: {text:?}: must be a non-negative integer")))
    }

    /// Returns whether the request is a dry run (`dryRun=All`).
    pub(crate) fn dry_run(&self) -> Result<bool> {
        match self.get("dryRun") {
            None => Ok(false),
            Some("All") => Ok(true),
            Some(other) => {
                Err(Status::bad_request(format!("dryRun: Unsupported value: {other:?}: supported values: \"All\"")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(path: &str) -> ResourceRoute {
        match RequestRoute::parse(path).expect(path) {
            RequestRoute::Resource(route) => route,
            RequestRoute::Path(path) => panic!("{path} is no resource"),
        }
    }

    proptest::proptest! {
        #[test]
        fn any_path_is_parsed_or_rejected(path in "(/(api|apis|namespaces|v1|pods|proxy|%2F|%|é|\\.\\.|[a-z]{0,3})){0,9}/?") {
            drop(RequestRoute::parse(&path));
        }
    }

    #[test]
    fn urls_of_resources() {
        let pod = resource("/api/v1/namespaces/default/pods/a/log");
        assert_eq!((pod.group.as_str(), pod.namespace.as_str(), pod.plural.as_str()), ("", "default", "pods"));
        assert_eq!((pod.name.as_str(), pod.subresource.as_str()), ("a", "log"));
        let namespace = resource("/api/v1/namespaces/default");
        assert_eq!((namespace.plural.as_str(), namespace.name.as_str()), ("namespaces", "default"));
        let finalize = resource("/api/v1/namespaces/default/finalize");
        assert_eq!((finalize.plural.as_str(), finalize.subresource.as_str()), ("namespaces", "finalize"));
        let all = resource("/apis/apps/v1/deployments");
        assert_eq!((all.group.as_str(), all.namespace.as_str(), all.name.as_str()), ("apps", "", ""));
    }

    #[test]
    fn proxied_paths_are_unchanged() {
        let route = resource("/api/v1/namespaces/x/services/https:web:80/proxy/a%2Fb/c/");
        assert_eq!((route.name.as_str(), route.rest.as_str()), ("https:web:80", "/a%2Fb/c/"));
        assert_eq!(resource("/api/v1/namespaces/x/services/web/proxy").rest, "");
        assert_eq!(resource("/api/v1/namespaces/x/services/web/proxy/").rest, "/");
    }

    #[test]
    fn other_urls() {
        for path in ["/", "/api", "/apis/apps/v1", "/healthz", "/openapi/v3/apis/apps/v1"] {
            assert_eq!(RequestRoute::parse(path), Ok(RequestRoute::Path(path.to_owned())));
        }
        assert_eq!(RequestRoute::parse("/api/v1/pods/..").expect_err("climbs").code, 400);
        assert_eq!(RequestRoute::parse("/api/v1/namespaces//pods").expect_err("empty").code, 400);
    }
}
