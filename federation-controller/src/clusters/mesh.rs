//! The watch of the mesh-wide settings in the root namespace of the own cluster: key `mesh` of ConfigMap `istio`, and
//! `meshConfig` of an IstioOperator. What both set is that of the ConfigMap.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::queue::{Queues, Source};
use super::trouble::{self, Trouble};
use super::watch::Pause;
use crate::objects::event::{Event, Mesh, MeshNotices};
use crate::objects::raw::ConfigMapObject;
use api::mesh::{MeshConfig, operator};
use api::names::{MESH_CONFIG_KEY, MESH_CONFIG_MAP};
use api::networking::DestinationRuleSpec;
use futures_util::{StreamExt as _, stream};
use kube::api::DynamicObject;
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, ResourceExt as _};
use serde_json::Value;
use telemetry::access_log::Format;

/// The number of IstioOperators that are kept.
const MAX_OPERATORS: usize = 16;

/// The specs of IstioOperators, by age and name.
type Operators = BTreeMap<(i64, String), Value>;

/// The settings as their objects have them.
#[derive(Default)]
struct Written {
    /// The text of the ConfigMap.
    text: String,
    operators: Operators,
    /// Those of a list that is not complete.
    listed: Operators,
    /// Whether each watch has had its first list, or cannot have one: settings of one object alone would be those of
    /// neither.
    known: [bool; 2],
}

/// Watches the settings and sends them to the pipeline. Never returns. Invalid settings leave the last valid ones in effect.
pub(super) async fn follow(client: Client, root_namespace: String, events: Queues) {
    let config = watcher::Config::default().fields(&format!("metadata.name={MESH_CONFIG_MAP}"));
    let maps = Api::<ConfigMapObject>::namespaced(client.clone(), &root_namespace);
    let maps = watcher(maps, config).backoff(Pause::default()).map(Changed::Map);
    let kind = GroupVersionKind::gvk("install.istio.io", "v1alpha1", "IstioOperator");
    let kind = ApiResource::from_gvk_with_plural(&kind, "istiooperators");
    let operators = Api::<DynamicObject>::namespaced_with(client, &root_namespace, &kind);
    let operators = watcher(operators, watcher::Config::default()).backoff(Pause::default()).map(Changed::Operator);
    let mut changes = stream::select(maps, operators).boxed();
    let mut written = Written::default();
    let (mut in_force, mut noted) = (None, MeshNotices::default());
    while let Some(changed) = changes.next().await {
        if !written.apply(changed) || written.known != [true; 2] {
            continue;
        }
        let parsed = written.parse();
        let notices = written.notices(&parsed);
        if notices != noted {
            noted = notices.clone();
            for line in &notices.lines {
                tracing::warn!(configmap = MESH_CONFIG_MAP, "mesh settings: {line}");
            }
            if events.send(Source::Controller, Event::MeshNotices(notices)).await.is_err() {
                return;
            }
        }
        // The notice names the reason of an error.
        let Ok((config, _)) = parsed else { continue };
        let mesh = to_mesh(&config);
        if in_force.as_ref() != Some(&mesh) {
            in_force = Some(mesh.clone());
            if events.send(Source::Controller, Event::Mesh(mesh)).await.is_err() {
                return;
            }
        }
    }
}

/// An item of a watch.
enum Changed {
    Map(watcher::Result<watcher::Event<ConfigMapObject>>),
    Operator(watcher::Result<watcher::Event<DynamicObject>>),
}

impl Written {
    /// Applies an item. Returns whether something may have changed.
    fn apply(&mut self, changed: Changed) -> bool {
        match changed {
            Changed::Map(Ok(event)) => self.apply_map(event),
            Changed::Operator(Ok(event)) => self.apply_operator(event),
            Changed::Map(Err(error)) => {
                tracing::debug!(%error, "cannot watch mesh-wide settings; trying again");
                false
            }
            Changed::Operator(Err(error)) => {
                let first = !std::mem::replace(&mut self.known[1], true);
                match trouble::of_watch(&error) {
                    // The kind is not defined.
                    Trouble::Missing => first || !std::mem::take(&mut self.operators).is_empty(),
                    trouble => {
                        tracing::debug!(%trouble, "cannot watch IstioOperators; trying again");
                        first
                    }
                }
            }
        }
    }

