//! The command line. Every option has an environment variable.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::inject::template::{PROXY_CONTAINER, PROXY_CONTAINERS};

/// Options of the controller.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Name of the controller's own cluster
    #[arg(long, env = "ISTHMUS_CLUSTER_ID", default_value = "Kubernetes")]
    pub cluster: String,
    /// Network of the own cluster's pods; the label topology.istio.io/network of the root namespace takes precedence
    #[arg(long, env = "ISTHMUS_NETWORK", default_value = "")]
    pub network: String,
    /// Namespace of the components
    #[arg(long, env = "POD_NAMESPACE", default_value = "isthmus-system")]
    pub namespace: String,
    /// Root namespace: mesh-wide settings, remote secrets and signing certificates
    #[arg(long, env = "ISTHMUS_ROOT_NAMESPACE", default_value = "istio-system")]
    pub root_namespace: String,
    /// Service account of the controller, for its own certificate
    #[arg(long, env = "SERVICE_ACCOUNT", default_value = "isthmus-controller")]
    pub service_account: String,
    /// Trust domain of the mesh
    #[arg(long, env = "TRUST_DOMAIN", default_value = "cluster.local")]
    pub trust_domain: String,
    /// DNS suffix of service hostnames
    #[arg(long, env = "ISTHMUS_CLUSTER_DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Kubeconfig file of the own cluster; by default the pod's service account is used
    #[arg(long, env = "ISTHMUS_KUBECONFIG_FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Directory of the last snapshot, which the controller starts with while an API server is unreachable
    #[arg(long, env = "ISTHMUS_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// Listen address of discovery and certificates
    #[arg(long, env = "ISTHMUS_DISCOVERY_LISTEN", default_value = "[::]:15012")]
    pub discovery_listen: SocketAddr,
    /// Listen address of metrics, readiness and debug pages
    #[arg(long, env = "ISTHMUS_MONITORING_LISTEN", default_value = "[::]:15014")]
    pub monitoring_listen: SocketAddr,
    /// Listen address of the injection webhook
    #[arg(long, env = "ISTHMUS_WEBHOOK_LISTEN", default_value = "[::]:15017")]
    pub webhook_listen: SocketAddr,
    /// File with the certificate authorities of the API servers that may call the webhook, in PEM; without it, any client may
    #[arg(long, env = "ISTHMUS_WEBHOOK_CLIENT_CA", requires = "webhook_client_names")]
    pub webhook_client_ca: Option<PathBuf>,
    /// Names of those API servers, of which each client certificate has one as common name or DNS name
    #[arg(long, env = "ISTHMUS_WEBHOOK_CLIENT_NAMES", value_delimiter = ',')]
    pub webhook_client_names: Vec<String>,
    /// Image of injected sidecars
    #[arg(long, env = "ISTHMUS_SIDECAR_IMAGE", default_value = "isthmus/sidecar")]
    pub sidecar_image: String,
    /// Image of gateways that are pods of the injection template `gateway`
    #[arg(long, env = "ISTHMUS_ROUTER_IMAGE", default_value = "isthmus/router")]
    pub router_image: String,
    /// Name of the container of injected sidecars; istio-proxy for tools that look for that name
    #[arg(long, env = "ISTHMUS_PROXY_CONTAINER", default_value = PROXY_CONTAINER, value_parser = PROXY_CONTAINERS)]
    pub proxy_container: String,
    /// Address of the controller for injected sidecars, as HOST:PORT
    #[arg(long, env = "DISCOVERY_ADDRESS", default_value = "isthmus-controller.isthmus-system.svc:15012")]
    pub discovery_address: String,
    /// Addresses beside public ones from which keys of tokens may be fetched (jwksUri), as CIDRs such as 10.96.0.0/12
    #[arg(long, env = "ISTHMUS_KEY_SERVER_ADDRESSES", value_delimiter = ',')]
    pub key_server_addresses: Vec<ipnet::IpNet>,
    /// File with certificate authorities of key servers beside those of the system, in PEM
    #[arg(long, env = "ISTHMUS_KEY_SERVER_CA")]
    pub key_server_ca: Option<PathBuf>,
    /// Interval at which keys of tokens are fetched again, in seconds
    #[arg(long, env = "ISTHMUS_KEY_REFRESH", default_value = "60", value_parser = seconds)]
    pub key_refresh: Duration,
    /// Lifetime of certificates without a requested lifetime, in seconds
    #[arg(long, env = "ISTHMUS_CERTIFICATE_VALIDITY", default_value = "86400", value_parser = seconds)]
    pub certificate_validity: Duration,
    /// Maximum lifetime of a certificate, in seconds
    #[arg(long, env = "ISTHMUS_MAX_CERTIFICATE_VALIDITY", default_value = "7776000", value_parser = seconds)]
    pub max_certificate_validity: Duration,
    /// Interval of the heartbeat to each API server, in seconds
    #[arg(long, env = "ISTHMUS_HEARTBEAT", default_value = "1", value_parser = seconds)]
    pub heartbeat: Duration,
    /// Time from the deletion of a cluster's remote secret to the removal of the cluster, in seconds
    #[arg(long, env = "ISTHMUS_REMOVAL_GRACE", default_value = "5", value_parser = seconds_or_none)]
    pub removal_grace: Duration,
    /// Time from the end of the stream of a workload that is no pod to the removal of its registered WorkloadEntry, in seconds
    #[arg(long, env = "PILOT_WORKLOAD_ENTRY_GRACE_PERIOD", default_value = "10", value_parser = grace)]
    pub workload_entry_grace: Duration,
    /// Log filter: a level (error, warn, info, debug, trace) or target=level,…
    #[arg(long, env = "ISTHMUS_LOG", default_value = "info,kube_client::client=off")]
    pub log: String,
    /// Log in JSON
    #[arg(long, env = "ISTHMUS_LOG_JSON")]
    pub log_json: bool,
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds < 1e9 => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("expected a number of seconds greater than 0 and less than 1000000000, such as 1 or 0.5".into()),
    }
}

/// Parses a number of seconds, which may have the unit that Istio's variable has.
fn grace(text: &str) -> Result<Duration, String> {
    seconds_or_none(text.strip_suffix('s').unwrap_or(text))
}

fn seconds_or_none(text: &str) -> Result<Duration, String> {
    if text == "0" { Ok(Duration::ZERO) } else { seconds(text) }
}
