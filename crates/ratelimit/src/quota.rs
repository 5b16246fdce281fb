//! What is left of a limit.

use std::time::Duration;

/// What is left of a limit after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// The number of requests that the limit grants at most.
    pub limit: u32,
    /// The number of requests that it grants now.
    pub remaining: u32,
    /// The time until it grants a request, or until it begins anew.
    pub reset: Duration,
}

/// A limit of a service, as `x-ratelimit-limit` lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// The number of requests.
    pub requests: u32,
    /// The time in which they are granted, in seconds.
    pub seconds: u64,
    /// The name; may be empty.
    pub name: String,
}
