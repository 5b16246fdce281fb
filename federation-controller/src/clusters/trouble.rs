//! Classification of failed requests to API servers, with one-line reasons.

use std::error::Error as _;
use std::fmt;

use kube::runtime::watcher;

/// A failed request, by its consequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The server does not know the object or its kind, such as the kind of a CRD that is not installed.
    Missing,
    /// The server refused the request; with the reason.
    Refused(String),
    /// The resource version of a watch has expired; the watch lists again.
    Restarts,
    /// The server is unreachable, or its answer is invalid; with the reason.
    Failed(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Missing => out.write_str("the API server does not know the object or its kind"),
            Trouble::Restarts => out.write_str("the resource version has expired"),
            Trouble::Refused(why) | Trouble::Failed(why) => out.write_str(why),
        }
    }
}

/// Classifies the error of a watch.
pub(crate) fn of_watch(error: &watcher::Error) -> Trouble {
    match error {
        watcher::Error::InitialListFailed(e) | watcher::Error::WatchStartFailed(e) | watcher::Error::WatchFailed(e) => {
            of(e)
        }
        watcher::Error::WatchError(status) => of_status(status),
        watcher::Error::NoResourceVersion => Trouble::Failed("the list has no resource version".to_owned()),
    }
}

/// Classifies the error of a request.
pub(crate) fn of(error: &kube::Error) -> Trouble {
    match error {
        kube::Error::Api(status) => of_status(status),
        kube::Error::Auth(e) => Trouble::Refused(shown(&e.to_string())),
        other => Trouble::Failed(innermost(other)),
    }
}

fn of_status(status: &kube::core::Status) -> Trouble {
    let reason = shown(&format!("{} {}: {}", status.code, status.reason, status.message));
    match status.code {
        401 | 403 => Trouble::Refused(reason),
        404 => Trouble::Missing,
        410 => Trouble::Restarts,
        _ => Trouble::Failed(reason),
    }
}

/// Returns the last error of the chain, which is the cause ("Connection refused").
fn innermost(error: &kube::Error) -> String {
    let mut cause = error.to_string();
    let mut current = error.source();
    while let Some(inner) = current {
        cause = inner.to_string();
        current = inner.source();
    }
    shown(&cause)
}

/// Returns a server's message for logs, pages and answers: bounded and without control characters, because the server
/// may not be trusted.
pub(crate) fn shown(text: &str) -> String {
    text.chars().take(300).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn messages_of_servers_are_bounded_and_stay_on_one_line() {
        assert_eq!(super::shown("no\r\nadmin logged in\u{1b}[31m"), "no  admin logged in [31m");
        assert_eq!(super::shown(&"x".repeat(1 << 20)).len(), 300);
    }
}
