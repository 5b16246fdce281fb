//! Rows of the tables, of pages in Envoy's shape. What a page lacks is shown as `-`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use x509_parser::pem::Pem;

use super::Filter;

/// A row, and what it is made of.
pub(super) struct Row {
    pub(super) cells: Vec<String>,
    pub(super) value: Value,
}

pub(super) const CLUSTERS: &[&str] = &["SERVICE FQDN", "PORT", "SUBSET", "DIRECTION", "TYPE", "DESTINATION RULE"];
pub(super) const ROUTES: &[&str] = &["NAME", "DOMAINS", "MATCH", "DESTINATION", "VIRTUAL SERVICE"];
pub(super) const ENDPOINTS: &[&str] = &["ENDPOINT", "STATUS", "OUTLIER CHECK", "WEIGHT", "LOCALITY", "CLUSTER"];
pub(super) const LISTENERS: &[&str] = &["ADDRESS", "PORT", "DESTINATION"];
pub(super) const SECRETS: &[&str] =
    &["RESOURCE NAME", "TYPE", "VALID CERT", "SERIAL NUMBER", "NOT BEFORE", "NOT AFTER"];

pub(super) fn clusters(page: &Value, filter: &Filter<'_>) -> Vec<Row> {
    let clusters = section(page, "ClustersConfigDump", "dynamic_active_clusters");
    let rows = clusters.filter_map(|entry| {
        let cluster = &entry["cluster"];
        let name = Cluster::parse(cluster["name"].as_str()?)?;
        let rule = object(&cluster["metadata"]).unwrap_or_else(|| "-".to_owned());
        let kind = text(&cluster["type"]);
        filter.shows(name.host, name.port, name.subset).then(|| Row {
            cells: vec![
                or_dash(name.host),
                name.port.map_or_else(|| "-".to_owned(), |port| port.to_string()),
                or_dash(name.subset),
                name.direction.to_owned(),
                kind,
                rule,
            ],
            value: cluster.clone(),
        })
    });
    rows.collect()
}

pub(super) fn routes(page: &Value, filter: &Filter<'_>) -> Vec<Row> {
    let mut rows = Vec::new();
    for entry in section(page, "RoutesConfigDump", "dynamic_route_configs") {
        let configuration = &entry["route_config"];
        let name = text(&configuration["name"]);
        let (host, port) = name.rsplit_once(':').unwrap_or((&name, ""));
        if !filter.shows(host, port.parse().ok(), filter.subset.unwrap_or_default()) {
            continue;
        }
        for virtual_host in list(&configuration["virtual_hosts"]) {
            let domains: Vec<&str> = list(&virtual_host["domains"]).filter_map(Value::as_str).collect();
            let domains = match domains.as_slice() {
                [first] => (*first).to_owned(),
                [first, rest @ ..] => format!("{first} + {} more", rest.len()),
                [] => "-".to_owned(),
            };
            rows.extend(list(&virtual_host["routes"]).map(|route| Row {
                cells: vec![
                    name.clone(),
                    domains.clone(),
                    condition(&route["match"]),
                    destination(route),
                    object(&route["metadata"]).unwrap_or_else(|| "-".to_owned()),
                ],
                value: route.clone(),
            }));
        }
    }
    rows
}

pub(super) fn endpoints(page: &Value, filter: &Filter<'_>) -> Vec<Row> {
    let mut rows = Vec::new();
    for cluster in list(&page["cluster_statuses"]) {
        let full = text(&cluster["name"]);
        let Some(name) = Cluster::parse(&full) else { continue };
        if !filter.shows(name.host, name.port, name.subset) {
            continue;
        }
        rows.extend(list(&cluster["host_statuses"]).map(|host| {
            let locality =
                ["region", "zone", "sub_zone"].map(|part| host["locality"][part].as_str().unwrap_or_default());
            Row {
                cells: vec![
                    address(&host["address"]),
                    text(&host["health_status"]["eds_health_status"]),
                    if host["health_status"]["failed_outlier_check"] == true { "FAILED" } else { "OK" }.to_owned(),
                    host["weight"].to_string(),
                    or_dash(locality.join("/").trim_end_matches('/')),
                    full.clone(),
                ],
                value: host.clone(),
            }
        }));
    }
    rows
}

