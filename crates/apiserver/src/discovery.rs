//! Discovery: groups, versions and resources in the legacy and the aggregated format, the version, health checks,
//! OpenAPI and OpenID documents.

use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::api::Api;
use crate::authn::UserInfo;
use crate::body::{self, ResponseBody};
use crate::kinds::ResourceKind;
use crate::openapi::{self, CustomResourceSchema};
use crate::rbac::{self, Attributes};
use crate::registry::RegistrySnapshot;
use crate::status::{Result, Status};

/// The Kubernetes version whose API is served.
const MINOR: &str = "33";
const GIT_VERSION: &str = "v1.33.0";

/// Paths that anonymous callers may read.
const PUBLIC: [&str; 4] = ["/healthz", "/livez", "/readyz", "/version"];

/// Returns an error if `user` may not access a non-resource path.
pub(crate) fn authorize(api: &Api, user: &UserInfo, method: &Method, path: &str) -> Result<()> {
    let public =
        PUBLIC.iter().any(|known| path == *known || path.strip_prefix(known).is_some_and(|rest| rest.starts_with('/')));
    let discovery = ["/api", "/apis", "/openapi", "/.well-known", "/"];
    let discovery =
        discovery.iter().any(|known| path == *known || *known != "/" && path.starts_with(&format!("{known}/")));
    let reads = matches!(*method, Method::GET | Method::HEAD);
    if reads && (public || discovery && user.in_group("system:authenticated")) {
        return Ok(());
    }
    let verb = method.as_str().to_ascii_lowercase();
    let attributes = Attributes { verb, path: Some(path.to_owned()), ..Attributes::default() };
    if rbac::allowed(&api.store, user, &attributes) { Ok(()) } else { Err(rbac::refusal(user, &attributes)) }
}

/// Serves a non-resource path.
pub(crate) fn answer(api: &Api, method: &Method, path: &str, headers: &HeaderMap) -> Result<Response<ResponseBody>> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Err(Status::method_not_allowed());
    }
    let snapshot = api.registry.snapshot();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let value = match parts.as_slice() {
        ["healthz" | "livez" | "readyz", ..] => return Ok(body::text(StatusCode::OK, "ok")),
        ["version"] => version(),
        [""] => paths(&snapshot),
        ["api"] | ["apis"] => match aggregated_version(headers) {
            Some(version) => return Ok(aggregated(&snapshot, parts[0] == "api", version)),
            None if parts[0] == "api" => {
                json!({ "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [] })
            }
            None => {
                let groups: Vec<Value> = group_names(&snapshot)
                    .iter()
                    .filter(|group| !group.is_empty())
                    .map(|name| group(&snapshot, name))
                    .collect();
                json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups })
            }
        },
        ["api", "v1"] => resources(&snapshot, "", "v1").ok_or_else(Status::no_such_resource)?,
        ["apis", name] if group_names(&snapshot).contains(name) => {
            let mut value = group(&snapshot, name);
            value["kind"] = json!("APIGroup");
            value["apiVersion"] = json!("v1");
            value
        }
        ["apis", group, version] => resources(&snapshot, group, version).ok_or_else(Status::no_such_resource)?,
        ["openapi", "v2"] if accepts_only(headers, openapi::V2_PROTOBUF) => {
            let mut response = Response::new(body::full(openapi::v2_protobuf()));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(openapi::V2_PROTOBUF_ANSWER));
            return Ok(response);
        }
        ["openapi", "v2"] => return document(openapi::v2(&custom_kinds(&snapshot)), headers),
        ["openapi", "v3"] => openapi::v3_index(&custom_kinds(&snapshot)),
        ["openapi", "v3", rest @ ..] => {
            let found = openapi::v3(&rest.join("/"), &custom_kinds(&snapshot));
            return document(found.ok_or_else(Status::no_such_resource)?, headers);
        }
        ["openid", "v1", "jwks"] => api.token_key.jwks.clone(),
        [".well-known", "openid-configuration"] => json!({
            "issuer": api.token_key.issuer, "jwks_uri": format!("{}/openid/v1/jwks", api.token_key.issuer),
            "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        }),
        _ => return Err(Status::no_such_resource()),
    };
    Ok(body::json(StatusCode::OK, &value))
}

fn version() -> Value {
    json!({
        "major": "1", "minor": MINOR, "gitVersion": GIT_VERSION, "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none", "compiler": "rustc", "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}

fn paths(snapshot: &RegistrySnapshot) -> Value {
    let mut paths: Vec<String> =
        ["/api", "/api/v1", "/apis", "/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]
            .map(String::from)
            .into();
    for served in snapshot.all().iter().filter(|served| !served.kind.group.is_empty()) {
        paths.push(format!("/apis/{}", served.kind.group));
        paths.push(format!("/apis/{}", served.kind.api_version()));
    }
    paths.sort();
    paths.dedup();
    json!({ "paths": paths })
}

fn accepts_only(headers: &HeaderMap, media_type: &str) -> bool {
    headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()) == Some(media_type)
}

fn document(bytes: Vec<u8>, headers: &HeaderMap) -> Result<Response<ResponseBody>> {
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or("*/*");
    if !accept.contains("json") && !accept.contains('*') {
        return Err(Status::not_acceptable(&["application/json"]));
    }
    let mut response = Response::new(body::full(bytes));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

fn custom_kinds(snapshot: &RegistrySnapshot) -> Vec<CustomResourceSchema<'_>> {
    snapshot
        .all()
        .iter()
        .filter_map(|served| {
            served
                .custom
                .as_ref()
                .map(|custom| CustomResourceSchema { kind: &served.kind, schema: custom.schema.as_ref() })
        })
        .collect()
}

/// Names of groups in the order of discovery.
fn group_names(snapshot: &RegistrySnapshot) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for served in snapshot.all() {
        if !names.contains(&&*served.kind.group) {
            names.push(&served.kind.group);
        }
    }
    names
}

/// A group's versions by priority.
fn versions<'a>(snapshot: &'a RegistrySnapshot, group: &str) -> Vec<&'a str> {
    let mut versions: Vec<&str> = Vec::new();
    for served in snapshot.all().iter().filter(|served| served.kind.group == group) {
        if !versions.contains(&&*served.kind.version) {
            versions.push(&served.kind.version);
        }
    }
    versions.sort_by(|a, b| crate::crd::names::compare_versions(a, b));
    versions
}

