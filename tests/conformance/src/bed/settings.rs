//! Settings of the mesh that cases change.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use super::Bed;
use crate::istio;

/// After a change of settings, which proxies do not show.
const SETTLE: Duration = Duration::from_secs(2);

/// The settings of a bed, and those that are in force.
pub(crate) struct Settings {
    of_bed: Value,
    current: Value,
}

impl Settings {
    /// Settings that are not in force yet.
    pub(crate) fn new(of_bed: Value) -> Self {
        Self { of_bed, current: Value::Null }
    }

    /// The bed's settings as istiod reads them. They count as being in force.
    pub(crate) fn for_istiod(&mut self) -> String {
        self.current = self.of_bed.clone();
        text(&self.of_bed)
    }

    /// Changes the settings of the mesh to those of a case.
    pub(crate) async fn set(&mut self, bed: &Bed, case: Option<&Value>) -> Result<()> {
        let mut wanted = self.of_bed.clone();
        for (name, value) in case.and_then(Value::as_object).into_iter().flatten() {
            wanted[name] = value.clone();
        }
        if wanted == self.current {
            return Ok(());
        }
        let is_first = self.current.is_null();
        if bed.is_istio() {
            istio::write_settings(bed.directory(), &text(&wanted))?;
        } else {
            let mut all = wanted.clone();
            all["accessLogFile"] = json!("/dev/stdout");
            all["accessLogFormat"] = json!(istio::ACCESS_LOG);
            bed.apply(vec![json!({
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "istio", "namespace": "istio-system"},
                "data": {"mesh": all.to_string()},
            })])
            .await?;
        }
        self.current = wanted;
        if !is_first {
            tokio::time::sleep(SETTLE).await;
        }
        Ok(())
    }
}

/// Settings as YAML, a line for each.
fn text(settings: &Value) -> String {
    let fields = settings.as_object().into_iter().flatten();
    fields.map(|(name, value)| format!("{name}: {value}\n")).collect()
}