pub(super) fn listeners(page: &Value, filter: &Filter<'_>) -> Vec<Row> {
    let listeners = section(page, "ListenersConfigDump", "dynamic_listeners");
    let rows = listeners.filter_map(|entry| {
        let listener = &entry["active_state"]["listener"];
        let filters = list(&listener["filter_chains"]).flat_map(|chain| list(&chain["filters"]));
        let destinations: Vec<String> = filters
            .map(|filter| {
                let config = &filter["typed_config"];
                match (config["rds"]["route_config_name"].as_str(), config["route_config"]["name"].as_str()) {
                    (Some(route), _) => format!("Route: {route}"),
                    (None, Some(inline)) => format!("Cluster: {inline}"),
                    (None, None) => format!("Cluster: {}", text(&config["cluster"])),
                }
            })
            .collect();
        let socket = &listener["address"]["socket_address"];
        let port = socket["port_value"].as_u64().and_then(|port| u16::try_from(port).ok());
        let host = destinations.first().map_or("", |first| first.as_str());
        let host = host.trim_start_matches("Route: ").rsplit_once(':').map_or(host, |(host, _)| host);
        let shown = filter.fqdn.is_none_or(|fqdn| host.ends_with(fqdn))
            && filter.port.is_none_or(|wanted| port == Some(wanted));
        shown.then(|| Row {
            cells: vec![
                text(&socket["address"]),
                port.map_or_else(|| "-".to_owned(), |port| port.to_string()),
                or_dash(&destinations.join(", ")),
            ],
            value: listener.clone(),
        })
    });
    rows.collect()
}

pub(super) fn secrets(page: &Value) -> Vec<Row> {
    let secrets = section(page, "SecretsConfigDump", "dynamic_active_secrets");
    let rows = secrets.map(|entry| {
        let secret = &entry["secret"];
        let (kind, pem) = match &secret["tls_certificate"]["certificate_chain"]["inline_bytes"] {
            Value::String(chain) => ("Cert Chain", chain.clone()),
            _ => ("CA", text(&secret["validation_context"]["trusted_ca"]["inline_bytes"])),
        };
        let dates = certificate(&pem).unwrap_or_else(|| std::array::from_fn(|_| "-".to_owned()));
        let mut cells = vec![text(&entry["name"]), kind.to_owned()];
        cells.extend(dates);
        Row { cells, value: secret.clone() }
    });
    rows.collect()
}

/// Returns whether the first certificate is valid now, its serial number, and its dates.
fn certificate(base64: &str) -> Option<[String; 4]> {
    let pem = STANDARD.decode(base64).ok()?;
    let pem = Pem::iter_from_buffer(&pem).next()?.ok()?;
    let certificate = pem.parse_x509().ok()?;
    let validity = certificate.validity();
    Some([
        validity.is_valid().to_string(),
        certificate.raw_serial_as_string(),
        validity.not_before.to_string(),
        validity.not_after.to_string(),
    ])
}

/// A cluster's name: `outbound|9080|v1|reviews.default.svc.cluster.local`.
struct Cluster<'a> {
    direction: &'a str,
    port: Option<u16>,
    subset: &'a str,
    host: &'a str,
}

impl<'a> Cluster<'a> {
    fn parse(name: &'a str) -> Option<Self> {
        let mut parts = name.splitn(4, '|');
        let (direction, port) = (parts.next()?, parts.next()?.parse().ok());
        Some(Self { direction, port, subset: parts.next()?, host: parts.next()? })
    }
}

