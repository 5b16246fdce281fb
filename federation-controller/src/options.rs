//! The command line. Every option may be given by environment as well.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Options of the controller.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Name of the cluster that this controller runs in
    #[arg(long, env = "ISTHMUS_CLUSTER_ID", default_value = "Kubernetes")]
    pub cluster: String,
    /// Network of that cluster's pods; the label topology.istio.io/network of the root namespace goes first
    #[arg(long, env = "ISTHMUS_NETWORK", default_value = "")]
    pub network: String,
    /// Namespace that the components run in
    #[arg(long, env = "POD_NAMESPACE", default_value = "isthmus-system")]
    pub namespace: String,
    /// Namespace of mesh-wide settings, remote secrets and signing certificates
    #[arg(long, env = "ISTHMUS_ROOT_NAMESPACE", default_value = "istio-system")]
    pub root_namespace: String,
    /// Service account that this controller runs as, for the name in its own certificate
    #[arg(long, env = "SERVICE_ACCOUNT", default_value = "isthmus-controller")]
    pub service_account: String,
    /// Trust domain of workloads' identities
    #[arg(long, env = "TRUST_DOMAIN", default_value = "cluster.local")]
    pub trust_domain: String,
    /// DNS domain of the clusters
    #[arg(long, env = "ISTHMUS_CLUSTER_DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Kubeconfig of the own cluster; without it, the pod's service account
    #[arg(long, env = "ISTHMUS_KUBECONFIG_FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Directory in which the last view is kept, so that a restart during an outage starts with it
    #[arg(long, env = "ISTHMUS_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// Where discovery and certificates are served
    #[arg(long, env = "ISTHMUS_DISCOVERY_LISTEN", default_value = "0.0.0.0:15012")]
    pub discovery_listen: SocketAddr,
    /// Where metrics, readiness and debug pages are served
    #[arg(long, env = "ISTHMUS_MONITORING_LISTEN", default_value = "0.0.0.0:15014")]
    pub monitoring_listen: SocketAddr,
    /// Where API servers call the injection webhook
    #[arg(long, env = "ISTHMUS_WEBHOOK_LISTEN", default_value = "0.0.0.0:15017")]
    pub webhook_listen: SocketAddr,
    /// Image of the sidecar that is injected
    #[arg(long, env = "ISTHMUS_SIDECAR_IMAGE", default_value = "isthmus/sidecar")]
    pub sidecar_image: String,
    /// Where injected sidecars find their controller
    #[arg(long, env = "DISCOVERY_ADDRESS", default_value = "isthmus-controller.isthmus-system.svc:15012")]
    pub discovery_address: String,
    /// How long a certificate is valid for which no time is asked, in seconds
    #[arg(long, env = "ISTHMUS_CERTIFICATE_VALIDITY", default_value = "86400", value_parser = seconds)]
    pub certificate_validity: Duration,
    /// The longest validity that may be asked for, in seconds
    #[arg(long, env = "ISTHMUS_MAX_CERTIFICATE_VALIDITY", default_value = "7776000", value_parser = seconds)]
    pub max_certificate_validity: Duration,
    /// How often each API server is asked whether it is there, in seconds
    #[arg(long, env = "ISTHMUS_HEARTBEAT", default_value = "1", value_parser = seconds)]
    pub heartbeat: Duration,
    /// What is logged: a level (error, warn, info, debug, trace) or target=level,…
    #[arg(long, env = "ISTHMUS_LOG", default_value = "info,kube_client::client=off")]
    pub log: String,
    /// Log in JSON
    #[arg(long, env = "ISTHMUS_LOG_JSON")]
    pub log_json: bool,
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds < 1e9 => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("write seconds, more than 0".into()),
    }
}
