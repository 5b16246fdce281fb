use api::compatibility::TOLERATED;

use super::*;

/// Returns the schema of a kind's `spec`.
fn spec_of(kind: &str) -> Value {
    let definition = DEFINITIONS.iter().find(|definition| definition.kind == kind);
    (definition.unwrap_or_else(|| panic!("no definition of {kind}")).spec)()
}

/// Calls `visit` with every schema of a property, with its parent's name and its own.
fn each(parent: &str, schema: &Value, visit: &mut dyn FnMut(&str, &str, &Value)) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        visit(parent, name, property);
        each(name, property, visit);
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get(inner) {
            visit(parent, "", inner);
            each(parent, inner, visit);
        }
    }
}

/// What a Kubernetes API server requires of a structural schema.
#[test]
fn schemas_are_structural() {
    for definition in DEFINITIONS {
        each("spec", &(definition.spec)(), &mut |parent, name, schema| {
            let at = format!("{} {parent}.{name}: {schema}", definition.kind);
            let flag = |key: &str| schema[key] == true;
            let untyped = flag("x-kubernetes-int-or-string") || flag("x-kubernetes-preserve-unknown-fields");
            assert!(schema["type"].is_string() || untyped, "{at}");
            assert_eq!(schema["type"] == "array", schema["items"].is_object(), "{at}");
            assert!(schema["properties"].is_null() || schema["additionalProperties"].is_null(), "{at}");
        });
    }
}

#[test]
fn schemas_admit_the_tolerated_fields_and_no_others() {
    for tolerated in TOLERATED {
        let mut found = 0;
        each("spec", &spec_of(tolerated.kind), &mut |parent, name, schema| {
            found +=
                usize::from(parent == tolerated.parent && name == tolerated.field && *schema == schema::anything());
        });
        assert!(found > 0, "{tolerated:?}");
    }
    let untyped = ["IstioOperator", "ServiceProfile", "HTTPRouteGroup"];
    for definition in DEFINITIONS.iter().filter(|definition| !untyped.contains(&definition.kind)) {
        each("spec", &(definition.spec)(), &mut |parent, name, schema| {
            let known =
                TOLERATED.iter().any(|of| of.kind == definition.kind && of.parent == parent && of.field == name);
            assert!(*schema != schema::anything() || known, "{} {parent}.{name} has no type", definition.kind);
        });
    }
}
