//! Validation: what Istio's validation refuses and warns of, with the path of each field.
//!
//! - [`virtual_service`], [`http`], [`effects`], [`matches`], [`layer4`]: VirtualServices.
//! - [`reachability`]: routes that no request reaches.
//! - [`destination_rule`], [`traffic_policy`], [`load_balancer`], [`locality`]: DestinationRules.
//! - [`service_entry`]: ServiceEntries and WorkloadEntries. [`sidecar`]: Sidecars. [`proxy_config`]: ProxyConfigs.
//! - [`names`], [`header_value`]: the forms of names and values; [`envoy`]: values that proxies do not take.
//!
//! Source of the rules: `pkg/config/validation` of Istio. An object that Istio accepts is accepted here, except for what has
//! no meaning at all, such as two fields of which the API allows one.

pub(crate) mod destination_rule;
mod effects;
mod envoy;
mod header_value;
mod http;
mod layer4;
mod load_balancer;
mod locality;
mod matches;
pub(crate) mod names;
mod proxy_config;
mod reachability;
mod service_entry;
mod sidecar;
#[cfg(test)]
mod tests;
mod traffic_policy;
mod virtual_service;

pub(crate) use names::is_claim;

use std::fmt::{Arguments, Write as _};
use std::time::Duration;

use super::json::MAX_PROBLEMS;
use super::problem::{Problem, Severity};
use super::{DestinationRule, ProxyConfig, ServiceEntry, Sidecar, VirtualService, WorkloadEntry};

impl VirtualService {
    /// Returns what is wrong with the object, at most 100 problems. It is refused if one of them is an error.
    pub fn validate(&self) -> Vec<Problem> {
        let mut check = Check::of(&self.unread);
        virtual_service::check(self, &mut check);
        check.problems
    }
}

impl DestinationRule {
    /// Returns what is wrong with the object, at most 100 problems. It is refused if one of them is an error.
    pub fn validate(&self) -> Vec<Problem> {
        let mut check = Check::of(&self.unread);
        destination_rule::check(self, &mut check);
        check.problems
    }
}

impl ServiceEntry {
    /// Returns what is wrong with the object, at most 100 problems. It is refused if one of them is an error.
    pub fn validate(&self) -> Vec<Problem> {
        let mut check = Check::of(&self.unread);
        service_entry::check_entry(self, &mut check);
        check.problems
    }
}

impl WorkloadEntry {
    /// Returns what is wrong with the object, at most 100 problems. It is refused if one of them is an error.
    pub fn validate(&self) -> Vec<Problem> {
        let mut check = Check::of(&self.unread);
        service_entry::check_workload(self, &mut check);
        check.problems
    }
}

impl ProxyConfig {
    /// Returns what is wrong with the object, at most 100 problems. It is refused if one of them is an error.
    pub fn validate(&self) -> Vec<Problem> {
        let mut check = Check::of(&self.unread);
        proxy_config::check(&self.spec, &mut check);
        check.problems
    }
}

impl Sidecar {
    /// Returns what is wrong with the object, at most 100 problems. It is refused if one of them is an error.
    pub fn validate(&self) -> Vec<Problem> {
        let mut check = Check::of(&self.unread);
        sidecar::check(self, &mut check);
        check.problems
    }
}

/// Collects problems, with the path of the field that is looked at.
pub(crate) struct Check {
    path: String,
    /// The fields that could not be read.
    unread: Vec<String>,
    problems: Vec<Problem>,
}

impl Check {
    pub(crate) fn of(unread: &[Problem]) -> Self {
        let fields = unread.iter().filter(|problem| problem.is_error()).map(|problem| problem.field.clone()).collect();
        Check { path: "spec".to_owned(), unread: fields, problems: unread.to_vec() }
    }

    /// Returns what was found.
    pub(crate) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }

    /// Looks at a field of the present one.
    pub(crate) fn at(&mut self, step: Arguments<'_>, look: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        self.path.write_fmt(step).expect("a String takes what is written");
        look(self);
        self.path.truncate(length);
    }

    /// Looks at each item of a list.
    pub(crate) fn each<'a, T>(&mut self, field: &str, items: &'a [T], mut look: impl FnMut(&'a T, &mut Self)) {
        for (index, item) in items.iter().enumerate() {
            self.at(format_args!(".{field}[{index}]"), |check| look(item, check));
        }
    }

    /// Looks at a field if it is set.
    pub(crate) fn some<'a, T>(&mut self, field: &str, value: &'a Option<T>, look: impl FnOnce(&'a T, &mut Self)) {
        if let Some(value) = value {
            self.at(format_args!(".{field}"), |check| look(value, check));
        }
    }

    /// Reports an error of the present field.
    pub(crate) fn error(&mut self, message: impl Into<String>) {
        let problem = Problem::error(&*self.path, message);
        self.push(problem);
    }

    /// Reports an error of a field of the present one.
    pub(crate) fn error_of(&mut self, field: &str, message: impl Into<String>) {
        self.at(format_args!(".{field}"), |check| check.error(message));
    }

    /// Reports a warning about the present field.
    pub(crate) fn warn(&mut self, message: impl Into<String>) {
        let problem = Problem::warning(&*self.path, message);
        self.push(problem);
    }

    /// Reports a warning about a field of the present one.
    pub(crate) fn warn_of(&mut self, field: &str, message: impl Into<String>) {
        self.at(format_args!(".{field}"), |check| check.warn(message));
    }

    /// Reports a problem with a code of its own about the present field.
    pub(crate) fn found(&mut self, code: &'static str, severity: Severity, message: impl Into<String>) {
        self.push(Problem { code, severity, field: self.path.clone(), message: message.into() });
    }

    /// Reports the message of a result.
    pub(crate) fn accept(&mut self, result: Result<(), String>) {
        if let Err(message) = result {
            self.error(message);
        }
    }

    /// Reports a warning about a field elsewhere in the object.
    pub(crate) fn warn_at(&mut self, field: &str, message: impl Into<String>) {
        self.push(Problem::warning(field, message));
    }

    fn push(&mut self, problem: Problem) {
        // What could not be read is unset, and would be reported again as missing.
        let unread = self.unread.iter().any(|unread| {
            let rest = problem.field.strip_prefix(&**unread);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        });
        if self.problems.len() < MAX_PROBLEMS && !unread {
            self.problems.push(problem);
        }
    }

    /// Reports fields of which the API allows one.
    pub(crate) fn one_of(&mut self, fields: &[(&str, bool)]) {
        let set: Vec<&str> = fields.iter().filter(|(_, set)| *set).map(|(name, _)| *name).collect();
        if let [_, second, ..] = set.as_slice() {
            self.error_of(second, format!("cannot be set beside {}; keep one of {}", set[0], set.join(", ")));
        }
    }

    /// Checks a duration: at least 1ms, in whole milliseconds.
    pub(crate) fn duration(&mut self, field: &str, duration: Option<Duration>) {
        let Some(duration) = duration else { return };
        if duration < Duration::from_millis(1) {
            self.error_of(field, "is shorter than 1ms; write a longer duration, or remove it");
        } else if duration.subsec_nanos() % 1_000_000 != 0 {
            self.error_of(field, "is not in whole milliseconds; round it, such as to \"250ms\"");
        }
    }

    /// Checks the number of a port.
    pub(crate) fn port(&mut self, field: &str, port: u32) {
        if !(1..=65535).contains(&port) {
            self.error_of(field, format!("is {port}, but must be the number of a port, from 1 to 65535"));
        }
    }
}
