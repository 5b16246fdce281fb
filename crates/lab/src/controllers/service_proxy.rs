//! The service proxy: directs the addresses of Services to pods, by packet rules in the cluster's network; and the addresses of
//! ServiceImports to the pods of all exporting clusters that this one reaches directly.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use api::export::ServiceImport;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt as _;
use net::firewall::{Protocol, Services, VirtualServer};

use super::cache::Cache;
use super::endpoint_slice::SERVICE_NAME;
use super::view::ClusterView;
use super::{imports, load_balancer};

/// Batching window of changes: a rollout is several events in a row.
const BATCHING_WINDOW: Duration = Duration::from_millis(5);
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LONGEST_BACKOFF: Duration = Duration::from_secs(2);

/// The cluster's network, as the service proxy uses it.
#[derive(Debug, Clone)]
pub struct ProxyNetwork {
    /// Name of the link to other clusters.
    pub uplink: String,
    /// Ranges of ClusterIPs.
    pub services: Vec<IpNet>,
    /// Addresses of the API server and the DNS server, which no rule may redirect.
    pub own: Vec<IpAddr>,
    /// Whether relays serve LoadBalancer addresses, to add a delay.
    pub relayed: bool,
}

/// A port of a Service's LoadBalancer address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LoadBalancerPort {
    /// Address for other clusters.
    pub listen: SocketAddr,
    /// ClusterIP and port that connections are forwarded to.
    pub to: SocketAddr,
}

/// Returns the packet rules of the cluster.
#[must_use]
pub fn plan(services: &[Arc<Service>], slices: &[Arc<EndpointSlice>], around: &ProxyNetwork) -> Services {
    let mut servers = Vec::new();
    for service in services {
        let Some(spec) = &service.spec else { continue };
        let addresses: Vec<IpAddr> =
            addresses(service, around.relayed).into_iter().filter(|address| !around.own.contains(address)).collect();
        if addresses.is_empty() {
            continue;
        }
        let own: Vec<&EndpointSlice> = slices
            .iter()
            .map(AsRef::as_ref)
            .filter(|slice| {
                slice.metadata.namespace == service.metadata.namespace
                    && slice.labels().get(SERVICE_NAME) == service.metadata.name.as_ref()
            })
            .collect();
        for port in spec.ports.iter().flatten() {
            let (name, protocol) = (port.name.as_deref(), port.protocol.as_deref());
            servers.extend(of_port(&addresses, name, protocol, port.port, &own));
        }
    }
    Services {
        virtual_servers: servers,
        uplink: Some(around.uplink.clone()),
        service_networks: around.services.clone(),
    }
}

/// Returns the rules of the addresses of ServiceImports.
#[must_use]
pub fn imported(imports: &[Arc<ServiceImport>], slices: &[Arc<EndpointSlice>]) -> Vec<VirtualServer> {
    let mut servers = Vec::new();
    for import in imports.iter().filter(|import| !imports::is_headless(import)) {
        let (addresses, own) = (imports::addresses_of(import), imports::slices_of(import, slices));
        for port in &import.spec.ports {
            let (name, protocol) = (port.name.as_deref(), port.protocol.as_deref());
            servers.extend(of_port(&addresses, name, protocol, port.port, &own));
        }
    }
    servers
}

/// Returns the rules of one port at each address; none for protocols other than TCP and UDP.
fn of_port(
    addresses: &[IpAddr],
    name: Option<&str>,
    protocol: Option<&str>,
    number: i32,
    slices: &[&EndpointSlice],
) -> Vec<VirtualServer> {
    let protocol = match protocol {
        None | Some("TCP") => Protocol::Tcp,
        Some("UDP") => Protocol::Udp,
        Some(_) => return Vec::new(),
    };
    let Ok(port) = u16::try_from(number) else { return Vec::new() };
    let backends = backends(slices, name.unwrap_or_default());
    let server = |address: &IpAddr| VirtualServer {
        address: *address,
        port,
        protocol,
        backends: backends.iter().copied().filter(|to| to.is_ipv4() == address.is_ipv4()).collect(),
    };
    addresses.iter().map(server).collect()
}

