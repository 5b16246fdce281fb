//! The state of a pod, as controllers read it from its status.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;

/// Reports whether a pod's containers have all ended for good.
pub fn finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Returns since when a pod is ready, if it is.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready" && condition.status == "True")?;
    Some(ready.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0))
}

/// Reports whether a pod neither has ended nor is being deleted.
pub fn active(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none() && !finished(pod)
}

/// Returns how long a ready pod has to stay ready until it counts as available: zero if it is available.
pub fn available_in(pod: &Pod, min_ready_seconds: Option<i32>, now: Timestamp) -> Option<Duration> {
    let age = now.as_second() - ready_since(pod)?.as_second();
    let least = i64::from(min_ready_seconds.unwrap_or(0));
    Some(if least == 0 { Duration::ZERO } else { Duration::from_secs(u64::try_from(least - age).unwrap_or(0)) })
}
