//! Reading the settings of injected proxies: Istio's ProxyConfig, as `defaultConfig` of the mesh settings and the
//! annotation `proxy.istio.io/config` have it. The object of that name has a part of it (`networking::proxy_config`).

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};

use super::MeshConfigError;
use super::fields::SettingFields;
use crate::Warning;
use crate::duration::parse_duration;
use crate::proxy_settings::{MAX_CONCURRENCY, MAX_VARIABLES, ProxySettings, is_variable};

/// The longest time to drain.
const MAX_DRAIN: Duration = Duration::from_secs(24 * 3600);

/// Fields of Istio's ProxyConfig without effect, each with what to do instead.
const WITHOUT_EFFECT: &[(&str, &str)] = &[
    ("discoveryAddress", "has no effect: a proxy connects to the controller that injects it"),
    ("image", "has no effect: the image has one form; set annotation sidecar.istio.io/proxyImage for another one"),
    ("drainDuration", "has no effect: listeners are not replaced; set terminationDrainDuration for the end of a pod"),
    ("statusPort", "has no effect: health and merged metrics are at ports 15021 and 15020"),
    ("proxyAdminPort", "has no effect: the admin endpoint is at port 15000"),
    ("tracing", "has no effect: proxies report no traces, and forward trace headers as they are"),
    ("gatewayTopology", "has no effect on sidecars"),
    ("proxyStatsMatcher", "has no effect: all metrics are reported"),
];

impl ProxySettings {
    /// Reads the fields of a ProxyConfig. `path` precedes their names in messages. Also returns a warning for each
    /// field without effect.
    ///
    /// # Errors
    /// Returns an error that names the field if a value is invalid.
    pub fn read(path: &str, map: Map<String, Value>) -> Result<(Self, Vec<Warning>), MeshConfigError> {
        Self::of_fields(SettingFields { path: path.to_owned(), map })
    }

    pub(super) fn of_fields(mut fields: SettingFields) -> Result<(Self, Vec<Warning>), MeshConfigError> {
        let mut settings =
            ProxySettings { hold_application: fields.boolean("holdApplicationUntilProxyStarts")?, ..Self::default() };
        if let Some(value) = fields.take("concurrency") {
            let threads = value.as_u64().and_then(|threads| u32::try_from(threads).ok());
            let threads = threads.filter(|threads| *threads <= MAX_CONCURRENCY);
            settings.concurrency =
                Some(threads.ok_or_else(|| fields.wrong("concurrency", &value, "a number of threads, at most 1024"))?);
        }
        if let Some(value) = fields.take("terminationDrainDuration") {
            let duration = value.as_str().and_then(parse_duration).filter(|duration| *duration <= MAX_DRAIN);
            settings.termination_drain = Some(duration.ok_or_else(|| {
                fields.wrong("terminationDrainDuration", &value, "a duration such as \"5s\", at most 24h")
            })?);
        }
        if let Some(value) = fields.take("proxyMetadata") {
            settings.variables = variables(&value)
                .ok_or_else(|| fields.wrong("proxyMetadata", &value, "a map of at most 256 environment variables"))?;
        }
        if fields.map.get("statusPort") == Some(&Value::from(15_020)) {
            fields.map.remove("statusPort");
        }
        let warning = |name: &String| {
            let known = WITHOUT_EFFECT.iter().find(|(of, _)| of == name);
            Warning::new(
                format!("{}{name}", fields.path),
                known.map_or("has no effect in this mesh", |(_, instead)| instead),
            )
        };
        let warnings = fields.map.keys().map(warning).collect();
        Ok((settings, warnings))
    }
}

/// Reads environment variables; a value that is no text is written as JSON.
fn variables(value: &Value) -> Option<BTreeMap<String, String>> {
    let map = value.as_object().filter(|map| map.len() <= MAX_VARIABLES)?;
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    map.iter().map(|(name, value)| is_variable(name).then(|| (name.clone(), text(value)))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: Value) -> Result<(ProxySettings, Vec<Warning>), MeshConfigError> {
        ProxySettings::read("defaultConfig.", value.as_object().cloned().expect("a map"))
    }

    #[test]
    fn settings_are_read_and_others_are_named() {
        let (settings, warnings) = read(json!({
            "concurrency": 2, "terminationDrainDuration": "7s", "holdApplicationUntilProxyStarts": true,
            "proxyMetadata": {"A": "b", "N": 1}, "statusPort": 15020, "tracing": {}, "image": {"imageType": "debug"},
        }))
        .unwrap();
        let variables = [("A".to_owned(), "b".to_owned()), ("N".to_owned(), "1".to_owned())].into();
        let expected = ProxySettings {
            concurrency: Some(2),
            termination_drain: Some(Duration::from_secs(7)),
            hold_application: Some(true),
            variables,
        };
        assert_eq!(settings, expected);
        let fields: Vec<&str> = warnings.iter().map(|warning| &*warning.field).collect();
        assert_eq!(fields, ["defaultConfig.image", "defaultConfig.tracing"]);
        for (field, value) in [
            ("concurrency", json!("many")),
            ("concurrency", json!(5000)),
            ("terminationDrainDuration", json!("5")),
            ("terminationDrainDuration", json!("48h")),
            ("holdApplicationUntilProxyStarts", json!(1)),
            ("proxyMetadata", json!({"a b": "c"})),
            ("proxyMetadata", json!({"1A": "c"})),
        ] {
            let error = read(json!({field: value})).unwrap_err().to_string();
            assert!(error.contains(&format!("defaultConfig.{field} ")), "{error}");
        }
    }
}
