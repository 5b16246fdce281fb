//! Reading the values of settings.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::MeshConfigError;
use crate::Warning;
use crate::duration::parse_duration;
use crate::networking::DestinationRule;
use crate::networking::traffic_policy::TrafficPolicy;

/// The longest duration that is accepted; longer ones are likely mistakes.
const MAX_DURATION: Duration = Duration::from_secs(24 * 3600);

/// The length of a namespace's name.
const MAX_NAMESPACE: usize = 63;

/// The longest trust domain (SPIFFE ID specification §2.1).
const MAX_TRUST_DOMAIN: usize = 255;
/// The most aliases of the trust domain. Each principal of a policy is repeated for each of them.
const MAX_ALIASES: usize = 100;

/// Proxies count in milliseconds: a fraction of one would become none, which means something else.
const MIN_DURATION: Duration = Duration::from_millis(1);

/// The durations that a setting may have.
#[derive(Clone, Copy)]
pub(super) struct DurationRange {
    least: Duration,
    zero: bool,
    expected: &'static str,
}

pub(super) const AT_LEAST_1MS: DurationRange = DurationRange {
    least: MIN_DURATION,
    zero: false,
    expected: "a duration from 1ms to 24h, such as \"10s\" or \"250ms\"",
};
/// Of leases: proxies report their paths to other clusters some times in it.
pub(super) const AT_LEAST_10S: DurationRange = DurationRange {
    least: Duration::from_secs(10),
    zero: false,
    expected: "a duration from 10s to 24h, such as \"5m\"",
};
pub(super) const ZERO_OR_AT_LEAST_1MS: DurationRange = DurationRange {
    least: MIN_DURATION,
    zero: true,
    expected: "0s (no limit), or a duration from 1ms to 24h, such as \"10s\" or \"250ms\"",
};

impl DurationRange {
    fn contains(self, duration: Duration) -> bool {
        (self.least..=MAX_DURATION).contains(&duration) || (self.zero && duration.is_zero())
    }
}

/// The fields of a map. Known fields are removed as they are read, so that the unknown ones remain.
pub(super) struct SettingFields {
    pub(super) path: String,
    pub(super) map: Map<String, Value>,
}

impl SettingFields {
    pub(super) fn wrong(&self, name: &str, found: &Value, expected: &'static str) -> MeshConfigError {
        let found: String = found.to_string().chars().take(80).collect();
        MeshConfigError::Value { field: format!("{}{name}", self.path), found, expected }
    }

    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.map.remove(name).filter(|value| !value.is_null())
    }

    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, MeshConfigError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(name, &other, "text")),
        }
    }

    pub(super) fn word(
        &mut self,
        name: &str,
        words: &[&'static str],
        expected: &'static str,
    ) -> Result<Option<&'static str>, MeshConfigError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match value.as_str().and_then(|text| words.iter().find(|word| **word == text)) {
            Some(word) => Ok(Some(word)),
            None => Err(self.wrong(name, &value, expected)),
        }
    }

    pub(super) fn boolean(&mut self, name: &str) -> Result<Option<bool>, MeshConfigError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(other) => Err(self.wrong(name, &other, "true or false")),
        }
    }

    pub(super) fn duration(&mut self, name: &str, range: DurationRange) -> Result<Option<Duration>, MeshConfigError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match value.as_str().and_then(parse_duration).filter(|duration| range.contains(*duration)) {
            Some(duration) => Ok(Some(duration)),
            None => Err(self.wrong(name, &value, range.expected)),
        }
    }

    pub(super) fn export_to(&mut self, name: &str) -> Result<Vec<String>, MeshConfigError> {
        const EXPECTED: &str = "a list of namespaces, \".\" (the object's own) or \"*\" (all)";
        let Some(value) = self.take(name) else { return Ok(Vec::new()) };
        let texts = value.as_array().and_then(|of| of.iter().map(Value::as_str).collect::<Option<Vec<&str>>>());
        match texts.filter(|texts| texts.iter().all(|text| !text.is_empty() && text.len() <= MAX_NAMESPACE)) {
            Some(texts) => Ok(texts.into_iter().map(str::to_owned).collect()),
            None => Err(self.wrong(name, &value, EXPECTED)),
        }
    }

    pub(super) fn trust_domains(&mut self, name: &str) -> Result<Vec<String>, MeshConfigError> {
        const EXPECTED: &str = "a list of at most 100 trust domains, such as [\"old.example\"]";
        let Some(value) = self.take(name) else { return Ok(Vec::new()) };
        let texts = value.as_array().and_then(|of| of.iter().map(Value::as_str).collect::<Option<Vec<&str>>>());
        let valid = |text: &str| !text.is_empty() && text.len() <= MAX_TRUST_DOMAIN && !text.contains(['/', '*']);
        match texts.filter(|texts| texts.len() <= MAX_ALIASES && texts.iter().all(|text| valid(text))) {
            Some(texts) => Ok(texts.into_iter().map(str::to_owned).collect()),
            None => Err(self.wrong(name, &value, EXPECTED)),
        }
    }

    /// Reads the blocks that a policy of the whole mesh may have, by the rules of DestinationRules.
    pub(super) fn policy(
        &mut self,
        name: &str,
        warnings: &mut Vec<Warning>,
    ) -> Result<Option<TrafficPolicy>, MeshConfigError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let rule = DestinationRule::from_value(&json!({"spec": {"host": "*.local", "trafficPolicy": value}}));
        for problem in rule.validate() {
            let field = problem.field.replacen("spec.trafficPolicy", name, 1);
            match problem.is_error() {
                true => return Err(MeshConfigError::Field { field, message: problem.message }),
                false => warnings.push(Warning::new(field, problem.message)),
            }
        }
        let Some(policy) = rule.spec.traffic_policy else { return Ok(None) };
        let TrafficPolicy { connection_pool, outlier_detection, .. } = policy;
        for block in value.as_object().into_iter().flat_map(Map::keys) {
            if !["connectionPool", "outlierDetection"].contains(&block.as_str()) {
                let field = format!("{}{name}.{block}", self.path);
                warnings
                    .push(Warning::new(field, "has no effect: only connectionPool and outlierDetection have defaults"));
            }
        }
        Ok(Some(TrafficPolicy { connection_pool, outlier_detection, ..TrafficPolicy::default() }))
    }

    pub(super) fn inner(&mut self, name: &str) -> Result<SettingFields, MeshConfigError> {
        let map = match self.take(name) {
            None => Map::new(),
            Some(Value::Object(map)) => map,
            Some(other) => return Err(self.wrong(name, &other, "a map")),
        };
        Ok(SettingFields { path: format!("{}{name}.", self.path), map })
    }
}

/// Returns what a value is, for messages.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Array(_) => "a list",
        Value::String(_) => "text",
        Value::Number(_) => "a number",
        _ => "a boolean",
    }
}
