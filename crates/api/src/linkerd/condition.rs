//! Conditions of a ServiceProfile on requests and responses. A condition has fields of its own and others within; all that are
//! set have to be met.

use serde_json::Value;

use crate::networking::json::{Field, Reader, message, shown};
use crate::networking::re2;
use crate::networking::validate::Check;

/// The number of conditions on requests, or on responses, of one profile, those within others included.
pub const MAX_CONDITIONS: usize = 4_096;
/// How deep conditions are within others.
pub const MAX_DEPTH: usize = 16;

message! {
    /// A condition on requests.
    RequestMatch {
        /// A regular expression for the whole path, without the query.
        path_regex: String = "pathRegex",
        /// The method.
        method: String = "method",
        /// All of these.
        all: Vec<RequestMatch> = "all",
        /// One of these.
        any: Vec<RequestMatch> = "any",
        /// None of these.
        not: OneOrMany<RequestMatch> = "not",
    }
}

message! {
    /// A condition on responses.
    ResponseMatch {
        /// The range of the status.
        status: Option<StatusRange> = "status",
        /// All of these.
        all: Vec<ResponseMatch> = "all",
        /// One of these.
        any: Vec<ResponseMatch> = "any",
        /// None of these.
        not: OneOrMany<ResponseMatch> = "not",
    }
}

message! {
    /// A range of statuses. With one end alone, it is that status.
    StatusRange {
        /// The first one; 0: unset.
        min: u32 = "min",
        /// The last one; 0: unset.
        max: u32 = "max",
    }
}

/// One value, or a list: Linkerd's definition has a list where its documentation has one value.
#[derive(Debug, Clone, PartialEq)]
pub struct OneOrMany<T>(pub Vec<T>);

impl<T> Default for OneOrMany<T> {
    fn default() -> Self {
        OneOrMany(Vec::new())
    }
}

impl<T: Field> Field for OneOrMany<T> {
    fn read(value: &Value, reader: &mut Reader) -> Self {
        match value {
            Value::Array(_) => OneOrMany(Vec::read(value, reader)),
            value => OneOrMany(vec![T::read(value, reader)]),
        }
    }

    fn json(&self) -> Value {
        self.0.json()
    }

    fn is_unset(&self) -> bool {
        self.0.is_empty()
    }
}

/// A condition that contains others.
trait Nested: Sized {
    fn within(&self) -> [(&'static str, &[Self]); 3];

    /// Checks the fields of its own. Returns whether one is set.
    fn check_own(&self, check: &mut Check) -> bool;

    /// Checks the condition and those within. `left` is the number of conditions that may follow.
    fn check_at(&self, depth: usize, left: &mut usize, check: &mut Check) {
        if depth > MAX_DEPTH {
            check.error(format!("is within more than {MAX_DEPTH} others; write it with fewer levels"));
            return;
        }
        if *left == 0 {
            let text = "a profile has; write fewer, or a regular expression for several";
            check.error(format!("is beyond the {MAX_CONDITIONS} conditions that {text}"));
            return;
        }
        *left -= 1;
        let own = self.check_own(check);
        if !own && self.within().iter().all(|(_, within)| within.is_empty()) {
            check.error("is empty; write at least one condition");
        }
        for (field, within) in self.within() {
            for (index, of) in within.iter().enumerate() {
                let before = *left;
                check.at(format_args!(".{field}[{index}]"), |check| of.check_at(depth + 1, left, check));
                if before == 0 {
                    return;
                }
            }
        }
    }
}

impl Nested for RequestMatch {
    fn within(&self) -> [(&'static str, &[Self]); 3] {
        [("all", &self.all), ("any", &self.any), ("not", &self.not.0)]
    }

    fn check_own(&self, check: &mut Check) -> bool {
        if !self.path_regex.is_empty() {
            check.at(format_args!(".pathRegex"), |check| {
                check.accept(re2::compile(self.unanchored_path()).map(drop));
            });
        }
        if !self.method.bytes().all(|byte| byte.is_ascii_alphabetic() || b"-_".contains(&byte)) {
            check.error_of("method", format!("is {:?}; write a method such as GET", shown(&self.method)));
        }
        !self.path_regex.is_empty() || !self.method.is_empty()
    }
}

impl Nested for ResponseMatch {
    fn within(&self) -> [(&'static str, &[Self]); 3] {
        [("all", &self.all), ("any", &self.any), ("not", &self.not.0)]
    }

    fn check_own(&self, check: &mut Check) -> bool {
        let Some(status) = &self.status else { return false };
        check.at(format_args!(".status"), |check| {
            for (field, code) in [("min", status.min), ("max", status.max)] {
                if code != 0 && !(100..=599).contains(&code) {
                    check.error_of(field, format!("is {code}, but must be a status from 100 to 599"));
                }
            }
            if status.min == 0 && status.max == 0 {
                check.error("is empty; write min and max");
            }
            if status.max != 0 && status.max < status.min {
                check.error_of("max", format!("is {}, which is less than min", status.max));
            }
        });
        true
    }
}

impl RequestMatch {
    /// Returns the expression of the path without the anchors, which every expression has.
    pub fn unanchored_path(&self) -> &str {
        let pattern = self.path_regex.strip_prefix('^').unwrap_or(&self.path_regex);
        match pattern.strip_suffix('$') {
            // An escaped dollar sign is a character.
            Some(rest) if !ends_in_escape(rest) => rest,
            _ => pattern,
        }
    }

    /// Checks the condition. `left` is the number of conditions that the profile may still have.
    pub(super) fn check(&self, left: &mut usize, check: &mut Check) {
        self.check_at(1, left, check);
    }
}

fn ends_in_escape(text: &str) -> bool {
    text.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1
}

impl ResponseMatch {
    /// Returns whether a response with a status meets the condition.
    pub fn is_met(&self, status: u16) -> bool {
        self.status.as_ref().is_none_or(|range| range.includes(status))
            && self.all.iter().all(|of| of.is_met(status))
            && (self.any.is_empty() || self.any.iter().any(|of| of.is_met(status)))
            && !self.not.0.iter().any(|of| of.is_met(status))
    }

    /// Checks the condition. `left` is the number of conditions that the profile may still have.
    pub(super) fn check(&self, left: &mut usize, check: &mut Check) {
        self.check_at(1, left, check);
    }
}

impl StatusRange {
    fn includes(&self, status: u16) -> bool {
        let first = if self.min == 0 { self.max } else { self.min };
        let last = if self.max == 0 { self.min } else { self.max };
        (first..=last).contains(&status.into())
    }
}
