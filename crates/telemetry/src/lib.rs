//! Metrics, access logs and traces.