    fn apply_map(&mut self, event: watcher::Event<ConfigMapObject>) -> bool {
        self.text = match event {
            watcher::Event::Apply(map) | watcher::Event::InitApply(map) if map.name_any() == MESH_CONFIG_MAP => {
                map.data.unwrap_or_default().remove(MESH_CONFIG_KEY).unwrap_or_default()
            }
            watcher::Event::Delete(map) if map.name_any() == MESH_CONFIG_MAP => String::new(),
            watcher::Event::InitDone => return !std::mem::replace(&mut self.known[0], true),
            _ => return false,
        };
        true
    }

    fn apply_operator(&mut self, event: watcher::Event<DynamicObject>) -> bool {
        match event {
            watcher::Event::Init => {
                self.listed.clear();
                return false;
            }
            watcher::Event::InitApply(object) => {
                put(&mut self.listed, &object);
                return false;
            }
            watcher::Event::InitDone => {
                self.operators = std::mem::take(&mut self.listed);
                self.known[1] = true;
            }
            watcher::Event::Apply(object) => put(&mut self.operators, &object),
            watcher::Event::Delete(object) => {
                let name = object.name_any();
                self.operators.retain(|(_, known), _| *known != name);
            }
        }
        true
    }

    /// Parses the settings: those of the ConfigMap, and where it sets nothing, those of the oldest IstioOperator with
    /// settings.
    fn parse(&self) -> Result<(MeshConfig, Vec<api::Warning>), String> {
        let operator = self.operators.values().find_map(operator::mesh_config).and_then(Value::as_object);
        let Some(below) = operator else { return parse(&self.text) };
        let own: Value = match self.text.trim() {
            "" => Value::Null,
            text => {
                api::yaml::from_str(text).map_err(|error| format!("the mesh settings cannot be parsed: {error}"))?
            }
        };
        let merged = match own {
            Value::Object(own) => {
                let mut merged = below.clone();
                merged.extend(own);
                Value::Object(merged)
            }
            Value::Null => Value::Object(below.clone()),
            other => other,
        };
        checked(MeshConfig::of_value(merged).map_err(|error| error.to_string())?)
    }

    /// Returns what of the settings has no effect.
    fn notices(&self, parsed: &Result<(MeshConfig, Vec<api::Warning>), String>) -> MeshNotices {
        let mut notices = notices(parsed);
        let mut in_force = false;
        for ((_, name), spec) in &self.operators {
            let warnings = operator::warnings(spec).into_iter().filter(|of| !of.field.starts_with("spec.meshConfig"));
            notices.lines.extend(warnings.map(|warning| format!("IstioOperator {name}: {warning}").into()));
            if operator::mesh_config(spec).is_some() && std::mem::replace(&mut in_force, true) {
                let line =
                    format!("IstioOperator {name}: spec.meshConfig has no effect: an older IstioOperator has one");
                notices.lines.push(line.into());
            }
        }
        notices
    }
}

/// Puts an IstioOperator in the place of its previous version, within the bound.
fn put(operators: &mut Operators, object: &DynamicObject) {
    let name = object.name_any();
    operators.retain(|(_, known), _| *known != name);
    if operators.len() < MAX_OPERATORS {
        let created = object.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second());
        operators.insert((created, name), object.data.get("spec").cloned().unwrap_or_default());
    }
}

/// Parses the settings of the ConfigMap.
fn parse(text: &str) -> Result<(MeshConfig, Vec<api::Warning>), String> {
    checked(MeshConfig::parse(text).map_err(|error| error.to_string())?)
}

/// Checks what proxies parse of the settings: they would refuse all of them for an invalid one.
fn checked(parsed: (MeshConfig, Vec<api::Warning>)) -> Result<(MeshConfig, Vec<api::Warning>), String> {
    let format = &parsed.0.access_log_format;
    if !format.is_empty() {
        let found = if parsed.0.access_log_json { Format::json(format) } else { Format::text(format) };
        found.map_err(|error| format!("mesh setting accessLogFormat is invalid: {error}"))?;
    }
    Ok(parsed)
}

