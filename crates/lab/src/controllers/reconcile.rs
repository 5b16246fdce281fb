//! When a controller looks at the cluster again.

use std::time::Duration;

use super::cache::View;

/// Calls `pass` now, whenever the view changes, and when the time that it returned is over.
///
/// `pass` gets no argument but what it has captured and returns when it wants to look again at the latest.
pub(super) async fn whenever_changed<F, Fut>(view: &View, mut pass: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<Duration>>,
{
    view.synced().await;
    let mut changes = view.changes();
    loop {
        changes.mark_unchanged();
        let again = pass().await;
        let timer = async {
            match again {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = timer => {}
        }
    }
}
