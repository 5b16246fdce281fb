//! Reviews of service account tokens: a TokenReview by the cluster that the caller names.
//!
//! A token is signed with its cluster's own key, so a forged or expired token, or a token of another cluster, fails the
//! review. The audience prevents enrolment with tokens that are issued for another purpose.

use std::time::Duration;

use api::names::TOKEN_AUDIENCE;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use kube::api::PostParams;
use kube::{Api, Client};

use crate::clusters::Clusters;
use crate::clusters::trouble::{self, Trouble};

/// The time for a review. An API server answers in milliseconds, and a workload retries.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(5);
/// The maximum size of a token, in bytes. Projected tokens have about 1.5 KiB.
const MAX_TOKEN: usize = 16 * 1024;

/// The service account that a cluster vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

/// Why a token is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReviewError {
    /// The controller knows no cluster of that name.
    #[error("cluster {0:?} is unknown: add its remote secret with `isthmus join`")]
    UnknownCluster(String),
    /// The cluster rejected the token.
    #[error("cluster {cluster} rejects the token: {why}")]
    Rejected {
        /// The cluster.
        cluster: String,
        /// The reason.
        why: String,
    },
    /// The token belongs to a user or a node.
    #[error("the token belongs to {0:?}, which is not a service account")]
    NotAServiceAccount(String),
    /// The cluster did not answer. A retry may succeed.
    #[error("cluster {cluster} cannot review the token: {why}")]
    Unavailable {
        /// The cluster.
        cluster: String,
        /// The reason.
        why: String,
    },
}

/// Returns the service account of a token, reviewed by `cluster`.
///
/// # Errors
/// Returns [`ReviewError`] if the cluster is unknown, rejects the token or does not answer, or if the token does not
/// belong to a service account.
pub async fn review(clusters: &Clusters, cluster: &str, token: &str) -> Result<Account, ReviewError> {
    let client = clusters.client(cluster).ok_or_else(|| ReviewError::UnknownCluster(shortened(cluster)))?;
    let user = user_of(client, cluster, token, TOKEN_AUDIENCE).await?.username.unwrap_or_default();
    account(&user).ok_or_else(|| ReviewError::NotAServiceAccount(shortened(&user)))
}

/// Returns the user of a token for an audience, reviewed by `cluster`.
///
/// # Errors
/// Returns [`ReviewError`] if the cluster rejects the token or does not answer.
pub async fn user_of(client: Client, cluster: &str, token: &str, audience: &str) -> Result<UserInfo, ReviewError> {
    let rejected = |why: String| ReviewError::Rejected { cluster: cluster.to_owned(), why };
    if token.is_empty() || token.len() > MAX_TOKEN {
        return Err(rejected(format!("it has {} bytes; the limit is {MAX_TOKEN}", token.len())));
    }
    let spec = TokenReviewSpec { token: Some(token.to_owned()), audiences: Some(vec![audience.to_owned()]) };
    let review = TokenReview { spec, ..TokenReview::default() };
    let api = Api::<TokenReview>::all(client);
    let unavailable = |why: String| ReviewError::Unavailable { cluster: cluster.to_owned(), why };
    let answer = match tokio::time::timeout(REVIEW_TIMEOUT, api.create(&PostParams::default(), &review)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => {
            return Err(match trouble::of(&error) {
                Trouble::Refused(why) => {
                    unavailable(format!("the controller may not create TokenReviews there: {why}"))
                }
                other => unavailable(other.to_string()),
            });
        }
        Err(_) => return Err(unavailable(format!("no answer within {} s", REVIEW_TIMEOUT.as_secs()))),
    };
    let status = answer.status.unwrap_or_default();
    if status.authenticated != Some(true) {
        return Err(rejected(
            status.error.map_or_else(|| "it is not valid".to_owned(), |error| trouble::shown(&error)),
        ));
    }
    // A server that ignores audiences accepts any of its tokens, and its answer names no audience.
    if !status.audiences.unwrap_or_default().iter().any(|known| known == audience) {
        return Err(rejected(format!("its audience is not {audience}")));
    }
    Ok(status.user.unwrap_or_default())
}

/// Parses `system:serviceaccount:<namespace>:<name>`.
fn account(user: &str) -> Option<Account> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    let usable = !namespace.is_empty() && !name.is_empty() && !name.contains(':');
    usable.then(|| Account { namespace: namespace.to_owned(), name: name.to_owned() })
}

fn shortened(name: &str) -> String {
    name.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_service_accounts_are_accounts() {
        let found = account("system:serviceaccount:default:reviews").unwrap();
        assert_eq!((found.namespace.as_str(), found.name.as_str()), ("default", "reviews"));
        for other in [
            "",
            "admin",
            "system:node:a",
            "system:serviceaccount:",
            "system:serviceaccount:a",
            "system:serviceaccount:a:",
            "system:serviceaccount::b",
            "system:serviceaccount:a:b:c",
        ] {
            assert_eq!(account(other), None, "{other}");
        }
    }
}