fn section<'a>(page: &'a Value, message: &str, key: &str) -> impl Iterator<Item = &'a Value> {
    let kind = format!("type.googleapis.com/envoy.admin.v3.{message}");
    let key = key.to_owned();
    let found = list(&page["configs"]).filter(move |section| section["@type"] == kind.as_str());
    found.flat_map(move |section| list(&section[key.as_str()]))
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn or_dash(value: &str) -> String {
    if value.is_empty() { "-".to_owned() } else { value.to_owned() }
}

fn address(value: &Value) -> String {
    let socket = &value["socket_address"];
    let (host, port) = (text(&socket["address"]), socket["port_value"].as_u64().unwrap_or_default());
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Returns `NAME.NAMESPACE` of the object that metadata names.
fn object(metadata: &Value) -> Option<String> {
    let path = metadata["filter_metadata"]["istio"]["config"].as_str()?;
    let mut parts = path.rsplit('/');
    let (name, _, namespace) = (parts.next()?, parts.next()?, parts.next()?);
    Some(format!("{name}.{namespace}"))
}

/// Describes the conditions of a route.
fn condition(value: &Value) -> String {
    let path = match (&value["path"], &value["prefix"], &value["path_separated_prefix"], &value["safe_regex"]["regex"])
    {
        (Value::String(path), ..) => path.clone(),
        (_, Value::String(prefix), ..) => format!("{prefix}*"),
        (.., Value::String(prefix), _) => format!("{prefix}/*"),
        (.., Value::String(regex)) => format!("regex {regex}"),
        _ => "*".to_owned(),
    };
    let names = |key: &str| -> Vec<String> {
        list(&value[key])
            .map(|field| {
                let string = &field["string_match"];
                let value = ["exact", "prefix"].into_iter().find_map(|kind| string[kind].as_str());
                let value = value.or_else(|| string["safe_regex"]["regex"].as_str()).unwrap_or("*");
                let relation = if field["invert_match"] == true { "!=" } else { "=" };
                format!("{}{relation}{value}", text(&field["name"]))
            })
            .collect()
    };
    let parts =
        [vec![path], names("headers"), names("query_parameters").into_iter().map(|of| format!("?{of}")).collect()];
    parts.concat().join(" ")
}

/// Describes what a route does.
fn destination(route: &Value) -> String {
    let forwarded = &route["route"];
    if let Some(cluster) = forwarded["cluster"].as_str() {
        return cluster.to_owned();
    }
    let weighted: Vec<String> = list(&forwarded["weighted_clusters"]["clusters"])
        .map(|cluster| format!("{} ({})", text(&cluster["name"]), cluster["weight"]))
        .collect();
    if !weighted.is_empty() {
        return weighted.join(", ");
    }
    match (&route["redirect"], &route["direct_response"]["status"]) {
        (Value::Object(_), _) => "redirect".to_owned(),
        (_, Value::Number(status)) => format!("response {status}"),
        _ => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ALL: Filter<'_> = Filter { fqdn: None, port: None, subset: None };

    fn page() -> Value {
        let istio = |kind: &str, name: &str| json!({"filter_metadata": {"istio": {"config": format!("/apis/x/v1/namespaces/shop/{kind}/{name}")}}});
        let admin = |message: &str| format!("type.googleapis.com/envoy.admin.v3.{message}");
        json!({"configs": [
            {"@type": admin("ClustersConfigDump"), "dynamic_active_clusters": [
                {"cluster": {"name": "outbound|80|v1|a.shop.svc.cluster.local", "type": "EDS", "metadata": istio("destination-rule", "a")}},
                {"cluster": {"name": "outbound|81||b.shop.svc.cluster.local", "type": "EDS"}},
                {"cluster": {"name": "inbound|8080||", "type": "ORIGINAL_DST"}},
                {"cluster": {"name": "odd"}},
            ]},
            {"@type": admin("RoutesConfigDump"), "dynamic_route_configs": [{"route_config": {
                "name": "a.shop.svc.cluster.local:80",
                "virtual_hosts": [{"domains": ["a", "a.shop"], "routes": [
                    {"match": {"prefix": "/x", "headers": [{"name": "end-user", "string_match": {"exact": "jason"}}]},
                     "route": {"cluster": "outbound|80|v1|a"}, "metadata": istio("virtual-service", "routes")},
                    {"match": {"prefix": "/"}, "route": {"weighted_clusters": {"clusters": [
                        {"name": "c1", "weight": 90}, {"name": "c2", "weight": 10}]}}},
                    {"match": {"path": "/r"}, "redirect": {}},
                ]}],
            }}]},
            {"@type": admin("ListenersConfigDump"), "dynamic_listeners": [{"active_state": {"listener": {
                "address": {"socket_address": {"address": "10.0.0.1", "port_value": 80}},
                "filter_chains": [{"filters": [{"typed_config": {"rds": {"route_config_name": "a.shop.svc.cluster.local:80"}}}]}],
            }}}]},
        ]})
    }

    fn cells(rows: Vec<Row>) -> Vec<String> {
        rows.into_iter().map(|row| row.cells.join(" | ")).collect()
    }

    #[test]
    fn clusters_and_routes_name_the_objects_that_they_were_compiled_from() {
        assert_eq!(
            cells(clusters(&page(), &ALL)),
            [
                "a.shop.svc.cluster.local | 80 | v1 | outbound | EDS | a.shop",
                "b.shop.svc.cluster.local | 81 | - | outbound | EDS | -",
                "- | 8080 | - | inbound | ORIGINAL_DST | -",
            ]
        );
        assert_eq!(
            cells(routes(&page(), &ALL)),
            [
                "a.shop.svc.cluster.local:80 | a + 1 more | /x* end-user=jason | outbound|80|v1|a | routes.shop",
                "a.shop.svc.cluster.local:80 | a + 1 more | /* | c1 (90), c2 (10) | -",
                "a.shop.svc.cluster.local:80 | a + 1 more | /r | redirect | -",
            ]
        );
        assert_eq!(cells(listeners(&page(), &ALL)), ["10.0.0.1 | 80 | Route: a.shop.svc.cluster.local:80"]);
    }

    #[test]
    fn an_ejected_endpoint_is_shown_as_such() {
        let host = |address: &str, status: Value| json!({"address": {"socket_address": {"address": address, "port_value": 80}}, "weight": 1, "health_status": status});
        let page = json!({"cluster_statuses": [{"name": "outbound|80||a", "host_statuses": [
            host("10.0.0.1", json!({"eds_health_status": "HEALTHY"})),
            host("10.0.0.2", json!({"eds_health_status": "HEALTHY", "failed_outlier_check": true})),
        ]}]});
        assert_eq!(
            cells(endpoints(&page, &ALL)),
            [
                "10.0.0.1:80 | HEALTHY | OK | 1 | - | outbound|80||a",
                "10.0.0.2:80 | HEALTHY | FAILED | 1 | - | outbound|80||a",
            ]
        );
    }

    #[test]
    fn rows_are_filtered_by_host_port_and_subset() {
        let of = |fqdn, port, subset| clusters(&page(), &Filter { fqdn, port, subset }).len();
        assert_eq!(of(Some("a.shop.svc.cluster.local"), None, None), 1);
        assert_eq!(of(None, Some(81), None), 1);
        assert_eq!(of(None, Some(81), Some("v1")), 0);
        let none = Filter { fqdn: Some("b"), port: None, subset: None };
        assert!(routes(&page(), &none).is_empty() && listeners(&page(), &none).is_empty());
    }

    #[test]
    fn pages_of_another_form_have_no_rows() {
        for page in [json!(null), json!({"configs": 1}), json!({"configs": [{"@type": 7}]}), json!([])] {
            assert!(clusters(&page, &ALL).is_empty() && secrets(&page).is_empty() && endpoints(&page, &ALL).is_empty());
        }
    }
}
