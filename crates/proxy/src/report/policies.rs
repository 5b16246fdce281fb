//! Counters of what authorization policies decide.

use telemetry::metrics::Family;

use super::WorkerTelemetry;

/// Requests and connections that were refused.
const DENIED: Family = Family {
    name: "isthmus_authorization_denied_total",
    help: "Requests and opaque connections that were refused, by the DENY or CUSTOM policy that matched; none: no ALLOW policy did.",
    labels: &["policy"],
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

impl WorkerTelemetry {
    /// Counts an answer of a server that is asked.
    pub fn asked(&self, host: &str, result: &'static str) {
        self.scope.counter(&EXTERNAL, &[host, result]).increment();
    }

    /// Counts what a policy refused.
    pub fn denied(&self, policy: &str) {
        self.scope.counter(&DENIED, &[policy]).increment();
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
