//! Gateways of clusters, certificates of their servers, and servers outside of the mesh.

use api::names::{ROOT_NAMESPACE, is_dns_label};
use install::gateways::GatewayPort;
use serde_saphyr::Spanned;

use super::super::diagnostic::Problem;
use super::super::file;
use super::super::model::{
    Cluster, ClusterGateway, ClusterGatewayPort, External, ExternalPort, GatewayCertificate, TokenIssuer,
};
use super::names::{CheckResult, is_port_name, label, or_none, outside_host};
use super::workloads::cluster_named;

/// Most ports of a gateway.
const MAX_PORTS: usize = 16;
/// Most servers outside of the mesh: each has an address of the bridge.
const MAX_EXTERNAL: usize = 32;
/// Most certificates, and names of one.
const MAX_CERTIFICATES: usize = 64;
/// Ports of gateways for their readiness and metrics.
const OWN_PORTS: [u16; 4] = [15000, 15020, 15021, 15090];

/// Returns a gateway, if the cluster has one. Only an ingress gateway is reached from this machine.
pub(super) fn gateway(
    raw: Option<&Spanned<file::GatewayEntry>>,
    is_ingress: bool,
) -> CheckResult<Option<ClusterGateway>> {
    let settings = match raw.map(|entry| &entry.value) {
        None | Some(file::GatewayEntry::Enabled(false)) => return Ok(None),
        Some(file::GatewayEntry::Enabled(true)) => None,
        Some(file::GatewayEntry::Settings(settings)) => Some(settings),
    };
    let namespace = settings.and_then(|settings| settings.namespace.as_ref());
    let namespace = namespace.map_or(Ok(ROOT_NAMESPACE.to_owned()), |name| label(name, "namespace"))?;
    let mut ports: Vec<ClusterGatewayPort> = GatewayPort::defaults().into_iter().map(port_of).collect();
    let mut seen = Vec::new();
    for entry in settings.iter().flat_map(|settings| &settings.ports) {
        let port = port(&entry.value, is_ingress)?;
        if seen.contains(&port.port) {
            return Err(Problem::new(entry.referenced, format!("port {} of a gateway is listed twice", port.port))
                .hint("remove one of them"));
        }
        seen.push(port.port);
        match ports.iter_mut().find(|other| other.port == port.port) {
            Some(default) => *default = port,
            None => ports.push(port),
        }
        if ports.len() > MAX_PORTS {
            return Err(Problem::new(entry.referenced, format!("a gateway has at most {MAX_PORTS} ports"))
                .hint("80 and 443 are among them"));
        }
        distinct(entry, &ports)?;
    }
    Ok(Some(ClusterGateway { namespace, ports }))
}

fn port_of(port: GatewayPort) -> ClusterGatewayPort {
    ClusterGatewayPort { name: port.name, port: port.port, target_port: port.target, host_port: None }
}

fn port(raw: &file::GatewayPortEntry, is_ingress: bool) -> CheckResult<ClusterGatewayPort> {
    let number = raw.port.value;
    for given in [Some(&raw.port), raw.target_port.as_ref(), raw.host_port.as_ref()].into_iter().flatten() {
        if given.value == 0 {
            return Err(Problem::new(given.referenced, "0 is not a port").hint("a port is from 1 to 65535"));
        }
    }
    let name = match &raw.name {
        Some(name) if is_port_name(&name.value) => name.value.clone(),
        Some(name) => {
            return Err(Problem::new(name.referenced, format!("\"{}\" is not the name of a port", name.value))
                .hint("at most 15 lower-case letters, digits and dashes, with a letter; its beginning is the protocol, as in tcp-mongo"));
        }
        None => match GatewayPort::defaults().into_iter().find(|port| port.port == number) {
            Some(default) => default.name,
            None => format!("tcp-{number}"),
        },
    };
    let mut port = port_of(GatewayPort::new(&name, number));
    if let Some(target) = &raw.target_port {
        port.target_port = target.value;
    }
    for (given, number) in [(Some(&raw.port), number), (raw.target_port.as_ref(), port.target_port)] {
        if let Some(given) = given.filter(|_| OWN_PORTS.contains(&number)) {
            return Err(Problem::new(given.referenced, format!("port {number} is one of the gateway's own"))
                .hint("15021, for readiness, is a port of each gateway anyway; choose another one"));
        }
    }
    if let Some(host_port) = raw.host_port.as_ref().filter(|_| !is_ingress) {
        return Err(Problem::new(host_port.referenced, "an egress gateway is reached from inside of its cluster only")
            .hint("hostPort is for ingress gateways"));
    }
    port.host_port = raw.host_port.as_ref().map(|port| port.value);
    Ok(port)
}

