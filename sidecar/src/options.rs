//! The command line. Every option can be given by environment, by the names that Istio's injection template uses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// The proxy beside a pod.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// What to do instead of running the proxy.
    #[command(subcommand)]
    pub mode: Option<Mode>,
    /// Name of the cluster that the pod runs in.
    #[arg(long, env = "ISTIO_META_CLUSTER_ID", default_value = "Kubernetes")]
    pub cluster: String,
    /// Name of the network that the pod is in.
    #[arg(long, env = "ISTIO_META_NETWORK", default_value = "")]
    pub network: String,
    /// Name of the pod.
    #[arg(long, env = "POD_NAME", default_value = "")]
    pub pod: String,
    /// Namespace of the pod.
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    pub namespace: String,
    /// Address of the pod.
    #[arg(long, env = "INSTANCE_IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub ip: IpAddr,
    /// The controller.
    #[arg(long, env = "DISCOVERY_ADDRESS", default_value = "isthmus-controller.isthmus-system.svc:15012")]
    pub discovery: String,
    /// The service account token to enrol with.
    #[arg(long, env = "ISTHMUS_TOKEN", default_value = "/var/run/secrets/tokens/istio-token")]
    pub token: PathBuf,
    /// The mesh's root certificates in PEM.
    #[arg(long, env = "ISTHMUS_ROOT_CERT", default_value = "/var/run/secrets/istio/root-cert.pem")]
    pub root: PathBuf,
    /// Worker threads; by default as many as there are processors to use, at most 2.
    #[arg(long, env = "CONCURRENCY")]
    pub concurrency: Option<usize>,
    /// Port for connections of the application.
    #[arg(long, env = "ISTHMUS_OUTBOUND_PORT", default_value_t = 15001)]
    pub outbound_port: u16,
    /// Port for connections to the application.
    #[arg(long, env = "ISTHMUS_INBOUND_PORT", default_value_t = 15006)]
    pub inbound_port: u16,
    /// Port for the application's DNS questions.
    #[arg(long, env = "ISTHMUS_DNS_PORT", default_value_t = 15053)]
    pub dns_port: u16,
    /// From failing readiness to accepting no more connections from others, in milliseconds.
    #[arg(long, env = "ISTHMUS_DRAIN_DELAY_MS", default_value_t = 1000)]
    pub drain_delay_ms: u64,
    /// How long connections may take to finish when stopping, in seconds.
    #[arg(long, env = "TERMINATION_DRAIN_DURATION_SECONDS", default_value_t = 5)]
    pub drain_seconds: u64,
    /// What of the proxy's own doings is logged, such as `info` or `info,isthmus_sidecar=debug`.
    #[arg(long, env = "ISTHMUS_LOG", default_value = "info")]
    pub log: String,
    /// Log as JSON.
    #[arg(long, env = "ISTHMUS_LOG_JSON")]
    pub log_json: bool,
}

/// What a sidecar image can do besides proxying.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Mode {
    /// Redirects this pod's traffic to the sidecar, and exits. Needs CAP_NET_ADMIN.
    Init(Init),
}

/// What is not redirected.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Init {
    /// Ports of the pod whose connections go straight to the application.
    #[arg(long, env = "EXCLUDE_INBOUND_PORTS", value_delimiter = ',')]
    pub exclude_inbound_ports: Vec<u16>,
    /// Ports whose connections leave the pod directly.
    #[arg(long, env = "EXCLUDE_OUTBOUND_PORTS", value_delimiter = ',')]
    pub exclude_outbound_ports: Vec<u16>,
    /// Destinations, as CIDRs, whose connections leave the pod directly.
    #[arg(long, env = "EXCLUDE_OUTBOUND_IP_RANGES", value_delimiter = ',')]
    pub exclude_outbound_cidrs: Vec<ipnet::IpNet>,
}

impl Options {
    /// How to leave.
    pub fn leaving(&self) -> runtime::control::Leaving {
        runtime::control::Leaving {
            delay: Duration::from_millis(self.drain_delay_ms),
            deadline: Duration::from_secs(self.drain_seconds),
        }
    }
}

/// Any address of both families.
pub fn any(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn reads_what_the_injector_gives() {
        let command = Command::try_parse_from(["sidecar", "--cluster=west", "--network", "net-west"]).unwrap();
        assert_eq!((&*command.options.cluster, command.options.outbound_port), ("west", 15001));
        assert!(command.options.mode.is_none());
        let command = Command::try_parse_from(["sidecar", "init", "--exclude-inbound-ports=22,80"]).unwrap();
        let Some(Mode::Init(init)) = command.options.mode else { panic!("not init") };
        assert_eq!(init.exclude_inbound_ports, [22, 80]);
        assert!(Command::try_parse_from(["sidecar", "--ip", "nowhere"]).is_err());
    }
}
