//! Who may read the debug pages: a client on the controller's own loopback, as after `kubectl port-forward`, and a client
//! with a token whose user the own cluster permits to `get` the page.
//!
//! The token has an audience of its own, so that it is of no use elsewhere: the pages are served without TLS. It arrives in
//! `Authorization`, or in the header [`DEBUG_TOKEN_HEADER`], because API servers remove `Authorization` from the requests
//! that they proxy. The permission is an RBAC rule with `nonResourceURLs`, such as that of ClusterRole `isthmus-debug`.

use std::net::IpAddr;
use std::time::Duration;

use api::names::{DEBUG_AUDIENCE, DEBUG_TOKEN_HEADER};
use http::{HeaderMap, StatusCode, header};
use k8s_openapi::api::authorization::v1::{NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};

use crate::ca::review::{ReviewError, user_of};
use crate::clusters::trouble::{self, Trouble};

/// The time for the answer of the API server.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a client may not read a page.
#[derive(Debug, thiserror::Error)]
pub(super) enum Denied {
    #[error(
        "debug pages need a token with the audience {DEBUG_AUDIENCE}: use `isthmus status`, or `kubectl port-forward` to the controller's pod"
    )]
    NoToken,
    #[error("{0}")]
    Rejected(ReviewError),
    #[error("user {user:?} may not get {path}: bind the user to ClusterRole isthmus-debug")]
    Forbidden { user: String, path: String },
    #[error("the token cannot be checked now: {0}")]
    Unavailable(String),
}

impl Denied {
    pub(super) fn code(&self) -> StatusCode {
        match self {
            Denied::NoToken | Denied::Rejected(_) => StatusCode::UNAUTHORIZED,
            Denied::Forbidden { .. } => StatusCode::FORBIDDEN,
            Denied::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// Returns whether a client reads the pages from inside the controller's pod.
pub(super) fn is_local(client: IpAddr) -> bool {
    client.to_canonical().is_loopback()
}

/// Returns the token of a request.
pub(super) fn token(headers: &HeaderMap) -> Result<&str, Denied> {
    let own = headers.get(DEBUG_TOKEN_HEADER).and_then(|value| value.to_str().ok());
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    own.or(bearer).map(str::trim).filter(|token| !token.is_empty()).ok_or(Denied::NoToken)
}

/// Checks that the user of a token may read a page.
pub(super) async fn authorize(client: &Client, cluster: &str, token: &str, path: &str) -> Result<(), Denied> {
    let user = user_of(client.clone(), cluster, token, DEBUG_AUDIENCE).await.map_err(|error| match error {
        ReviewError::Unavailable { .. } => Denied::Unavailable(error.to_string()),
        other => Denied::Rejected(other),
    })?;
    let name = user.username.unwrap_or_default();
    let spec = SubjectAccessReviewSpec {
        user: Some(name.clone()),
        groups: user.groups,
        uid: user.uid,
        extra: user.extra,
        non_resource_attributes: Some(NonResourceAttributes {
            path: Some(path.to_owned()),
            verb: Some("get".to_owned()),
        }),
        ..SubjectAccessReviewSpec::default()
    };
    let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
    let api = Api::<SubjectAccessReview>::all(client.clone());
    match tokio::time::timeout(REVIEW_TIMEOUT, api.create(&PostParams::default(), &review)).await {
        Ok(Ok(answer)) if answer.status.as_ref().is_some_and(|s| s.allowed && s.denied != Some(true)) => Ok(()),
        Ok(Ok(_)) => Err(Denied::Forbidden { user: name, path: path.to_owned() }),
        Ok(Err(error)) => Err(Denied::Unavailable(match trouble::of(&error) {
            Trouble::Refused(why) => format!("the controller may not create SubjectAccessReviews: {why}"),
            other => other.to_string(),
        })),
        Err(_) => Err(Denied::Unavailable(format!("no answer within {} s", REVIEW_TIMEOUT.as_secs()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_pods_own_loopback_is_local() {
        for (address, local) in [
            ("127.0.0.1", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("10.244.0.2", false),
            ("::ffff:10.0.0.1", false),
        ] {
            assert_eq!(is_local(address.parse().unwrap()), local, "{address}");
        }
    }

    #[test]
    fn a_token_is_in_one_of_two_headers() {
        let of = |name: &'static str, value: &'static str| {
            let headers = HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())]);
            token(&headers).map(str::to_owned).ok()
        };
        assert_eq!(of("authorization", "Bearer abc").as_deref(), Some("abc"));
        assert_eq!(of(DEBUG_TOKEN_HEADER, "abc").as_deref(), Some("abc"));
        assert_eq!((of("authorization", "Basic abc"), of(DEBUG_TOKEN_HEADER, " "), of("x", "y")), (None, None, None));
    }
}