/// Checks that the last port differs from the others in its name and target.
fn distinct(entry: &Spanned<file::GatewayPortEntry>, ports: &[ClusterGatewayPort]) -> CheckResult<()> {
    for (index, port) in ports.iter().enumerate() {
        for other in &ports[..index] {
            let what = match () {
                () if port.name == other.name => format!("the name \"{}\"", port.name),
                () if port.target_port == other.target_port => format!("the target port {}", port.target_port),
                () => continue,
            };
            let message = format!("ports {} and {} of a gateway have {what}", other.port, port.port);
            return Err(Problem::new(entry.referenced, message).hint("give one of them another name: or targetPort:"));
        }
    }
    Ok(())
}

/// Checks that no two gateways want one port of this machine.
pub(super) fn host_ports(raw: &[Spanned<file::ClusterEntry>], clusters: &[Cluster]) -> CheckResult<()> {
    let mut taken: Vec<u16> = Vec::new();
    for (cluster, entry) in clusters.iter().zip(raw) {
        let ports = cluster.ingress_gateway.iter().flat_map(|gateway| &gateway.ports);
        for host_port in ports.filter_map(|port| port.host_port) {
            if taken.contains(&host_port) {
                return Err(Problem::new(
                    entry.referenced,
                    format!(
                        "hostPort {host_port} of cluster \"{}\" is taken by another port of a gateway",
                        cluster.name
                    ),
                )
                .hint("choose another one, or leave it out for any free one"));
            }
            taken.push(host_port);
        }
    }
    Ok(())
}

/// Returns the servers outside of the mesh, each host once.
pub(super) fn external(raw: &[Spanned<file::ExternalEntry>], issuers: &[TokenIssuer]) -> CheckResult<Vec<External>> {
    if let Some(extra) = raw.get(MAX_EXTERNAL) {
        return Err(Problem::new(
            extra.referenced,
            format!("{} external servers; a lab has at most {MAX_EXTERNAL}", raw.len()),
        )
        .hint("each has an address of its own; a ServiceEntry may have several hosts at one address"));
    }
    let mut servers: Vec<External> = Vec::new();
    for entry in raw {
        let host = outside_host(&entry.value.host, "external server")?;
        if servers.iter().any(|other| other.host == host) || issuers.iter().any(|issuer| issuer.host == host) {
            return Err(Problem::new(entry.value.host.referenced, format!("host \"{host}\" is listed twice"))
                .hint("a host is one external server or one issuer of tokens"));
        }
        servers.push(External { host, ports: external_ports(&entry.value)? });
    }
    Ok(servers)
}

fn external_ports(entry: &file::ExternalEntry) -> CheckResult<Vec<ExternalPort>> {
    let Some(raw) = &entry.ports else {
        return Ok(vec![ExternalPort { port: 80, tls: false }, ExternalPort { port: 443, tls: true }]);
    };
    if raw.value.is_empty() || raw.value.len() > MAX_PORTS {
        return Err(Problem::new(raw.referenced, format!("{} ports of an external server", raw.value.len()))
            .hint(format!("list 1 to {MAX_PORTS} ports, such as {{port: 443, tls: true}}")));
    }
    let mut ports: Vec<ExternalPort> = Vec::new();
    for entry in &raw.value {
        let port = entry.value.port.value;
        if port == 0 || ports.iter().any(|other| other.port == port) {
            let what = if port == 0 { "is not a port" } else { "is listed twice" };
            return Err(
                Problem::new(entry.referenced, format!("{port} {what}")).hint("each port from 1 to 65535, once")
            );
        }
        ports.push(ExternalPort { port, tls: entry.value.tls });
    }
    Ok(ports)
}

