//! The command line. Every option has an environment variable, with the name that Istio's injection template uses if there is
//! one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use identity::SpiffeId;
use runtime::admin::Addresses;
use wire::name;

/// Options of the sidecar.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The mode, if it is not running the proxy.
    #[command(subcommand)]
    pub mode: Option<Mode>,
    /// Directory with what a workload that is no pod needs to join the mesh, which `isthmus workload entry configure` writes:
    /// options as environment variables in `cluster.env`, a token and roots. Options of the command line and of the environment
    /// take precedence.
    #[arg(long, env = "ISTHMUS_FROM", value_name = "DIRECTORY", global = true)]
    pub from: Option<PathBuf>,
    /// WorkloadGroup of the workload, if it is no pod: the controller registers a WorkloadEntry for it.
    #[arg(long, env = "ISTIO_META_AUTO_REGISTER_GROUP", value_name = "NAME", conflicts_with = "workload_entry")]
    pub workload_group: Option<String>,
    /// WorkloadEntry of the workload, if it is no pod and its WorkloadEntry is written by hand.
    #[arg(long, env = "ISTHMUS_WORKLOAD_ENTRY", value_name = "NAME")]
    pub workload_entry: Option<String>,
    /// Name of the pod's cluster.
    #[arg(long, env = "ISTIO_META_CLUSTER_ID", default_value = "Kubernetes")]
    pub cluster: String,
    /// Name of the pod's network.
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
    /// Address of the controller, as HOST:PORT.
    #[arg(long, env = "DISCOVERY_ADDRESS", default_value = "isthmus-controller.isthmus-system.svc:15012")]
    pub discovery: String,
    /// Name of the controller, which is sent as SNI and which its certificate must have, if it is not the host of its address:
    /// of the address of an east-west gateway, for example.
    #[arg(long, env = "ISTHMUS_DISCOVERY_NAME")]
    pub discovery_name: Option<String>,
    /// SPIFFE ID of the controller. Without it, the controller is known by the DNS name of its address.
    #[arg(long, env = "ISTHMUS_CONTROLLER_IDENTITY")]
    pub controller_identity: Option<SpiffeId>,
    /// File with the certificates that may sign for that identity, in PEM.
    #[arg(long, env = "ISTHMUS_CONTROLLER_ISSUER", default_value = "/var/run/secrets/istio/controller-issuer.pem")]
    pub controller_issuer: PathBuf,
    /// File with the service account token for enrolment.
    #[arg(long, env = "ISTHMUS_TOKEN", default_value = "/var/run/secrets/tokens/istio-token")]
    pub token: PathBuf,
    /// File with the mesh's root certificates in PEM.
    #[arg(long, env = "ISTHMUS_ROOT_CERT", default_value = "/var/run/secrets/istio/root-cert.pem")]
    pub root: PathBuf,
    /// Number of worker threads; by default the number of available processors, at most 2.
    #[arg(long, env = "CONCURRENCY")]
    pub concurrency: Option<usize>,
    /// Disable capture: serve the listeners of --egress and --ingress only. Needs no privilege. (Istio: `captureMode: NONE`
    /// in a Sidecar's listeners.)
    #[arg(long, env = "ISTHMUS_NO_CAPTURE")]
    pub no_capture: bool,
    /// Add an outbound listener: connections to BIND are carried as if captured on their way to DESTINATION, a service's
    /// address and port. May be repeated, or separated by commas.
    #[arg(long, env = "ISTHMUS_EGRESS", value_name = "BIND=DESTINATION", value_delimiter = ',')]
    pub egress: Vec<Listener>,
    /// Add an inbound listener: connections to BIND are carried to APPLICATION as if captured on their way there, with the
    /// policies and protocol of APPLICATION's port. May be repeated, or separated by commas.
    #[arg(long, env = "ISTHMUS_INGRESS", value_name = "BIND=APPLICATION", value_delimiter = ',')]
    pub ingress: Vec<Listener>,
    /// Port for captured outbound connections.
    #[arg(long, env = "ISTHMUS_OUTBOUND_PORT", default_value_t = 15001)]
    pub outbound_port: u16,
    /// Port for captured inbound connections.
    #[arg(long, env = "ISTHMUS_INBOUND_PORT", default_value_t = 15006)]
    pub inbound_port: u16,
    /// Port for captured DNS queries; 0 disables the DNS proxy.
    #[arg(long, env = "ISTHMUS_DNS_PORT", default_value_t = 15053)]
    pub dns_port: u16,
    /// Listen address of the admin endpoint.
    #[arg(long, env = "ISTHMUS_ADMIN_ADDRESS", default_value = "127.0.0.1:15000")]
    pub admin_address: SocketAddr,
    /// Listen address of health checks.
    #[arg(long, env = "ISTHMUS_HEALTH_ADDRESS", default_value = "[::]:15021")]
    pub health_address: SocketAddr,
    /// Listen address of the proxy's metrics for Prometheus.
    #[arg(long, env = "ISTHMUS_METRICS_ADDRESS", default_value = "[::]:15090")]
    pub metrics_address: SocketAddr,
    /// Listen address of the proxy's and the application's metrics for Prometheus.
    #[arg(long, env = "ISTHMUS_MERGED_METRICS_ADDRESS", default_value = "[::]:15020")]
    pub merged_metrics_address: SocketAddr,
    /// Milliseconds between failing readiness and accepting no more inbound connections, if the sidecar ends alone.
    #[arg(long, env = "ISTHMUS_DRAIN_DELAY_MS", default_value_t = 1000)]
    pub drain_delay_ms: u64,
    /// Seconds that the application and open connections may take to end when the pod stops.
    #[arg(long, env = "TERMINATION_DRAIN_DURATION_SECONDS", default_value_t = 5)]
    pub drain_seconds: u64,
    /// Log level, or a list of TARGET=LEVEL, such as `info,isthmus_sidecar=debug`.
    #[arg(long, env = "ISTHMUS_LOG", default_value = "info")]
    pub log: String,
    /// Write log lines as JSON.
    #[arg(long, env = "ISTHMUS_LOG_JSON")]
    pub log_json: bool,
}

