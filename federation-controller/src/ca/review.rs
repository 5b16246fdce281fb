//! Whether a service account token is what its bearer says: TokenReview, asked of the cluster that the bearer names.
//!
//! A token is signed with its cluster's own key, so a token of another cluster, an expired one or a forged one fails the
//! review there. The audience keeps tokens that were meant for something else from being used to enrol.

use std::time::Duration;

use api::names::TOKEN_AUDIENCE;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::Api;
use kube::api::PostParams;

use crate::clusters::Clusters;
use crate::clusters::trouble::{self, Trouble};

/// An API server answers a review in milliseconds; a workload retries.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest token that is passed on; projected tokens have about 1.5 KiB.
const MAX_TOKEN: usize = 16 * 1024;

/// A service account that a cluster vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Why a token is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReviewError {
    /// No cluster of that name is known.
    #[error("cluster {0:?} is not known here: is its remote secret in place?")]
    UnknownCluster(String),
    /// The cluster says that the token is not valid.
    #[error("cluster {cluster} does not accept the token: {why}")]
    Rejected {
        /// Who said so.
        cluster: String,
        /// What it said.
        why: String,
    },
    /// The token is a user's or node's.
    #[error("the token belongs to {0:?}, which is no service account")]
    NotAServiceAccount(String),
    /// The cluster could not be asked. Worth another attempt.
    #[error("cluster {cluster} cannot be asked about the token: {why}")]
    Unavailable {
        /// Who should have been asked.
        cluster: String,
        /// What happened.
        why: String,
    },
}

/// Asks `cluster` whose token this is.
///
/// # Errors
/// [`ReviewError`].
pub async fn review(clusters: &Clusters, cluster: &str, token: &str) -> Result<Account, ReviewError> {
    let client = clusters.client(cluster).ok_or_else(|| ReviewError::UnknownCluster(shortened(cluster)))?;
    let rejected = |why: String| ReviewError::Rejected { cluster: cluster.to_owned(), why };
    if token.is_empty() || token.len() > MAX_TOKEN {
        return Err(rejected(format!("a token of {} bytes", token.len())));
    }
    let spec = TokenReviewSpec { token: Some(token.to_owned()), audiences: Some(vec![TOKEN_AUDIENCE.to_owned()]) };
    let review = TokenReview { spec, ..TokenReview::default() };
    let api = Api::<TokenReview>::all(client);
    let unavailable = |why: String| ReviewError::Unavailable { cluster: cluster.to_owned(), why };
    let answer = match tokio::time::timeout(PATIENCE, api.create(&PostParams::default(), &review)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => {
            return Err(match trouble::of(&error) {
                Trouble::Refused(why) => unavailable(format!("this controller may not create tokenreviews: {why}")),
                Trouble::Failed(why) => unavailable(why),
                other => unavailable(format!("{other:?}")),
            });
        }
        Err(_) => return Err(unavailable(format!("no answer within {} s", PATIENCE.as_secs()))),
    };
    let status = answer.status.unwrap_or_default();
    if status.authenticated != Some(true) {
        return Err(rejected(status.error.map_or_else(|| "it is not valid".to_owned(), |said| trouble::shown(&said))));
    }
    // A server that ignores audiences would accept any of its tokens: then the answer names none.
    if !status.audiences.unwrap_or_default().iter().any(|audience| audience == TOKEN_AUDIENCE) {
        return Err(rejected(format!("it is not meant for audience {TOKEN_AUDIENCE}")));
    }
    let user = status.user.and_then(|user| user.username).unwrap_or_default();
    account(&user).ok_or_else(|| ReviewError::NotAServiceAccount(shortened(&user)))
}

/// Takes `system:serviceaccount:<namespace>:<name>` apart.
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
