use serde_json::json;

use super::*;

/// API servers may shorten warnings beyond 256 characters.
const LONGEST_WARNING: usize = 256;

#[test]
fn a_kind_without_effect_is_named_with_what_happens_instead() {
    for kind in ["AuthorizationPolicy", "PeerAuthentication", "RequestAuthentication"] {
        assert!(warnings("security.istio.io", kind, "shop/a", &json!({})).is_empty(), "{kind}");
    }
    let said = warnings("telemetry.istio.io", "Telemetry", "shop/a", &json!({}));
    assert!(said[0].starts_with("Telemetry shop/a has no effect: "), "{said:?}");
}

#[test]
fn objects_with_effect_have_no_warning() {
    assert!(warnings("multicluster.x-k8s.io", "ServiceExport", "shop/a", &json!({})).is_empty());
    assert!(warnings("example.com", "AuthorizationPolicy", "shop/a", &json!({})).is_empty());
    let exporting = json!({"spec": {"servers": [{"port": {"number": 15443, "protocol": "TLS", "name": "tls"},
        "tls": {"mode": "AUTO_PASSTHROUGH"}, "hosts": ["*.local"]}]}});
    assert!(warnings("networking.istio.io", "Gateway", "shop/a", &exporting).is_empty());
}

#[test]
fn tolerated_fields_are_named_with_their_path() {
    let detection = json!({"minRequestVolume": 10, "consecutiveErrors": 5, "interval": "30s"});
    let rule = json!({"spec": {
        "trafficPolicy": {"outlierDetection": detection},
        "subsets": [{"name": "v1"}, {"name": "v2", "trafficPolicy": {"outlierDetection": detection}}],
    }});
    let fields: Vec<String> = fields::warnings("DestinationRule", &rule).into_iter().map(|of| of.field).collect();
    let mut expected = Vec::new();
    for policy in ["spec.subsets[1].trafficPolicy", "spec.trafficPolicy"] {
        expected.push(format!("{policy}.outlierDetection.consecutiveErrors"));
        expected.push(format!("{policy}.outlierDetection.minRequestVolume"));
    }
    assert_eq!(fields, expected);
    let audiences = |audiences: Value| {
        let object = json!({"spec": {"jwtRules": [{"issuer": "x", "audiences": audiences}]}});
        fields::warnings("RequestAuthentication", &object).len()
    };
    assert_eq!((audiences(json!("a")), audiences(json!(["a"]))), (1, 0));
}

#[test]
fn the_number_of_warnings_is_bounded() {
    let rules = vec![json!({"issuer": "x", "audiences": "a"}); 5000];
    let said = warnings("security.istio.io", "RequestAuthentication", "shop/a", &json!({"spec": {"jwtRules": rules}}));
    assert_eq!(said.len(), MAX_FIELDS + 1);
    assert!(said[MAX_FIELDS].contains("further fields"));
}

#[test]
fn warnings_are_shown_in_full() {
    let name = format!("{}/{}", "n".repeat(16), "o".repeat(32));
    for kind in WITHOUT_EFFECT {
        let notice = kind.notice(&name);
        assert!(notice.len() <= LONGEST_WARNING, "{} of {notice}", notice.len());
        assert!(GROUPS.contains(&kind.group));
    }
    let path = "spec.subsets[10].trafficPolicy.outlierDetection";
    for field in TOLERATED {
        let warning = format!("{} {name}: {path}.{}: {}", field.kind, field.field, field.instead);
        assert!(warning.len() <= LONGEST_WARNING, "{} of {warning}", warning.len());
    }
}

/// docs/compatibility.md has a line for each entry of the tables.
#[test]
fn the_documentation_lists_every_kind_and_field() {
    let page = include_str!("../../../../docs/compatibility.md");
    let (tables, _) = page.split_once("\n## Cases").expect("the tables come before the cases");
    let listed: Vec<&str> = tables.lines().filter(|line| line.starts_with("| `")).collect();
    let kinds =
        WITHOUT_EFFECT.iter().map(|of| format!("| `{}` ({}) | has no effect: {} |", of.kind, of.group, of.instead));
    let fields = TOLERATED.iter().map(|of| match of.values {
        fields::Values::Any => format!("| `{}` | `{}.{}` | {} |", of.kind, of.parent, of.field, of.instead),
        fields::Values::Single => {
            format!("| `{}` | `{}.{}`, a string | {} |", of.kind, of.parent, of.field, of.instead)
        }
    });
    let expected: Vec<String> = kinds.chain(fields).collect();
    assert_eq!(listed, expected, "docs/compatibility.md is to have these lines:\n{}", expected.join("\n"));
}
