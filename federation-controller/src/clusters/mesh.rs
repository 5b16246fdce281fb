//! The watch of the mesh-wide settings: ConfigMap `istio`, key `mesh`, in the root namespace of the own cluster.

use std::sync::Arc;

use super::queue::{Queues, Source};
use super::watch::Pause;
use crate::objects::event::{Event, Mesh, MeshNotices};
use crate::objects::raw::ConfigMapObject;
use api::mesh::MeshConfig;
use api::names::{MESH_CONFIG_KEY, MESH_CONFIG_MAP};
use api::networking::DestinationRuleSpec;
use futures_util::StreamExt as _;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, ResourceExt as _};
use telemetry::access_log::Format;

/// Watches the settings and sends them to the pipeline. Never returns. Invalid settings leave the last valid ones in effect.
pub(super) async fn follow(client: Client, root_namespace: String, events: Queues) {
    let config = watcher::Config::default().fields(&format!("metadata.name={MESH_CONFIG_MAP}"));
    let api = Api::<ConfigMapObject>::namespaced(client, &root_namespace);
    let mut stream = watcher(api, config).backoff(Pause::default()).boxed();
    let (mut in_force, mut noted) = (None, MeshNotices::default());
    while let Some(item) = stream.next().await {
        let text = match item {
            Ok(watcher::Event::Apply(map) | watcher::Event::InitApply(map)) if map.name_any() == MESH_CONFIG_MAP => {
                map.data.unwrap_or_default().remove(MESH_CONFIG_KEY).unwrap_or_default()
            }
            Ok(watcher::Event::Delete(map)) if map.name_any() == MESH_CONFIG_MAP => String::new(),
            Ok(_) => continue,
            Err(error) => {
                tracing::debug!(%error, "cannot watch mesh-wide settings; trying again");
                continue;
            }
        };
        let parsed = parse(&text);
        let notices = notices(&parsed);
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

/// Parses the settings, and what proxies parse of them: they would refuse all settings for an invalid one.
fn parse(text: &str) -> Result<(MeshConfig, Vec<api::Warning>), String> {
    let (config, warnings) = MeshConfig::parse(text).map_err(|error| error.to_string())?;
    let format = &config.access_log_format;
    if !format.is_empty() {
        let parsed = if config.access_log_json { Format::json(format) } else { Format::text(format) };
        parsed.map_err(|error| format!("mesh setting accessLogFormat is invalid: {error}"))?;
    }
    Ok((config, warnings))
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
        path_normalization: config.path_normalization,
        trust_domain_aliases: config.trust_domain_aliases.clone(),
        external_authorizations: config.external_authorizations.clone(),
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
    fn both_have_the_same_defaults() {
        assert_eq!(to_mesh(&MeshConfig::default()), Mesh::default());
    }
}
