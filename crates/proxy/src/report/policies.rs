//! Counters of what policies decide, and the record of what was accepted.

use std::sync::Arc;
use std::time::Instant;

use telemetry::metrics::{Counter, Family};

use super::WorkerTelemetry;
use super::observed::Called;

/// Requests and connections that were refused.
pub(super) const DENIED: Family = Family {
    name: "isthmus_authorization_denied_total",
    help: "Requests and opaque connections that were refused, by the DENY or CUSTOM policy that matched; none: no ALLOW policy did.",
    labels: &["policy"],
};
/// Requests and connections that were refused before authorization.
pub(super) const UNAUTHENTICATED: Family = Family {
    name: "isthmus_authentication_refused_total",
    help: "Requests and connections that were refused before authorization, by the reason: plaintext at a port that accepts mutual TLS only, a token that is not valid, or a cluster that a federation policy does not permit.",
    labels: &["reason"],
};
/// What policies of a dry run would have decided.
const DRY_RUN: Family = Family {
    name: "isthmus_authorization_dry_run_total",
    help: "What policies with the annotation istio.io/dry-run would have decided, by the DENY policy that matched.",
    labels: &["policy", "result"],
};
/// Requests and connections that AUDIT policies match.
const AUDITED: Family = Family {
    name: "isthmus_authorization_audited_total",
    help: "Requests and opaque connections that an AUDIT policy matches.",
    labels: &["policy"],
};

/// What servers that CUSTOM policies ask have answered.
const EXTERNAL: Family = Family {
    name: "isthmus_external_authorization_total",
    help: "Requests and opaque connections about which a CUSTOM policy asks, by the host that is asked and the result: allowed, denied, error, or ignored for opaque connections that a server of HTTP is not asked about.",
    labels: &["host", "result"],
};

/// Requests that are counted against limits on rates.
const LIMITED: Family = Family {
    name: "isthmus_rate_limit_requests_total",
    help: "Requests that were counted against a limit on their rate, by the object that it comes from and the result: ok, limited, shadow for those that exceed a limit which is not enforced, error for those that were refused because the service that counts them could not be asked, or ignored for those that were carried nevertheless.",
    labels: &["policy", "result"],
};

/// The result of counting a request against a limit on rates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateLimitResult {
    /// It is within the limit.
    Ok,
    /// It exceeds the limit, and is answered.
    Limited,
    /// It exceeds a limit that is not enforced.
    Shadow,
    /// The service that counts it could not be asked, and it is answered.
    Error,
    /// The service that counts it could not be asked, and it is carried.
    Ignored,
}

/// The labels of [`RateLimitResult`], in its order.
const RESULTS: [&str; 5] = ["ok", "limited", "shadow", "error", "ignored"];

/// The counters of a limit, by result.
pub(super) type LimitCounters = Vec<(Arc<str>, [Counter; RESULTS.len()])>;

/// The label of refusals for which no policy is named.
pub(crate) const NO_POLICY: &str = "none";
/// The label of plaintext that was refused.
pub(super) const PLAINTEXT: &str = "plaintext";
/// The label of tokens that were refused.
pub(super) const TOKEN: &str = "token";
/// The label of callers whose cluster may not call.
pub(super) const CALLER: &str = "federation policy";

impl WorkerTelemetry {
    /// Counts an answer of a server that is asked.
    pub fn asked(&self, host: &str, result: &'static str) {
        self.scope.counter(&EXTERNAL, &[host, result]).increment();
    }

    /// Counts a request that was counted against a limit on its rate.
    pub fn counted(&self, policy: &Arc<str>, result: RateLimitResult) {
        let mut known = self.limits.borrow_mut();
        if let Some((_, counters)) = known.iter().find(|(of, _)| Arc::ptr_eq(of, policy)) {
            return counters[result as usize].increment();
        }
        // Names of policies that were replaced.
        known.retain(|(of, _)| Arc::strong_count(of) > 1);
        let counters = RESULTS.map(|result| self.scope.counter(&LIMITED, &[policy, result]));
        counters[result as usize].increment();
        known.push((policy.clone(), counters));
    }

    /// Counts what a policy refused.
    pub fn denied(&self, policy: &str) {
        self.scope.counter(&DENIED, &[policy]).increment();
    }

    /// Counts plaintext that was refused.
    pub fn refused_plaintext(&self) {
        self.scope.counter(&UNAUTHENTICATED, &[PLAINTEXT]).increment();
    }

    /// Counts a caller whose cluster may not call.
    pub fn refused_caller(&self) {
        self.scope.counter(&UNAUTHENTICATED, &[CALLER]).increment();
    }

    /// Counts a request that was refused for its token.
    pub fn refused_token(&self) {
        self.scope.counter(&UNAUTHENTICATED, &[TOKEN]).increment();
    }

    /// Returns the number that stands for a caller and port in [`WorkerTelemetry::accepted_request`].
    pub(crate) fn caller(&self, called: Called<'_>) -> u64 {
        self.observed.fingerprint(called)
    }

    /// Records a request that was accepted.
    pub(crate) fn accepted_request(&self, caller: u64, called: Called<'_>, method: &str, path: &str, now: Instant) {
        self.observed.request(caller, called, method, path, now);
    }

    /// Records an opaque connection that was accepted.
    pub(crate) fn accepted_connection(&self, called: Called<'_>) {
        self.observed.connection(called);
    }

    /// Counts what policies of a dry run would have decided.
    pub fn dry_run(&self, policy: &str, result: &'static str) {
        self.scope.counter(&DRY_RUN, &[policy, result]).increment();
    }

    /// Counts what an AUDIT policy matches.
    pub fn audited(&self, policy: &str) {
        self.scope.counter(&AUDITED, &[policy]).increment();
    }
}
