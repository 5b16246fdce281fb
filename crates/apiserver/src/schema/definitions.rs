//! JSON schemas of the built-in kinds, generated from the types of `k8s-openapi`.

use k8s_openapi::api::{
    admissionregistration::v1 as admissionregistration, apps::v1 as apps, authentication::v1 as authentication,
    authorization::v1 as authorization, autoscaling::v1 as autoscaling_v1, autoscaling::v2 as autoscaling,
    batch::v1 as batch, coordination::v1 as coordination, core::v1 as core, discovery::v1 as discovery,
    events::v1 as events, networking::v1 as networking, node::v1 as node, policy::v1 as policy, rbac::v1 as rbac,
    scheduling::v1 as scheduling, storage::v1 as storage,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as apiextensions;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value, json};

/// Prefix of references between definitions.
pub(crate) const PREFIX: &str = "#/components/schemas/";

/// Generates the schemas of the built-in kinds by name (`io.k8s.api.core.v1.Pod`). Generating them takes most of a
/// second; they are not cached, because they are megabytes that are rarely requested.
pub(crate) fn generate() -> Map<String, Value> {
    let settings = SchemaSettings::openapi3().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
        settings.transforms.clear();
    });
    let mut generator = settings.into_generator();
    add_all(&mut generator);
    let mut definitions = generator.take_definitions(false);
    definitions.extend(metrics());
    definitions
}

macro_rules! add {
    ($generator:ident: $($kind:ty),+ $(,)?) => { $( $generator.subschema_for::<$kind>(); )+ };
}

fn add_all(generator: &mut SchemaGenerator) {
    add!(generator:
        core::Binding, core::ConfigMap, core::Endpoints, core::Event, core::LimitRange, core::Namespace, core::Node,
        core::PersistentVolume, core::PersistentVolumeClaim, core::Pod, core::ReplicationController, core::ResourceQuota, core::Secret, core::Service, core::ServiceAccount,
        admissionregistration::MutatingWebhookConfiguration, admissionregistration::ValidatingWebhookConfiguration,
        apiextensions::CustomResourceDefinition,
        apps::ControllerRevision, apps::DaemonSet, apps::Deployment, apps::ReplicaSet, apps::StatefulSet,
        authentication::SelfSubjectReview, authentication::TokenRequest, authentication::TokenReview,
        authorization::LocalSubjectAccessReview, authorization::SelfSubjectAccessReview,
        authorization::SelfSubjectRulesReview, authorization::SubjectAccessReview,
        autoscaling_v1::Scale, autoscaling::HorizontalPodAutoscaler,
        batch::CronJob, batch::Job, coordination::Lease, discovery::EndpointSlice, events::Event,
        networking::Ingress, networking::IngressClass, networking::NetworkPolicy, policy::Eviction, policy::PodDisruptionBudget,
        node::RuntimeClass, scheduling::PriorityClass, storage::StorageClass,
        rbac::ClusterRole, rbac::ClusterRoleBinding, rbac::Role, rbac::RoleBinding,
        meta::DeleteOptions, meta::ListMeta, meta::Status,
    );
}

/// The schemas of `metrics.k8s.io`, which `k8s-openapi` does not have.
fn metrics() -> [(String, Value); 3] {
    let of = |name: &str| json!({"$ref": format!("{PREFIX}{name}")});
    let usage = json!({
        "description": "The memory usage is the memory working set.", "type": "object",
        "additionalProperties": of("io.k8s.apimachinery.pkg.api.resource.Quantity"),
    });
    let sample = |what: &str, properties: Value| {
        let mut schema = json!({
            "description": format!("{what} sets resource usage metrics of a {}.", what.trim_end_matches("Metrics").to_ascii_lowercase()),
            "type": "object",
            "properties": {
                "apiVersion": {"type": "string"}, "kind": {"type": "string"},
                "metadata": of("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"),
                "timestamp": of("io.k8s.apimachinery.pkg.apis.meta.v1.Time"),
                "window": {"description": "The metrics are of the interval [timestamp - window, timestamp].", "type": "string"},
            },
        });
        for (name, property) in properties.as_object().into_iter().flatten() {
            schema["properties"][name] = property.clone();
        }
        schema
    };
    let named = |kind: &str| name("metrics.k8s.io", "v1beta1", kind);
    let containers = json!({"type": "array", "items": of(&named("ContainerMetrics"))});
    let container = json!({
        "description": "ContainerMetrics sets resource usage metrics of a container.", "type": "object",
        "properties": {"name": {"type": "string"}, "usage": usage},
    });
    [
        (named("NodeMetrics"), sample("NodeMetrics", json!({"usage": usage}))),
        (named("PodMetrics"), sample("PodMetrics", json!({"containers": containers}))),
        (named("ContainerMetrics"), container),
    ]
}

/// Name of a built-in kind's schema.
pub(crate) fn name(group: &str, version: &str, kind: &str) -> String {
    let package = match group {
        "" => "api.core",
        "apiextensions.k8s.io" => "apiextensions-apiserver.pkg.apis.apiextensions",
        "rbac.authorization.k8s.io" => "api.rbac",
        "metrics.k8s.io" => "metrics.pkg.apis.metrics",
        group => return format!("io.k8s.api.{}.{version}.{kind}", group.split('.').next().unwrap_or(group)),
    };
    format!("io.k8s.{package}.{version}.{kind}")
}

/// The definition that `schema` refers to, directly or as its only `allOf`.
pub(crate) fn reference(schema: &Value) -> Option<&str> {
    schema["$ref"]
        .as_str()
        .or_else(|| match schema["allOf"].as_array()?.as_slice() {
            [only] => only["$ref"].as_str(),
            _ => None,
        })?
        .strip_prefix(PREFIX)
}
