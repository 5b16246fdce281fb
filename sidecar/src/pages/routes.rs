//! Routes in the shape of Envoy's route configurations.

use proxy::mesh::{Protocol, Service};
use route::{Action, Destination, HttpMatch, HttpRoute, RedirectPath, Rewrite, RewritePath, StringMatch};
use serde_json::{Map, Value, json};

/// Returns Envoy's name of a cluster.
pub(super) fn cluster_name(port: u16, subset: &str, hostname: &str) -> String {
    format!("outbound|{port}|{subset}|{hostname}")
}

/// Returns the name of the route configuration of a service's port.
pub(super) fn configuration_name(service: &Service, port: u16) -> String {
    format!("{}:{port}", service.hostname)
}

/// Returns the route configurations of a service: one for each port that carries HTTP.
pub(super) fn configurations(service: &Service) -> Vec<Value> {
    let ports = service.ports.iter().filter(|port| port.protocol != Protocol::Tcp);
    ports
        .map(|port| {
            let name = configuration_name(service, port.number);
            let short = format!("{}.{}", service.name, service.namespace);
            let domains: Vec<&str> = vec![&service.hostname, &service.name, &short];
            json!({"route_config": {
                "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
                "name": name,
                "virtual_hosts": [{"name": name, "domains": domains, "routes": routes(service, port.number)}],
            }})
        })
        .collect()
}

fn routes(service: &Service, port: u16) -> Vec<Value> {
    let Some(table) = service.routes.as_ref().filter(|table| table.has_http(port)) else {
        let cluster = cluster_name(port, "", &service.hostname);
        return vec![
            json!({"name": "default", "match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s"}}),
        ];
    };
    let metadata = match &*table.source_kind {
        "TrafficSplit" => metadata_of(&table.source, "split.smi-spec.io/v1alpha2", "traffic-split"),
        "ServiceProfile" => metadata_of(&table.source, "linkerd.io/v1alpha2", "service-profile"),
        "Service" => metadata_of(&table.source, "v1", "service"),
        _ => metadata(&table.source, "virtual-service"),
    };
    let conditions = |route: &HttpRoute| match route.matches.is_empty() {
        true => vec![HttpMatch::default()],
        false => route.matches.to_vec(),
    };
    let routes = table.http_routes().iter();
    let routes = routes.flat_map(|route| conditions(route).into_iter().map(move |condition| (route, condition)));
    routes
        .filter(|(_, condition)| condition.port.is_none_or(|of| of == port))
        .map(|(route, condition)| {
            let mut value = action(route, port);
            value.insert("name".into(), json!(&*route.name));
            value.insert("match".into(), Value::Object(matched(&condition)));
            value.insert("metadata".into(), metadata.clone());
            Value::Object(value)
        })
        .collect()
}

/// Names the object that something was compiled from, as istiod does.
pub(super) fn metadata(source: &str, kind: &str) -> Value {
    metadata_of(source, "networking.istio.io/v1", kind)
}

fn metadata_of(source: &str, api: &str, kind: &str) -> Value {
    let (namespace, name) = source.split_once('/').unwrap_or(("", source));
    let path = format!("/apis/{api}/namespaces/{namespace}/{kind}/{name}");
    json!({"filter_metadata": {"istio": {"config": path}}})
}

fn matched(condition: &HttpMatch) -> Map<String, Value> {
    let mut value = Map::new();
    let (key, pattern) = match &condition.path {
        None => ("prefix", json!("/")),
        Some(StringMatch::Exact(path) | StringMatch::ExactIgnoreCase(path)) => ("path", json!(&**path)),
        Some(StringMatch::Prefix(prefix) | StringMatch::PrefixIgnoreCase(prefix)) => ("prefix", json!(&**prefix)),
        Some(StringMatch::PathPrefix(prefix)) => ("path_separated_prefix", json!(&**prefix)),
        Some(StringMatch::Regex(regex)) => ("safe_regex", json!({"regex": regex.as_str()})),
        Some(StringMatch::Present) => ("prefix", json!("")),
    };
    value.insert(key.into(), pattern);
    if matches!(condition.path, Some(StringMatch::ExactIgnoreCase(_) | StringMatch::PrefixIgnoreCase(_))) {
        value.insert("case_sensitive".into(), json!(false));
    }
    let pseudo = [(":method", &condition.method), (":authority", &condition.authority), (":scheme", &condition.scheme)];
    let pseudo = pseudo.into_iter().filter_map(|(name, pattern)| Some((name.to_owned(), pattern.as_ref()?, false)));
    let named = condition.headers.iter().map(|of| (of.name.to_string(), &of.value, of.invert));
    let headers: Vec<Value> =
        pseudo.chain(named).map(|(name, pattern, invert)| field(&name, pattern, invert)).collect();
    if !headers.is_empty() {
        value.insert("headers".into(), json!(headers));
    }
    let query: Vec<Value> = condition.query.iter().map(|of| field(&of.name, &of.value, of.invert)).collect();
    if !query.is_empty() {
        value.insert("query_parameters".into(), json!(query));
    }
    value
}

