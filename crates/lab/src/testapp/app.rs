//! The state of the application that its connections share.

use super::answer::Instance;
use super::switches::FaultSwitches;

/// The shared state.
#[derive(Debug)]
pub(super) struct App {
    pub(super) who: Instance,
    pub(super) switches: FaultSwitches,
    pub(super) registry: telemetry::metrics::Registry,
}
