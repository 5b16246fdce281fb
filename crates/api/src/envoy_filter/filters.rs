//! The filters `local_ratelimit` and `ratelimit` of HTTP.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::actions;
use super::fields::{Fields, Notes};
use crate::rate_limit::{Bucket, DescriptorLimit, Global, Limit, LimitRule};

/// The type of a local filter's configuration.
pub(super) const LOCAL: &str = "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit";
/// The type of a global filter's configuration.
pub(super) const GLOBAL: &str = "envoy.extensions.filters.http.ratelimit.v3.RateLimit";

/// The number of descriptors of a filter.
const MAX_DESCRIPTORS: usize = 1_000;
/// The number of headers of an answer.
const MAX_HEADERS: usize = 32;
/// Envoy's time limit of a service.
const TIMEOUT: Duration = Duration::from_millis(20);
/// The longest one.
const MAX_TIMEOUT: Duration = Duration::from_secs(60);

/// The services that patches define, by the name of the cluster.
pub(super) type Clusters = BTreeMap<String, (String, u16)>;

/// Reads a `LocalRateLimit`. Returns `None` if it limits nothing, and notes why unless it has no bucket.
pub(super) fn local(value: &Value, path: &str, notes: &mut Notes) -> Option<LimitRule> {
    const KNOWN: &[&str] = &[
        "stat_prefix",
        "status",
        "token_bucket",
        "filter_enabled",
        "filter_enforced",
        "response_headers_to_add",
        "descriptors",
        "stage",
        "local_rate_limit_per_downstream_connection",
        "enable_x_ratelimit_headers",
        "always_consume_default_token_bucket",
        "rate_limited_as_resource_exhausted",
        "rate_limits",
    ];
    let of = Fields::of(value, path, KNOWN, notes);
    let bucket = match of.get("token_bucket") {
        Some(value) => Some(bucket(value, &of.path_of("token_bucket"), notes)?),
        None => None,
    };
    let descriptors: Vec<_> = of.list("descriptors").collect();
    if descriptors.len() > MAX_DESCRIPTORS {
        notes.no_effect(&of.path_of("descriptors"), &format!("a filter has at most {MAX_DESCRIPTORS} descriptors"));
        return None;
    }
    let descriptors =
        descriptors.into_iter().filter_map(|(path, value)| limit(value, &path, notes)).collect::<Vec<_>>();
    if bucket.is_none() && descriptors.is_empty() {
        return None;
    }
    let enabled = of.share("filter_enabled", notes).unwrap_or_default();
    if enabled == 0 {
        notes.no_effect(path, "filter_enabled is unset or 0 %, as in Envoy; write its default_value");
        return None;
    }
    let own: Vec<_> =
        of.list("rate_limits").filter_map(|(path, value)| actions::descriptor(value, &path, notes)).collect();
    let limit = Limit::Local {
        bucket,
        descriptors,
        bucket_of_others: !of.flag("always_consume_default_token_bucket", true),
        per_connection: of.flag("local_rate_limit_per_downstream_connection", false),
    };
    Some(LimitRule {
        enabled,
        enforced: of.share("filter_enforced", notes).unwrap_or_default(),
        // Those of the filter take the place of those of routes.
        uses_route_descriptors: own.is_empty(),
        descriptors: own,
        stage: of.number("stage").unwrap_or_default(),
        status: status(&of, "status"),
        response_headers: headers(&of, notes),
        quota_headers: of.text("enable_x_ratelimit_headers") == "DRAFT_VERSION_03",
        resource_exhausted: of.flag("rate_limited_as_resource_exhausted", false),
        ..LimitRule::of(limit)
    })
}

/// Reads a `RateLimit` filter.
pub(super) fn global(value: &Value, path: &str, clusters: &Clusters, notes: &mut Notes) -> Option<LimitRule> {
    const KNOWN: &[&str] = &[
        "domain",
        "stage",
        "timeout",
        "failure_mode_deny",
        "rate_limited_as_resource_exhausted",
        "rate_limit_service",
        "enable_x_ratelimit_headers",
        "disable_x_envoy_ratelimited_header",
        "rate_limited_status",
        "response_headers_to_add",
        "status_on_error",
        "stat_prefix",
    ];
    let of = Fields::of(value, path, KNOWN, notes);
    let empty = Value::Null;
    let service = of.get("rate_limit_service").unwrap_or(&empty);
    let service =
        Fields::of(service, of.path_of("rate_limit_service"), &["grpc_service", "transport_api_version"], notes);
    let grpc = service.get("grpc_service").unwrap_or(&empty);
    let grpc = Fields::of(grpc, service.path_of("grpc_service"), &["envoy_grpc", "timeout"], notes);
    let envoy = grpc.get("envoy_grpc").unwrap_or(&empty);
    let envoy = Fields::of(envoy, grpc.path_of("envoy_grpc"), &["cluster_name", "authority"], notes);
    let name = envoy.text("cluster_name");
    let Some((hostname, port)) = clusters.get(name).cloned().or_else(|| of_service(name)) else {
        let text = format!(
            "cluster {name:?} is none of a service, such as \"outbound|8081||ratelimit.default.svc.cluster.local\", and no CLUSTER patch of this object adds it with such a host"
        );
        notes.no_effect(&envoy.path_of("cluster_name"), &text);
        return None;
    };
    if of.text("domain").is_empty() {
        notes.no_effect(&of.path_of("domain"), "it is empty, and the service has limits by domain");
        return None;
    }
    // Envoy's filter has a timeout of its own, which precedes that of the service.
    let timeout = of.duration("timeout").or(grpc.duration("timeout")).unwrap_or(TIMEOUT);
    let limit = Limit::Global(Global {
        hostname,
        port,
        domain: of.text("domain").to_owned(),
        timeout: timeout.clamp(Duration::from_millis(1), MAX_TIMEOUT),
        fail_closed: of.flag("failure_mode_deny", false),
        status_on_error: status(&of, "status_on_error"),
        without_marker: of.flag("disable_x_envoy_ratelimited_header", false),
    });
    Some(LimitRule {
        uses_route_descriptors: true,
        stage: of.number("stage").unwrap_or_default(),
        status: status(&of, "rate_limited_status"),
        response_headers: headers(&of, notes),
        quota_headers: of.text("enable_x_ratelimit_headers") == "DRAFT_VERSION_03",
        resource_exhausted: of.flag("rate_limited_as_resource_exhausted", false),
        ..LimitRule::of(limit)
    })
}

