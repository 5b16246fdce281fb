//! What a failed request means for a link, and how it is said in one line.

use std::error::Error as _;

use kube::runtime::watcher;

/// What a failure means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The server does not know the kind: a CRD is not installed.
    Missing,
    /// The server answered and refused.
    Refused(String),
    /// The server's history no longer reaches back to where the watch stood; a new list follows by itself.
    Restarts,
    /// The server was not reached, or what it sent made no sense.
    Failed(String),
}

/// What a failed watch means.
pub(super) fn of_watch(error: &watcher::Error) -> Trouble {
    match error {
        watcher::Error::InitialListFailed(e) | watcher::Error::WatchStartFailed(e) | watcher::Error::WatchFailed(e) => {
            of(e)
        }
        watcher::Error::WatchError(status) => of_status(status),
        watcher::Error::NoResourceVersion => Trouble::Failed("the list has no resource version".to_owned()),
    }
}

/// What a failed request means.
pub(crate) fn of(error: &kube::Error) -> Trouble {
    match error {
        kube::Error::Api(status) => of_status(status),
        kube::Error::Auth(e) => Trouble::Refused(e.to_string()),
        other => Trouble::Failed(innermost(other)),
    }
}

fn of_status(status: &kube::core::Status) -> Trouble {
    let said = format!("{} {}: {}", status.code, status.reason, status.message);
    match status.code {
        401 | 403 => Trouble::Refused(said),
        404 => Trouble::Missing,
        410 => Trouble::Restarts,
        _ => Trouble::Failed(said),
    }
}

/// The last error of the chain says what happened ("Connection refused"), those above it where.
fn innermost(error: &kube::Error) -> String {
    let mut said = error.to_string();
    let mut current = error.source();
    while let Some(inner) = current {
        said = inner.to_string();
        current = inner.source();
    }
    said
}
