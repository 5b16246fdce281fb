//! The state of the application that its connections share.

use super::answer::Who;
use super::switches::Switches;

/// What all connections share.
#[derive(Debug)]
pub(super) struct App {
    pub(super) who: Who,
    pub(super) switches: Switches,
    pub(super) registry: telemetry::metrics::Registry,
}