/// Returns the host and port of a cluster's name as Istio writes it: `outbound|<port>||<host>`.
fn of_service(name: &str) -> Option<(String, u16)> {
    let mut parts = name.split('|');
    let (direction, port, subset, host) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let known = direction == "outbound" && subset.is_empty() && !host.is_empty() && parts.next().is_none();
    known.then_some((host.to_owned(), port.parse().ok().filter(|port| *port != 0)?))
}

/// Reads the service of a `Cluster`.
pub(super) fn cluster(value: &Value) -> Option<(String, (String, u16))> {
    let name = value["name"].as_str()?;
    let assignment = value.get("load_assignment").or_else(|| value.get("loadAssignment"))?;
    let endpoints = assignment["endpoints"].as_array()?;
    let [locality] = endpoints.as_slice() else { return None };
    let endpoints = locality.get("lb_endpoints").or_else(|| locality.get("lbEndpoints"))?.as_array()?;
    let [endpoint] = endpoints.as_slice() else { return None };
    let address = &endpoint["endpoint"]["address"];
    let socket = address.get("socket_address").or_else(|| address.get("socketAddress"))?;
    let port = socket.get("port_value").or_else(|| socket.get("portValue"))?.as_u64()?;
    let (host, port) = (socket["address"].as_str()?, u16::try_from(port).ok().filter(|port| *port != 0)?);
    // A host of a service, and not an address.
    let is_host = host.contains('.') && host.parse::<std::net::IpAddr>().is_err();
    is_host.then(|| (name.to_owned(), (host.to_owned(), port)))
}

/// Reads a `LocalRateLimitDescriptor`.
fn limit(value: &Value, path: &str, notes: &mut Notes) -> Option<DescriptorLimit> {
    let of = Fields::of(value, path, &["entries", "token_bucket"], notes);
    let entries: Vec<(String, Option<String>)> = of
        .list("entries")
        .map(|(_, entry)| {
            let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
            // As in Envoy, an entry without a value is of any.
            (text("key"), Some(text("value")).filter(|value| !value.is_empty()))
        })
        .collect();
    if entries.is_empty() || entries.len() > MAX_HEADERS {
        notes.no_effect(path, &format!("a descriptor has 1 to {MAX_HEADERS} entries"));
        return None;
    }
    let bucket = bucket(of.get("token_bucket")?, &of.path_of("token_bucket"), notes)?;
    Some(DescriptorLimit { entries, bucket })
}

/// Reads a `TokenBucket`.
fn bucket(value: &Value, path: &str, notes: &mut Notes) -> Option<Bucket> {
    let of = Fields::of(value, path, &["max_tokens", "tokens_per_fill", "fill_interval"], notes);
    let bucket = Bucket {
        max_tokens: of.number("max_tokens").unwrap_or_default(),
        // As in Envoy.
        tokens_per_fill: of.number("tokens_per_fill").unwrap_or(1),
        fill_interval: of.duration("fill_interval").unwrap_or_default(),
    };
    match bucket.check() {
        Ok(()) => Some(bucket),
        Err(why) => {
            notes.no_effect(path, &format!("it {why}"));
            None
        }
    }
}

/// Returns the code of an `HttpStatus`. As in Envoy, one below 400 is 429.
fn status(of: &Fields<'_>, name: &str) -> u16 {
    let code = of.get(name).and_then(|status| status["code"].as_u64()).unwrap_or_default();
    u16::try_from(code).ok().filter(|code| (400..600).contains(code)).unwrap_or_default()
}

/// Reads `HeaderValueOption`s: by default, as in Envoy, they are added to lines with their name.
fn headers(of: &Fields<'_>, notes: &mut Notes) -> Vec<(String, String, bool)> {
    let mut headers = Vec::new();
    for (path, value) in of.list("response_headers_to_add").take(MAX_HEADERS) {
        let option = Fields::of(value, path, &["header", "append", "append_action"], notes);
        let header = &value["header"];
        let text = |name: &str| header[name].as_str().unwrap_or_default().to_owned();
        let append = match option.text("append_action") {
            "OVERWRITE_IF_EXISTS_OR_ADD" | "OVERWRITE_IF_EXISTS" => false,
            _ => option.flag("append", true),
        };
        let (name, value) = (text("key").to_ascii_lowercase(), text("value"));
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        // Values with `%` are formats of Envoy.
        let fixed = value.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'%');
        match !name.is_empty() && name.bytes().all(token) && fixed {
            true => headers.push((name, value, append)),
            false => notes.no_effect(&option.path, "it is not a header with a fixed value"),
        }
    }
    headers
}