fn addresses(service: &Service, relayed: bool) -> Vec<IpAddr> {
    let Some(spec) = &service.spec else { return Vec::new() };
    if spec.type_.as_deref() == Some("ExternalName") {
        return Vec::new();
    }
    let listed = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    let mut addresses: Vec<IpAddr> = listed.filter_map(|text| text.parse().ok()).collect();
    addresses.extend(spec.external_ips.iter().flatten().filter_map(|text| text.parse::<IpAddr>().ok()));
    if load_balancer::is_load_balancer(service) && !relayed {
        addresses.extend(load_balancer::addresses_of(service));
    }
    addresses.sort();
    addresses.dedup();
    addresses
}

/// Returns the ready endpoints; if there are none, those that terminate and still serve, as kube-proxy does.
fn backends(slices: &[&EndpointSlice], port_name: &str) -> Vec<SocketAddr> {
    let mut ready = Vec::new();
    let mut leaving = Vec::new();
    for slice in slices {
        let port = slice.ports.iter().flatten().find(|port| port.name.as_deref().unwrap_or_default() == port_name);
        let Some(port) = port.and_then(|port| u16::try_from(port.port?).ok()) else { continue };
        for endpoint in &slice.endpoints {
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            let addresses = endpoint.addresses.iter().filter_map(|text| text.parse::<IpAddr>().ok());
            let sockets = addresses.map(|address| SocketAddr::new(address, port));
            if conditions.ready.unwrap_or(true) {
                ready.extend(sockets);
            } else if conditions.serving.unwrap_or(false) && conditions.terminating.unwrap_or(false) {
                leaving.extend(sockets);
            }
        }
    }
    let mut chosen = if ready.is_empty() { leaving } else { ready };
    chosen.sort();
    chosen.dedup();
    chosen
}

/// Returns the LoadBalancer ports that relays serve.
#[must_use]
pub fn load_balancer_ports(services: &[Arc<Service>]) -> Vec<LoadBalancerPort> {
    let mut load_balancer_ports = Vec::new();
    for service in services.iter().filter(|service| load_balancer::is_load_balancer(service)) {
        let Some(spec) = &service.spec else { continue };
        let cluster_ips: Vec<IpAddr> =
            spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip).filter_map(|text| text.parse().ok()).collect();
        for address in load_balancer::addresses_of(service) {
            let Some(to) = cluster_ips.iter().find(|to| to.is_ipv4() == address.is_ipv4()) else { continue };
            for port in spec.ports.iter().flatten().filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP") {
                let Ok(number) = u16::try_from(port.port) else { continue };
                let (listen, to) = ((address, number).into(), (*to, number).into());
                load_balancer_ports.push(LoadBalancerPort { listen, to });
            }
        }
    }
    load_balancer_ports.sort();
    load_balancer_ports
}

