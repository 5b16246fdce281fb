//! The loop of a controller.

use std::time::Duration;

use super::cache::ClusterView;

/// Calls `pass` now, whenever the view changes, and after the duration that `pass` returned.
pub(super) async fn whenever_changed<F, Fut>(view: &ClusterView, mut pass: F)
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