/// Modes of the sidecar other than running the proxy.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Mode {
    /// Redirect the pod's traffic to the sidecar, and exit. Needs CAP_NET_ADMIN.
    Init(InitOptions),
}

/// Traffic that is not redirected.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct InitOptions {
    /// Ports of the pod whose inbound connections are not captured.
    #[arg(long, env = "EXCLUDE_INBOUND_PORTS", value_delimiter = ',')]
    pub exclude_inbound_ports: Vec<u16>,
    /// Destination ports whose outbound connections are not captured.
    #[arg(long, env = "EXCLUDE_OUTBOUND_PORTS", value_delimiter = ',')]
    pub exclude_outbound_ports: Vec<u16>,
    /// Destinations, as CIDRs, whose outbound connections are not captured.
    #[arg(long, env = "EXCLUDE_OUTBOUND_IP_RANGES", value_delimiter = ',')]
    pub exclude_outbound_cidrs: Vec<ipnet::IpNet>,
}

/// A listener whose connections have a fixed destination, written as `BIND=DESTINATION`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listener {
    /// The listen address.
    pub bind: SocketAddr,
    /// The destination of its connections.
    pub destination: SocketAddr,
}

impl FromStr for Listener {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (bind, destination) = text.split_once('=').ok_or("the form is ADDRESS:PORT=ADDRESS:PORT")?;
        let address = |text: &str| text.parse::<SocketAddr>().map_err(|_| format!("{text:?} is not ADDRESS:PORT"));
        let listener = Self { bind: address(bind)?, destination: address(destination)? };
        if listener.destination.port() == 0 || listener.destination.ip().is_unspecified() {
            return Err(format!("{destination} is not an address to connect to"));
        }
        if listener.accepts(listener.destination) {
            return Err(format!("{destination} is the listener itself"));
        }
        Ok(listener)
    }
}