/// Runs the service proxy. The process must be in the cluster's network namespace.
pub async fn run(view: Arc<ClusterView>, imports: Arc<Cache<ServiceImport>>, around: ProxyNetwork) {
    view.synced().await;
    let mut changes = view.changes();
    let mut in_force: Option<Services> = None;
    let mut pause = FIRST_BACKOFF;
    loop {
        changes.mark_unchanged();
        let slices = view.slices.list();
        let mut wanted = plan(&view.services.list(), &slices, &around);
        wanted.virtual_servers.extend(imported(&imports.list(), &slices));
        let mut failed = false;
        if in_force.as_ref() != Some(&wanted) {
            let rules = wanted.clone();
            match tokio::task::spawn_blocking(move || net::firewall::apply_services(&rules)).await {
                Ok(Ok(())) => {
                    in_force = Some(wanted);
                    pause = FIRST_BACKOFF;
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, "cannot apply the rules of services");
                    failed = true;
                }
                Err(error) => {
                    tracing::error!(%error, "the service proxy has ended");
                    return;
                }
            }
        }
        if failed {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_BACKOFF);
        } else {
            if changes.changed().await.is_err() {
                return;
            }
            tokio::time::sleep(BATCHING_WINDOW).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn around(relayed: bool) -> ProxyNetwork {
        ProxyNetwork {
            uplink: "uplink".into(),
            services: vec!["10.96.0.0/16".parse().expect("a network"), "fd00:10:96::/112".parse().expect("a network")],
            own: vec!["10.96.0.1".parse().expect("an address")],
            relayed,
        }
    }

    fn service(name: &str, spec: Value, ingress: Option<&str>) -> Arc<Service> {
        let mut object = json!({
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"ports": [{"name": "http", "port": 80}], "clusterIP": "10.96.0.7"},
            "status": {"loadBalancer": {"ingress": ingress.map(|ip| json!([{"ip": ip}]))}},
        });
        if let (Value::Object(into), Value::Object(more)) = (&mut object["spec"], spec) {
            into.extend(more);
        }
        Arc::new(serde_json::from_value(object).expect("a service"))
    }

    /// Endpoints 10.244.0.1.. of service web; each mark: r ready, l terminating but serving, u neither.
    fn slice(marks: &str) -> Arc<EndpointSlice> {
        let endpoints: Vec<Value> = marks
            .chars()
            .enumerate()
            .map(|(index, mark)| {
                json!({"addresses": [format!("10.244.0.{}", index + 1)],
                    "conditions": {"ready": mark == 'r', "serving": mark != 'u', "terminating": mark == 'l'}})
            })
            .collect();
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": "web-1", "namespace": "default", "labels": {SERVICE_NAME: "web"}},
                "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "http", "port": 8080}],
            }))
            .expect("a slice"),
        )
    }

    /// The rules as `address:port>backend,backend`.
    fn rules_of(services: &Services) -> Vec<String> {
        services
            .virtual_servers
            .iter()
            .map(|server| {
                let to: Vec<String> = server.backends.iter().map(ToString::to_string).collect();
                format!("{}:{}>{}", server.address, server.port, to.join(","))
            })
            .collect()
    }

    #[test]
    fn plans() {
        let lb = json!({"type": "LoadBalancer"});
        type Case<'a> = (&'a str, Arc<Service>, Arc<EndpointSlice>, bool, Vec<&'a str>);
        let cases: Vec<Case<'_>> = vec![
            ("ready only", service("web", json!({}), None), slice("rul"), false, vec!["10.96.0.7:80>10.244.0.1:8080"]),
            (
                "terminating if there is no other",
                service("web", json!({}), None),
                slice("ul"),
                false,
                vec!["10.96.0.7:80>10.244.0.2:8080"],
            ),
            ("no endpoint", service("web", json!({}), None), slice("u"), false, vec!["10.96.0.7:80>"]),
            ("other service", service("api", json!({}), None), slice("r"), false, vec!["10.96.0.7:80>"]),
            ("headless", service("web", json!({"clusterIP": "None"}), None), slice("r"), false, vec![]),
            ("our own address", service("web", json!({"clusterIP": "10.96.0.1"}), None), slice("r"), false, vec![]),
            ("external name", service("web", json!({"type": "ExternalName"}), None), slice("r"), false, vec![]),
            (
                "load balancer",
                service("web", lb.clone(), Some("203.0.113.10")),
                slice("r"),
                false,
                vec!["10.96.0.7:80>10.244.0.1:8080", "203.0.113.10:80>10.244.0.1:8080"],
            ),
            (
                "relayed",
                service("web", lb, Some("203.0.113.10")),
                slice("r"),
                true,
                vec!["10.96.0.7:80>10.244.0.1:8080"],
            ),
            (
                "external address",
                service("web", json!({"externalIPs": ["198.51.100.1"]}), None),
                slice("r"),
                false,
                vec!["10.96.0.7:80>10.244.0.1:8080", "198.51.100.1:80>10.244.0.1:8080"],
            ),
        ];
        for (name, service, slice, relayed, expected) in cases {
            assert_eq!(rules_of(&plan(&[service], &[slice], &around(relayed))), expected, "{name}");
        }
    }

    #[test]
    fn each_address_has_backends_of_its_family() {
        let both = json!({"clusterIPs": ["10.96.0.7", "fd00:10:96::7"], "type": "LoadBalancer"});
        let mut web = Service::clone(&service("web", both, Some("203.0.113.10")));
        let ingress = json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.10"}, {"ip": "2001:db8:113::10"}]}});
        web.status = serde_json::from_value(ingress).expect("a status");
        let mut six = EndpointSlice::clone(&slice("r"));
        (six.metadata.name, six.address_type) = (Some("web-2".into()), "IPv6".into());
        six.endpoints[0].addresses = vec!["fd00:10:244::1".into()];
        let rules = rules_of(&plan(&[Arc::new(web.clone())], &[slice("r"), Arc::new(six)], &around(false)));
        assert_eq!(
            rules,
            [
                "10.96.0.7:80>10.244.0.1:8080",
                "203.0.113.10:80>10.244.0.1:8080",
                "2001:db8:113::10:80>[fd00:10:244::1]:8080",
                "fd00:10:96::7:80>[fd00:10:244::1]:8080",
            ]
        );
        let relays = load_balancer_ports(&[Arc::new(web)]).into_iter();
        let relays: Vec<_> = relays.map(|port| (port.listen.to_string(), port.to.to_string())).collect();
        let pair = |listen: &str, to: &str| (listen.to_owned(), to.to_owned());
        assert_eq!(
            relays,
            [pair("203.0.113.10:80", "10.96.0.7:80"), pair("[2001:db8:113::10]:80", "[fd00:10:96::7]:80")]
        );
    }

    #[test]
    fn the_address_of_an_import_leads_to_the_endpoints_of_all_clusters() {
        let import = json!({
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {"type": "ClusterSetIP", "ips": ["240.240.0.7"],
                     "ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]},
        });
        let import = Arc::new(serde_json::from_value::<ServiceImport>(import).expect("an import"));
        let of = |cluster: &str, ip: &str, ready: bool| {
            let labels = json!({"multicluster.kubernetes.io/service-name": "web",
                                "multicluster.kubernetes.io/source-cluster": cluster});
            let ports = json!([{"name": "http", "port": 8080}, {"name": "dns", "port": 5353, "protocol": "UDP"}]);
            let endpoints = json!([{"addresses": [ip], "conditions": {"ready": ready}}]);
            Arc::new(
                serde_json::from_value(json!({
                    "metadata": {"name": format!("web-{cluster}"), "namespace": "default", "labels": labels},
                    "addressType": "IPv4", "endpoints": endpoints, "ports": ports,
                }))
                .expect("a slice"),
            )
        };
        let slices = [of("west", "10.244.0.1", true), of("east", "10.245.0.1", true), of("north", "10.246.0.1", false)];
        let servers = imported(&[import], &slices);
        let rules = rules_of(&Services { virtual_servers: servers, ..Services::default() });
        assert_eq!(
            rules,
            ["240.240.0.7:80>10.244.0.1:8080,10.245.0.1:8080", "240.240.0.7:53>10.244.0.1:5353,10.245.0.1:5353",]
        );
    }

    #[test]
    fn relays_serve_load_balancer_ports() {
        let service = service("web", json!({"type": "LoadBalancer"}), Some("203.0.113.10"));
        let expected = LoadBalancerPort {
            listen: "203.0.113.10:80".parse().expect("an address"),
            to: "10.96.0.7:80".parse().expect("an address"),
        };
        assert_eq!(load_balancer_ports(&[service]), [expected]);
    }
}