fn group(snapshot: &RegistrySnapshot, name: &str) -> Value {
    let described = |version: &&str| json!({ "groupVersion": format!("{name}/{version}"), "version": version });
    let versions: Vec<Value> = versions(snapshot, name).iter().map(described).collect();
    json!({ "name": name, "versions": versions, "preferredVersion": versions.first() })
}

fn kinds<'a>(snapshot: &'a RegistrySnapshot, group: &str, version: &str) -> Vec<&'a ResourceKind> {
    snapshot
        .all()
        .iter()
        .map(|served| &served.kind)
        .filter(|kind| kind.group == group && kind.version == version)
        .collect()
}

fn resources(snapshot: &RegistrySnapshot, group: &str, version: &str) -> Option<Value> {
    let kinds = kinds(snapshot, group, version);
    if kinds.is_empty() {
        return None;
    }
    let mut resources = Vec::new();
    for kind in &kinds {
        let mut resource = json!({
            "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced, "kind": kind.kind, "verbs": kind.verbs.names(),
        });
        if !kind.short_names.is_empty() {
            resource["shortNames"] = json!(kind.short_names);
        }
        if !kind.categories.is_empty() {
            resource["categories"] = json!(kind.categories);
        }
        if kind.is_stored() {
            resource["storageVersionHash"] = json!(format!("{:08x}", hash(&kind.group_resource())));
        }
        resources.push(resource);
        for part in &kind.subresources {
            let object = part.object(kind);
            let mut resource = json!({
                "name": format!("{}/{}", kind.plural, part.name()), "singularName": "", "namespaced": kind.namespaced,
                "kind": object.kind, "verbs": part.verbs(),
            });
            if (object.group, object.version) != (group, version) {
                resource["group"] = json!(object.group);
                resource["version"] = json!(object.version);
            }
            resources.push(resource);
        }
    }
    let group_version = kinds.first().map(|kind| kind.api_version());
    Some(
        json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources }),
    )
}

/// The version of aggregated discovery that the client accepts, if it prefers aggregated discovery.
fn aggregated_version(headers: &HeaderMap) -> Option<&'static str> {
    let accept = headers.get(ACCEPT)?.to_str().ok()?;
    accept.split(',').find_map(|offer| {
        let has = |part: &str| offer.split(';').any(|known| known.trim() == part);
        let wanted = has("application/json") && has("g=apidiscovery.k8s.io") && has("as=APIGroupDiscoveryList");
        match (wanted, has("v=v2"), has("v=v2beta1")) {
            (true, true, _) => Some("v2"),
            (true, _, true) => Some("v2beta1"),
            _ => None,
        }
    })
}

fn aggregated(snapshot: &RegistrySnapshot, core: bool, version: &'static str) -> Response<ResponseBody> {
    let groups = group_names(snapshot).into_iter().filter(|group| group.is_empty() == core);
    let groups: Vec<Value> = groups
        .map(|group| {
            let versions: Vec<Value> = versions(snapshot, group)
                .into_iter()
                .map(|version| {
                    let resources: Vec<Value> =
                        kinds(snapshot, group, version).into_iter().map(aggregated_resource).collect();
                    json!({ "version": version, "resources": resources, "freshness": "Current" })
                })
                .collect();
            let metadata = if core {
                json!({ "creationTimestamp": null })
            } else {
                json!({ "name": group, "creationTimestamp": null })
            };
            json!({ "metadata": metadata, "versions": versions })
        })
        .collect();
    let list = json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"), "metadata": {}, "items": groups,
    });
    let content_type = match version {
        "v2" => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        _ => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
    };
    body::typed(StatusCode::OK, HeaderValue::from_static(content_type), &list)
}

fn aggregated_resource(kind: &ResourceKind) -> Value {
    let described =
        |group: &str, version: &str, kind: &str| json!({ "group": group, "version": version, "kind": kind });
    let subresources: Vec<Value> = kind
        .subresources
        .iter()
        .map(|part| {
            let object = part.object(kind);
            json!({
                "subresource": part.name(), "responseKind": described(object.group, object.version, object.kind), "verbs": part.verbs(),
            })
        })
        .collect();
    let mut resource = json!({
        "resource": kind.plural,
        "responseKind": described(&kind.group, &kind.version, &kind.kind),
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular,
        "verbs": kind.verbs.names(),
    });
    if !kind.short_names.is_empty() {
        resource["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        resource["categories"] = json!(kind.categories);
    }
    if !subresources.is_empty() {
        resource["subresources"] = Value::Array(subresources);
    }
    resource
}

/// FNV-1a, for identifiers that are stable but not secret.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
