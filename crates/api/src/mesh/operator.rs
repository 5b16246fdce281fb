//! IstioOperator (`install.istio.io`): its `meshConfig` is the mesh settings. `isthmus install` installs what a cluster
//! has, so the rest has no effect.

use serde_json::Value;

use super::MeshConfig;
use crate::Warning;

/// Returns the mesh settings of the spec of an IstioOperator.
pub fn mesh_config(spec: &Value) -> Option<&Value> {
    spec.get("meshConfig").filter(|settings| !settings.is_null())
}

/// Returns a warning for each part of the spec that has no effect, and if the mesh settings are invalid, what is wrong
/// with them.
pub fn warnings(spec: &Value) -> Vec<Warning> {
    let mut found = Vec::new();
    for (name, value) in spec.as_object().into_iter().flatten().filter(|(name, _)| *name != "meshConfig") {
        match (name.as_str(), value.as_object()) {
            ("components", Some(components)) => found.extend(components.keys().map(|component| {
                let instead = "has no effect: `isthmus install` installs the components and sets their resources";
                Warning::new(format!("spec.components.{component}"), instead)
            })),
            _ => found.push(Warning::new(format!("spec.{name}"), instead(name))),
        }
    }
    if let Some(settings) = mesh_config(spec) {
        match MeshConfig::of_value(settings.clone()) {
            Ok((_, warnings)) => found.extend(warnings.into_iter().map(|warning| {
                let field = format!("spec.meshConfig.{}", warning.field);
                Warning { field, ..warning }
            })),
            Err(error) => found.push(Warning::new("spec.meshConfig", format!("has no effect: {error}"))),
        }
    }
    found
}

fn instead(name: &str) -> &'static str {
    match name {
        "profile" => "has no effect: `isthmus install` has one profile",
        "revision" => "has no effect: a cluster has one revision; label namespaces istio-injection=enabled",
        "values" => "has no effect: set cluster, network and mesh ID with `isthmus install` and `isthmus join`",
        _ => "has no effect: `isthmus install` decides it",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_mesh_settings_have_effect_and_the_rest_is_named() {
        let spec = json!({
            "profile": "production", "revision": "1-13", "components": {"pilot": {}, "ingressGateways": []},
            "meshConfig": {"accessLogFile": "/dev/stdout", "enableTracing": true},
        });
        assert_eq!(mesh_config(&spec), Some(&json!({"accessLogFile": "/dev/stdout", "enableTracing": true})));
        let fields: Vec<String> = warnings(&spec).into_iter().map(|warning| warning.field).collect();
        let expected = [
            "spec.components.ingressGateways",
            "spec.components.pilot",
            "spec.profile",
            "spec.revision",
            "spec.meshConfig.enableTracing",
        ];
        assert_eq!(fields, expected);
        let invalid = json!({"meshConfig": {"connectTimeout": 3}});
        assert!(warnings(&invalid)[0].message.contains("connectTimeout"));
        assert!(warnings(&json!({})).is_empty() && mesh_config(&json!({})).is_none());
    }
}