/// Returns what the settings say without effect.
fn notices(parsed: &Result<(MeshConfig, Vec<api::Warning>), String>) -> MeshNotices {
    match parsed {
        Ok((config, warnings)) => MeshNotices {
            lines: warnings.iter().map(|warning| warning.to_string().into()).collect(),
            trust_domain: config.trust_domain.as_deref().map(Into::into),
        },
        Err(error) => {
            let line = format!("{error}; the last valid settings stay in effect");
            MeshNotices { lines: vec![line.into()], trust_domain: None }
        }
    }
}

fn to_mesh(config: &MeshConfig) -> Mesh {
    // At most a day, which fits.
    let ms = |duration: std::time::Duration| u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
    let texts = |of: &[String]| of.iter().map(|text| text.as_str().into()).collect();
    Mesh {
        mesh_id: config.mesh_id.as_str().into(),
        registry_only: config.registry_only,
        access_log_file: config.access_log_file.as_str().into(),
        access_log_json: config.access_log_json,
        access_log_format: config.access_log_format.as_str().into(),
        connect_timeout_ms: config.connect_timeout.map_or(0, ms),
        protocol_detection_timeout_ms: ms(config.protocol_detection_timeout),
        locality_load_balancing: config.locality_load_balancing,
        export_all: config.export_all,
        lease_ms: config.lease.map_or(0, ms),
        path_normalization: config.path_normalization,
        trust_domain_aliases: config.trust_domain_aliases.clone(),
        external_authorizations: config.external_authorizations.clone(),
        proxy_settings: Arc::new(config.proxy_settings.clone()),
        gateway_topology: config.gateway_topology,
        service_export_to: texts(&config.service_export_to),
        virtual_service_export_to: texts(&config.virtual_service_export_to),
        destination_rule_export_to: texts(&config.destination_rule_export_to),
        default_policy: config.default_policy.as_ref().map(|policy| {
            Arc::new(DestinationRuleSpec { traffic_policy: Some(policy.clone()), ..DestinationRuleSpec::default() })
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_that_proxies_would_refuse_is_an_error() {
        assert!(parse("accessLogFormat: '%NOTHING%'").unwrap_err().contains("accessLogFormat"));
        assert!(parse("accessLogEncoding: JSON\naccessLogFormat: '[%PROTOCOL%'").is_err());
        assert!(parse("accessLogFormat: \"%PROTOCOL%\\n\"").is_ok());
    }

    #[test]
    fn settings_of_an_istio_operator_have_effect_where_the_config_map_sets_nothing() {
        let operator = |name: &str, created: &str, spec: Value| {
            let object = serde_json::json!({
                "apiVersion": "install.istio.io/v1alpha1", "kind": "IstioOperator",
                "metadata": {"name": name, "creationTimestamp": created}, "spec": spec,
            });
            Changed::Operator(Ok(watcher::Event::Apply(serde_json::from_value(object).unwrap())))
        };
        let settings = serde_json::json!({"profile": "demo",
            "meshConfig": {"accessLogFile": "/dev/stdout", "outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}}});
        let mut written = Written::default();
        assert!(written.apply(operator("a", "2026-01-01T00:00:00Z", settings)));
        let later = serde_json::json!({"meshConfig": {"accessLogFile": "/tmp/other"}});
        assert!(written.apply(operator("b", "2026-02-01T00:00:00Z", later)));
        let parsed = written.parse();
        let (config, _) = parsed.clone().unwrap();
        assert_eq!((&*config.access_log_file, config.registry_only), ("/dev/stdout", true));
        let lines = written.notices(&parsed).lines;
        assert!(lines[0].starts_with("IstioOperator a: spec.profile: has no effect"), "{lines:?}");
        assert!(lines[1].starts_with("IstioOperator b: spec.meshConfig has no effect"), "{lines:?}");
        written.text = "accessLogFile: /dev/stderr\n".to_owned();
        let (config, _) = written.parse().unwrap();
        assert_eq!((&*config.access_log_file, config.registry_only), ("/dev/stderr", true));
        written.operators.clear();
        assert!(!written.parse().unwrap().0.registry_only);
    }

    #[test]
    fn both_have_the_same_defaults() {
        assert_eq!(to_mesh(&MeshConfig::default()), Mesh::default());
    }
}
