//! The command line. Every option can be given by environment, by the names that Istio's injection template uses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use runtime::admin::Addresses;

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
    /// Capture nothing: listen on none of the ports that `init` redirects to, and mark no connection. The proxy then serves
    /// --egress and --ingress alone (Istio: a Sidecar's listeners with `captureMode: NONE`), and needs no privilege.
    #[arg(long, env = "ISTHMUS_NO_CAPTURE")]
    pub no_capture: bool,
    /// A listener for the application, as BIND=DESTINATION: what connects to BIND is carried as if it had been captured
    /// on its way to DESTINATION, the address of a service and its port. May be given more than once, or with commas.
    #[arg(long, env = "ISTHMUS_EGRESS", value_name = "BIND=DESTINATION", value_delimiter = ',')]
    pub egress: Vec<Listener>,
    /// A listener for others, as BIND=APPLICATION: what connects to BIND is carried to APPLICATION as if it had been
    /// captured on its way there; policies and protocols are those of APPLICATION's port. May be given more than once.
    #[arg(long, env = "ISTHMUS_INGRESS", value_name = "BIND=APPLICATION", value_delimiter = ',')]
    pub ingress: Vec<Listener>,
    /// Port for connections of the application.
    #[arg(long, env = "ISTHMUS_OUTBOUND_PORT", default_value_t = 15001)]
    pub outbound_port: u16,
    /// Port for connections to the application.
    #[arg(long, env = "ISTHMUS_INBOUND_PORT", default_value_t = 15006)]
    pub inbound_port: u16,
    /// Port for the application's DNS questions; 0: answer none.
    #[arg(long, env = "ISTHMUS_DNS_PORT", default_value_t = 15053)]
    pub dns_port: u16,
    /// Where people on this pod ask.
    #[arg(long, env = "ISTHMUS_ADMIN_ADDRESS", default_value = "127.0.0.1:15000")]
    pub admin_address: SocketAddr,
    /// Where the kubelet asks for health.
    #[arg(long, env = "ISTHMUS_HEALTH_ADDRESS", default_value = "[::]:15021")]
    pub health_address: SocketAddr,
    /// Where Prometheus asks for the proxy's metrics.
    #[arg(long, env = "ISTHMUS_METRICS_ADDRESS", default_value = "[::]:15090")]
    pub metrics_address: SocketAddr,
    /// Where Prometheus asks for the proxy's metrics with the application's behind them.
    #[arg(long, env = "ISTHMUS_MERGED_METRICS_ADDRESS", default_value = "[::]:15020")]
    pub merged_metrics_address: SocketAddr,
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

/// A listener whose connections all go to one place, written as `BIND=DESTINATION`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listener {
    /// Where it listens.
    pub bind: SocketAddr,
    /// Where its connections go.
    pub destination: SocketAddr,
}

impl FromStr for Listener {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (bind, destination) = text.split_once('=').ok_or("write it as ADDRESS:PORT=ADDRESS:PORT")?;
        let address = |text: &str| text.parse::<SocketAddr>().map_err(|_| format!("{text:?} is not ADDRESS:PORT"));
        let listener = Self { bind: address(bind)?, destination: address(destination)? };
        if listener.destination.port() == 0 || listener.destination.ip().is_unspecified() {
            return Err(format!("{destination} is no place to connect to"));
        }
        if listener.takes(listener.destination) {
            return Err(format!("{destination} is this listener itself"));
        }
        Ok(listener)
    }
}

impl Listener {
    /// Whether a connection to this address arrives here.
    pub fn takes(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        let any = self.bind.ip().is_unspecified() && (self.bind.is_ipv6() || ip.is_ipv4());
        self.bind.port() == address.port() && (any || self.bind.ip().to_canonical() == ip)
    }
}

impl Options {
    /// The mark of the proxy's own connections, by which capture lets them through; `None` where nothing is captured.
    pub fn mark(&self) -> Option<u32> {
        (!self.no_capture).then_some(net::PROXY_MARK)
    }

    /// Where people, probes and Prometheus ask.
    pub fn addresses(&self) -> Addresses {
        Addresses {
            admin: Some(self.admin_address),
            health: Some(self.health_address),
            metrics: Some(self.metrics_address),
            merged_metrics: Some(self.merged_metrics_address),
        }
    }

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
        assert!(any.takes("[::ffff:10.0.0.1]:80".parse().unwrap()));
        assert!(!any.takes("10.0.0.1:81".parse().unwrap()));
    }
}