/// Returns the certificates of gateways, each Secret once.
pub(super) fn certificates(
    raw: &[Spanned<file::CertificateEntry>],
    clusters: &[Cluster],
) -> CheckResult<Vec<GatewayCertificate>> {
    if let Some(extra) = raw.get(MAX_CERTIFICATES) {
        return Err(Problem::new(
            extra.referenced,
            format!("{} certificates; a topology has at most {MAX_CERTIFICATES}", raw.len()),
        )
        .hint("issue others in the running lab: isthmus lab certificate"));
    }
    let mut certificates: Vec<GatewayCertificate> = Vec::new();
    for entry in raw {
        let certificate = certificate(&entry.value, clusters)?;
        let same = |other: &GatewayCertificate| {
            (&other.secret, &other.namespace) == (&certificate.secret, &certificate.namespace)
                && other.clusters.iter().any(|name| certificate.clusters.contains(name))
        };
        if certificates.iter().any(same) {
            let (namespace, secret) = (&certificate.namespace, &certificate.secret);
            return Err(Problem::new(entry.referenced, format!("Secret {namespace}/{secret} is listed twice"))
                .hint("list all hosts of a Secret in one entry"));
        }
        certificates.push(certificate);
    }
    Ok(certificates)
}

fn certificate(raw: &file::CertificateEntry, clusters: &[Cluster]) -> CheckResult<GatewayCertificate> {
    let secret = label(&raw.secret, "Secret")?;
    let namespace = raw.namespace.as_ref().map_or(Ok(ROOT_NAMESPACE.to_owned()), |name| label(name, "namespace"))?;
    if raw.hosts.value.is_empty() || raw.hosts.value.len() > MAX_CERTIFICATES {
        return Err(Problem::new(raw.hosts.referenced, format!("{} hosts of a certificate", raw.hosts.value.len()))
            .hint(format!("list 1 to {MAX_CERTIFICATES} hosts, such as shop.example.com or '*.example.com'")));
    }
    let hosts: CheckResult<Vec<String>> = raw.hosts.value.iter().map(certificate_host).collect();
    let has_gateway = |cluster: &&Cluster| cluster.gateways().any(|(_, gateway)| gateway.namespace == namespace);
    let of: Vec<&Cluster> = match &raw.clusters {
        Some(listed) => listed.iter().map(|one| cluster_named(one, clusters)).collect::<CheckResult<_>>()?,
        None => clusters.iter().filter(has_gateway).collect(),
    };
    if of.is_empty() || !of.iter().all(has_gateway) {
        let with: Vec<&str> = clusters.iter().filter(has_gateway).map(|cluster| cluster.name.as_str()).collect();
        return Err(Problem::new(
            raw.secret.referenced,
            format!(
                "Secret \"{secret}\" is for a gateway in namespace \"{namespace}\", which not every cluster of it has"
            ),
        )
        .hint(format!(
            "a gateway reads Secrets of its own namespace; clusters with one in {namespace}: {}",
            or_none(&with)
        )));
    }
    let clusters = of.into_iter().map(|cluster| cluster.name.clone()).collect();
    Ok(GatewayCertificate { secret, namespace, hosts: hosts?, clusters })
}

/// Checks a name of a certificate: a host name, or a wildcard for one label.
fn certificate_host(raw: &Spanned<String>) -> CheckResult<String> {
    let name = raw.value.strip_prefix("*.").unwrap_or(&raw.value);
    if name.len() <= 253 && name.split('.').all(is_dns_label) {
        return Ok(raw.value.clone());
    }
    Err(Problem::new(raw.referenced, format!("\"{}\" is not a host of a certificate", raw.value))
        .hint("a name in lower case, such as shop.example.com or '*.example.com'"))
}

#[cfg(test)]
mod tests;