impl Listener {
    /// Returns whether the listener accepts connections to this address.
    pub fn accepts(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        let any = self.bind.ip().is_unspecified() && (self.bind.is_ipv6() || ip.is_ipv4());
        self.bind.port() == address.port() && (any || self.bind.ip().to_canonical() == ip)
    }
}

impl Options {
    /// Returns the firewall mark that exempts the proxy's own connections from capture; `None` without capture.
    pub fn mark(&self) -> Option<u32> {
        (!self.no_capture).then_some(net::PROXY_MARK)
    }

    /// Returns whether the workload is no pod.
    pub fn is_machine(&self) -> bool {
        self.workload_group.is_some() || self.workload_entry.is_some()
    }

    /// Returns the name of the pod, or what stands for it if the workload is none; `None` if the options have neither.
    pub fn workload(&self) -> Option<String> {
        match (&self.workload_group, &self.workload_entry) {
            (Some(group), _) => Some(name::workload_entry(&name::registered(group, self.ip, &self.network))),
            (None, Some(entry)) => Some(name::workload_entry(entry)),
            (None, None) => Some(self.pod.clone()).filter(|pod| !pod.is_empty()),
        }
    }

    /// Returns the listen addresses of admin, health and metrics.
    pub fn addresses(&self) -> Addresses {
        Addresses {
            admin: Some(self.admin_address),
            health: Some(self.health_address),
            metrics: Some(self.metrics_address),
            merged_metrics: Some(self.merged_metrics_address),
        }
    }

    /// Returns the settings of the drain.
    pub fn drain_times(&self) -> runtime::control::DrainTimes {
        runtime::control::DrainTimes {
            delay: Duration::from_millis(self.drain_delay_ms),
            deadline: Duration::from_secs(self.drain_seconds),
        }
    }
}

/// Returns the wildcard address of both families.
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
    fn reads_the_options_of_the_injection_template() {
        let command = Command::try_parse_from(["sidecar", "--cluster=west", "--network", "net-west"]).unwrap();
        assert_eq!((&*command.options.cluster, command.options.outbound_port), ("west", 15001));
        assert!(command.options.mode.is_none());
        let command = Command::try_parse_from(["sidecar", "init", "--exclude-inbound-ports=22,80"]).unwrap();
        let Some(Mode::Init(init)) = command.options.mode else { panic!("not init") };
        assert_eq!(init.exclude_inbound_ports, [22, 80]);
        assert!(Command::try_parse_from(["sidecar", "--ip", "nowhere"]).is_err());
    }

    #[test]
    fn listeners_without_capture() {
        let arguments = ["sidecar", "--no-capture", "--egress=127.0.0.1:80=10.96.0.1:80,127.0.0.2:81=[fd00::1]:80"];
        let options = Command::try_parse_from(arguments).unwrap().options;
        assert_eq!((options.mark(), options.egress.len()), (None, 2));
        assert_eq!(options.egress[1].destination, "[fd00::1]:80".parse().unwrap());
        let listener = |text: &str| text.parse::<Listener>();
        for wrong in ["127.0.0.1:80", "localhost:80=10.96.0.1:80", "127.0.0.1:80=0.0.0.0:80", "127.0.0.1:80=10.0.0.1:0"]
        {
            assert!(listener(wrong).is_err(), "{wrong}");
        }
        for own in ["127.0.0.1:80=127.0.0.1:80", "0.0.0.0:80=127.0.0.1:80", "[::]:80=127.0.0.1:80"] {
            assert!(listener(own).unwrap_err().contains("itself"), "{own}");
        }
        let any = listener("[::]:80=127.0.0.1:81").unwrap();
        assert!(any.accepts("[::ffff:10.0.0.1]:80".parse().unwrap()));
        assert!(!any.accepts("10.0.0.1:81".parse().unwrap()));
    }
}
