//! `lab ports`: the addresses of ingress gateways on this machine.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::outcome::CommandError;
use super::print::OutputFormat;
use super::selection::LabSelection;
use crate::console::print;
use crate::orchestration::progress::columns;
use crate::orchestration::state::{ClusterRecord, LabRecord};

/// Print the addresses of ingress gateways on this machine.
///
/// With a cluster and a port of its ingress gateway, prints that address alone, as HOST:PORT.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  isthmus lab ports\n  curl http://$(isthmus lab ports west 80)/\n  \
                  curl --cacert $(isthmus lab certificate --authority) \
                  --connect-to shop.example.com:443:$(isthmus lab ports west 443) https://shop.example.com/")]
pub struct PortsOptions {
    /// Name of the cluster
    cluster: Option<String>,
    /// Port of the ingress gateway's Service, or its name
    #[arg(requires = "cluster")]
    port: Option<String>,
    /// Output format
    #[arg(long, short, conflicts_with = "port")]
    output: Option<OutputFormat>,
    #[command(flatten)]
    which: LabSelection,
}

impl PortsOptions {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        let mut record = self.which.choose()?;
        if let Some(name) = &self.cluster {
            let cluster = record.cluster(name)?.clone();
            if let Some(port) = &self.port {
                print(&format!("{}\n", address(&cluster, port)?))?;
                return Ok(ExitCode::SUCCESS);
            }
            record.clusters = vec![cluster];
        }
        print(&listing(&record, self.output)?)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Returns the address of a port on this machine.
fn address<'a>(cluster: &'a ClusterRecord, port: &str) -> Result<&'a str, CommandError> {
    let found = cluster.ports.iter().find(|record| record.port.to_string() == port || record.name == port);
    found.map(|record| record.host.as_str()).ok_or_else(|| {
        let known: Vec<String> =
            cluster.ports.iter().map(|record| format!("{} ({})", record.port, record.name)).collect();
        let advice = match known.is_empty() {
            true => "add an ingress gateway to the cluster in the topology: ingressGateway: true".to_owned(),
            false => format!("ports: {}", known.join(", ")),
        };
        format!("cluster \"{}\" has no ingress gateway with port \"{port}\"\n  {advice}", cluster.name).into()
    })
}

fn listing(record: &LabRecord, format: Option<OutputFormat>) -> Result<String, CommandError> {
    let machine = || {
        let ports = record.clusters.iter().flat_map(|cluster| {
            cluster.ports.iter().map(|port| {
                json!({"cluster": cluster.name, "gateway": port.gateway, "name": port.name, "port": port.port,
                       "address": port.address, "host": port.host})
            })
        });
        json!({"ports": ports.collect::<Vec<_>>()})
    };
    Ok(match format {
        Some(OutputFormat::Json) => format!("{}\n", serde_json::to_string_pretty(&machine())?),
        Some(OutputFormat::Yaml) => serde_saphyr::to_string(&machine())?,
        Some(OutputFormat::Wide) | None => ports_table(record).unwrap_or_else(|| {
            "no cluster has an ingress gateway\nadd one in the topology: ingressGateway: true\n".to_owned()
        }),
    })
}

/// Returns the table of the ports of ingress gateways, if there are any.
pub(super) fn ports_table(record: &LabRecord) -> Option<String> {
    let mut rows = vec![["INGRESS GATEWAY", "PORT", "NAME", "ADDRESS", "ON THIS MACHINE"].map(str::to_owned).to_vec()];
    for cluster in &record.clusters {
        rows.extend(cluster.ports.iter().map(|port| {
            vec![
                format!("{}/{}", cluster.name, port.gateway),
                port.port.to_string(),
                port.name.clone(),
                port.address.clone(),
                port.host.clone(),
            ]
        }));
    }
    (rows.len() > 1).then(|| columns(&rows, ""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::orchestration::state::PortRecord;

    fn cluster(ports: &[(&str, u16)]) -> ClusterRecord {
        let port = |(name, port): &(&str, u16)| PortRecord {
            gateway: "istio-system/istio-ingressgateway".to_owned(),
            name: (*name).to_owned(),
            port: *port,
            address: format!("203.0.113.11:{port}"),
            host: format!("127.0.0.1:{}", 30_000 + port),
        };
        ClusterRecord {
            name: "west".to_owned(),
            role: "primary".to_owned(),
            primary: "west".to_owned(),
            network: "net-west".to_owned(),
            region: "west".to_owned(),
            zones: Vec::new(),
            gateway: String::new(),
            server: String::new(),
            api: String::new(),
            kubeconfig: "west.kubeconfig".into(),
            ports: ports.iter().map(port).collect(),
        }
    }

    #[test]
    fn a_port_is_found_by_number_or_name() {
        let west = cluster(&[("http2", 80), ("https", 443)]);
        let of = |port: &str| address(&west, port).map_err(|error| error.to_string());
        assert_eq!((of("80"), of("https")), (Ok("127.0.0.1:30080"), Ok("127.0.0.1:30443")));
        let error = of("8080").expect_err("no such port");
        assert!(error.ends_with("ports: 80 (http2), 443 (https)"), "{error}");
        let error = address(&cluster(&[]), "80").expect_err("no gateway").to_string();
        assert!(error.contains("ingressGateway: true"), "{error}");
    }
}