fn field(name: &str, pattern: &StringMatch, invert: bool) -> Value {
    let mut value = json!({"name": name});
    let string = match pattern {
        StringMatch::Present => None,
        StringMatch::Exact(text) => Some(json!({"exact": &**text})),
        StringMatch::ExactIgnoreCase(text) => Some(json!({"exact": &**text, "ignore_case": true})),
        StringMatch::Prefix(text) | StringMatch::PathPrefix(text) => Some(json!({"prefix": &**text})),
        StringMatch::PrefixIgnoreCase(text) => Some(json!({"prefix": &**text, "ignore_case": true})),
        StringMatch::Regex(regex) => Some(json!({"safe_regex": {"regex": regex.as_str()}})),
    };
    match string {
        Some(string) => value["string_match"] = string,
        None => value["present_match"] = json!(true),
    }
    if invert {
        value["invert_match"] = json!(true);
    }
    value
}

fn action(route: &HttpRoute, port: u16) -> Map<String, Value> {
    let (key, value) = match &route.action {
        Action::Redirect(redirect) => {
            let mut value = json!({});
            match &redirect.path {
                Some(RedirectPath::Full(path)) => value["path_redirect"] = json!(&**path),
                Some(RedirectPath::Prefix(prefix)) => value["prefix_rewrite"] = json!(&**prefix),
                None => {}
            }
            if let Some(authority) = &redirect.authority {
                value["host_redirect"] = json!(&**authority);
            }
            if let Some(scheme) = &redirect.scheme {
                value["scheme_redirect"] = json!(&**scheme);
            }
            ("redirect", value)
        }
        Action::Respond(response) => ("direct_response", json!({"status": response.status.as_u16()})),
        Action::Forward(forward) => {
            let mut value = destinations(&forward.destinations, port);
            value["timeout"] = json!(seconds(forward.timeout.unwrap_or_default()));
            if let Some(retries) = &forward.retries {
                value["retry_policy"] = json!({"num_retries": retries.attempts});
                if let Some(limit) = retries.per_try_timeout {
                    value["retry_policy"]["per_try_timeout"] = json!(seconds(limit));
                }
            }
            rewrite(&forward.rewrite, &mut value);
            let mirrors: Vec<Value> = forward
                .mirrors
                .iter()
                .map(|mirror| {
                    let share = json!({"numerator": mirror.share, "denominator": "MILLION"});
                    json!({
                        "cluster": cluster_of(&mirror.destination, port),
                        "runtime_fraction": {"default_value": share},
                    })
                })
                .collect();
            if !mirrors.is_empty() {
                value["request_mirror_policies"] = json!(mirrors);
            }
            ("route", value)
        }
    };
    [(key.to_owned(), value)].into_iter().collect()
}

fn destinations(destinations: &[Destination], port: u16) -> Value {
    match destinations {
        [only] => json!({"cluster": cluster_of(only, port)}),
        several => json!({"weighted_clusters": {"clusters": several.iter().map(|destination| json!({
            "name": cluster_of(destination, port),
            "weight": destination.weight,
        })).collect::<Vec<_>>()}}),
    }
}

fn rewrite(rewrite: &Rewrite, value: &mut Value) {
    match &rewrite.path {
        Some(RewritePath::Matched(uri)) => value["prefix_rewrite"] = json!(&**uri),
        Some(RewritePath::Full(uri)) => {
            value["regex_rewrite"] = json!({"pattern": {"regex": "^.*$"}, "substitution": &**uri});
        }
        Some(RewritePath::Regex(regex, substitution)) => {
            value["regex_rewrite"] = json!({"pattern": {"regex": regex.as_str()}, "substitution": &**substitution});
        }
        None => {}
    }
    if let Some(authority) = &rewrite.authority {
        value["host_rewrite_literal"] = json!(&**authority);
    }
}

fn cluster_of(destination: &Destination, port: u16) -> String {
    cluster_name(destination.port.unwrap_or(port), &destination.subset, &destination.host)
}

fn seconds(duration: std::time::Duration) -> String {
    format!("{}s", duration.as_secs_f64())
}
