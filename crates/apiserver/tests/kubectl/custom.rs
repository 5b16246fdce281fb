//! CustomResourceDefinitions and what they define.

use serde_json::json;

use crate::Test;
use crate::bench::{Bench, rows};

pub(crate) const TESTS: &[Test] = &[
    ("custom::defined_listed_and_explained", defined_listed_and_explained),
    ("custom::checked_by_their_schema", checked_by_their_schema),
    ("custom::status_and_scale", status_and_scale),
    ("custom::gone_with_their_definition", gone_with_their_definition),
];

const DEFINITION: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget, shortNames: [wd], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}, scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas}}
    additionalPrinterColumns:
    - {name: Color, type: string, jsonPath: .spec.color}
    - {name: Ready, type: string, jsonPath: '.status.conditions[?(@.type=="Ready")].status'}
    - {name: Size, type: integer, jsonPath: .spec.size, priority: 1}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
    schema:
      openAPIV3Schema:
        type: object
        description: A widget is a thing.
        properties:
          spec:
            type: object
            required: [color]
            properties:
              color: {type: string, enum: [red, blue], description: What it looks like.}
              size: {type: integer, minimum: 1, default: 3}
              replicas: {type: integer}
          status:
            type: object
            x-kubernetes-preserve-unknown-fields: true
"#;

const WIDGET: &str = "apiVersion: example.com/v1\nkind: Widget\nmetadata: {name: w}\nspec: {color: red}\n";

fn defined() -> Bench {
    let bench = Bench::start();
    assert_eq!(bench.apply(DEFINITION), "customresourcedefinition.apiextensions.k8s.io/widgets.example.com created\n");
    bench.kubectl("wait crd/widgets.example.com --for=condition=Established --timeout=20s");
    bench
}

fn defined_listed_and_explained() {
    let bench = defined();
    assert_eq!(bench.apply(WIDGET), "widget.example.com/w created\n");
    let table = bench.kubectl("get wd");
    assert_eq!(rows(&table)[0], ["NAME", "COLOR", "READY", "AGE"]);
    assert_eq!(rows(&table)[1][..2], ["w", "red"]);
    assert_eq!(rows(&bench.kubectl("get widgets -o wide"))[0], ["NAME", "COLOR", "READY", "SIZE", "AGE"]);
    assert_eq!(bench.object("widget w")["spec"]["size"], 3, "the schema's default");
    let explained = bench.kubectl("explain widget.spec");
    assert!(explained.contains("KIND:       Widget") && explained.contains("What it looks like."), "{explained}");
    assert!(bench.kubectl("get all").contains("widget.example.com/w"));
    assert_eq!(bench.apply(&WIDGET.replace("red", "blue")), "widget.example.com/w configured\n");
    let merged = bench.kubectl_with(&["patch", "widget", "w", "--type=merge", "-p", r#"{"spec":{"size":9}}"#], "");
    assert_eq!(merged, "widget.example.com/w patched\n");
    assert!(bench.kubectl("describe widget w").contains("Color:  blue"));
    assert!(bench.kubectl("get crd widgets.example.com").contains("CREATED AT"));
    assert_eq!(bench.kubectl("delete widget w"), "widget.example.com \"w\" deleted\n");
}

fn checked_by_their_schema() {
    let bench = defined();
    let color = bench.refused("apply -f -", &WIDGET.replace("red", "green"));
    assert!(color.contains("spec.color: Unsupported value: \"green\": supported values: \"red\", \"blue\""), "{color}");
    let missing = bench.refused("apply -f -", &WIDGET.replace("{color: red}", "{size: 4}"));
    assert!(missing.contains("spec.color: Required value"), "{missing}");
    let small = bench.refused("apply -f -", &WIDGET.replace("{color: red}", "{color: red, size: 0}"));
    assert!(
        small.contains("spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1"),
        "{small}"
    );
    let unknown = bench.refused("apply -f -", &WIDGET.replace("{color: red}", "{color: red, shape: round}"));
    assert!(unknown.contains("unknown field \"spec.shape\""), "{unknown}");
    let lax = bench.run(
        &["apply", "--validate=ignore", "-f", "-"],
        &WIDGET.replace("{color: red}", "{color: red, shape: round}"),
        &[],
    );
    assert_eq!(lax.code, Some(0), "{}", lax.stderr);
    assert!(bench.object("widget w")["spec"].get("shape").is_none(), "unknown fields are pruned");
}

fn status_and_scale() {
    let bench = defined();
    bench.apply(WIDGET);
    bench.set_status("widget/w", &json!({"conditions": [{"type": "Ready", "status": "True"}], "replicas": 1}));
    assert_eq!(rows(&bench.kubectl("get widget w"))[1][..3], ["w", "red", "True"]);
    assert_eq!(bench.kubectl("scale widget w --replicas=4"), "widget.example.com/w scaled\n");
    assert_eq!(bench.object("widget w")["spec"]["replicas"], 4);
    bench.kubectl("wait widget/w --for=condition=Ready --timeout=20s");
}

fn gone_with_their_definition() {
    let bench = defined();
    bench.apply(WIDGET);
    bench.kubectl("delete crd widgets.example.com --timeout=30s");
    // kubectl remembers for a while that there was such a resource.
    let gone = bench.refused("get widgets", "");
    assert!(gone.contains("the server could not find the requested resource"), "{gone}");
    bench.apply(DEFINITION);
    bench.kubectl("wait crd/widgets.example.com --for=condition=Established --timeout=20s");
    assert_eq!(bench.kubectl("get widgets -o name"), "");
}
