//! CustomResourceDefinitions and custom resources.

use serde_json::json;

use crate::KubectlTest;
use crate::server::{TestServer, rows};

pub(crate) const TESTS: &[KubectlTest] = &[
    ("custom::defined_listed_and_explained", defined_listed_and_explained),
    ("custom::validated_against_the_schema", validated_against_the_schema),
    ("custom::status_and_scale", status_and_scale),
    ("custom::deleted_with_the_definition", deleted_with_the_definition),
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

fn defined() -> TestServer {
    let server = TestServer::start();
    assert_eq!(server.apply(DEFINITION), "customresourcedefinition.apiextensions.k8s.io/widgets.example.com created\n");
    server.kubectl("wait crd/widgets.example.com --for=condition=Established --timeout=20s");
    server
}

fn defined_listed_and_explained() {
    let server = defined();
    assert_eq!(server.apply(WIDGET), "widget.example.com/w created\n");
    let table = server.kubectl("get wd");
    assert_eq!(rows(&table)[0], ["NAME", "COLOR", "READY", "AGE"]);
    assert_eq!(rows(&table)[1][..2], ["w", "red"]);
    assert_eq!(rows(&server.kubectl("get widgets -o wide"))[0], ["NAME", "COLOR", "READY", "SIZE", "AGE"]);
    assert_eq!(server.object("widget w")["spec"]["size"], 3, "the schema's default");
    let explained = server.kubectl("explain widget.spec");
    assert!(explained.contains("KIND:       Widget") && explained.contains("What it looks like."), "{explained}");
    assert!(server.kubectl("get all").contains("widget.example.com/w"));
    assert_eq!(server.apply(&WIDGET.replace("red", "blue")), "widget.example.com/w configured\n");
    let merged = server.kubectl_with(&["patch", "widget", "w", "--type=merge", "-p", r#"{"spec":{"size":9}}"#], "");
    assert_eq!(merged, "widget.example.com/w patched\n");
    assert!(server.kubectl("describe widget w").contains("Color:  blue"));
    assert!(server.kubectl("get crd widgets.example.com").contains("CREATED AT"));
    assert_eq!(server.kubectl("delete widget w"), "widget.example.com \"w\" deleted\n");
}

fn validated_against_the_schema() {
    let server = defined();
    let color = server.refused("apply -f -", &WIDGET.replace("red", "green"));
    assert!(color.contains("spec.color: Unsupported value: \"green\": supported values: \"red\", \"blue\""), "{color}");
    let missing = server.refused("apply -f -", &WIDGET.replace("{color: red}", "{size: 4}"));
    assert!(missing.contains("spec.color: Required value"), "{missing}");
    let small = server.refused("apply -f -", &WIDGET.replace("{color: red}", "{color: red, size: 0}"));
    assert!(
        small.contains("spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1"),
        "{small}"
    );
    let unknown = server.refused("apply -f -", &WIDGET.replace("{color: red}", "{color: red, shape: round}"));
    assert!(unknown.contains("unknown field \"spec.shape\""), "{unknown}");
    let lax = server.run(
        &["apply", "--validate=ignore", "-f", "-"],
        &WIDGET.replace("{color: red}", "{color: red, shape: round}"),
        &[],
    );
    assert_eq!(lax.code, Some(0), "{}", lax.stderr);
    assert!(server.object("widget w")["spec"].get("shape").is_none(), "unknown fields are pruned");
}

fn status_and_scale() {
    let server = defined();
    server.apply(WIDGET);
    server.set_status("widget/w", &json!({"conditions": [{"type": "Ready", "status": "True"}], "replicas": 1}));
    assert_eq!(rows(&server.kubectl("get widget w"))[1][..3], ["w", "red", "True"]);
    assert_eq!(server.kubectl("scale widget w --replicas=4"), "widget.example.com/w scaled\n");
    assert_eq!(server.object("widget w")["spec"]["replicas"], 4);
    server.kubectl("wait widget/w --for=condition=Ready --timeout=20s");
}

fn deleted_with_the_definition() {
    let server = defined();
    server.apply(WIDGET);
    server.kubectl("delete crd widgets.example.com --timeout=30s");
    // kubectl caches the resource for a while.
    let gone = server.refused("get widgets", "");
    assert!(gone.contains("the server could not find the requested resource"), "{gone}");
    server.apply(DEFINITION);
    server.kubectl("wait crd/widgets.example.com --for=condition=Established --timeout=20s");
    assert_eq!(server.kubectl("get widgets -o name"), "");
}
