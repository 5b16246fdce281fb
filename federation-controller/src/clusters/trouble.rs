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
        kube::Error::Auth(e) => Trouble::Refused(shown(&e.to_string())),
        other => Trouble::Failed(innermost(other)),
    }
}

fn of_status(status: &kube::core::Status) -> Trouble {
    let said = shown(&format!("{} {}: {}", status.code, status.reason, status.message));
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
    shown(&said)
}

/// What of a server's words goes into logs, pages and answers: it may be somebody else's server.
pub(crate) fn shown(text: &str) -> String {
    text.chars().take(300).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_servers_words_are_bounded_and_stay_on_one_line() {
        assert_eq!(super::shown("no\r\nadmin logged in\u{1b}[31m"), "no  admin logged in [31m");
        assert_eq!(super::shown(&"x".repeat(1 << 20)).len(), 300);
    }
}
