//! The command line of gateways: what the programs of gateways have in common.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use identity::SpiffeId;
use wire::name::{Node, Role};

use crate::admin::Addresses;
use crate::control::DrainTimes;
use crate::enrol::{self, Controller};

/// Options of a gateway: who it is, its controller, its listeners for operators, and its end.
#[derive(clap::Args, Clone, Debug)]
pub struct GatewayOptions {
    /// Name of the gateway's cluster.
    #[arg(long, env = "ISTIO_META_CLUSTER_ID", default_value = "Kubernetes")]
    pub cluster: String,
    /// Name of the gateway's network.
    #[arg(long, env = "ISTIO_META_NETWORK", default_value = "")]
    pub network: String,
    /// Address of the controller, as HOST:PORT.
    #[arg(long, env = "DISCOVERY_ADDRESS", default_value = "isthmus-controller.isthmus-system.svc:15012")]
    pub discovery_address: Controller,
    /// SPIFFE ID of the controller. Without it, the controller is known by the DNS name of its address
    #[arg(long, env = "ISTHMUS_CONTROLLER_IDENTITY")]
    pub controller_identity: Option<SpiffeId>,
    /// File with the certificates that may sign for that identity, in PEM
    #[arg(long, env = "ISTHMUS_CONTROLLER_ISSUER", default_value = "/var/run/secrets/istio/controller-issuer.pem")]
    pub controller_issuer: PathBuf,
    /// Name of the pod.
    #[arg(long, env = "POD_NAME")]
    pub pod: String,
    /// Namespace of the pod.
    #[arg(long, env = "POD_NAMESPACE", default_value = "isthmus-system")]
    pub namespace: String,
    /// Address of the pod.
    #[arg(long, env = "INSTANCE_IP", default_value = "127.0.0.1")]
    pub ip: IpAddr,
    /// Listen address of the admin endpoint.
    #[arg(long, env = "ISTHMUS_ADMIN_ADDRESS", default_value = "127.0.0.1:15000")]
    pub admin_address: SocketAddr,
    /// Listen address of health checks.
    #[arg(long, env = "ISTHMUS_HEALTH_ADDRESS", default_value = "[::]:15021")]
    pub health_address: SocketAddr,
    /// Listen address of metrics for Prometheus.
    #[arg(long, env = "ISTHMUS_METRICS_ADDRESS", default_value = "[::]:15090")]
    pub metrics_address: SocketAddr,
    /// Number of worker threads; 0 is the number of available processors.
    #[arg(long, env = "ISTHMUS_WORKERS", default_value_t = 0)]
    pub workers: usize,
    /// File with the service account token for enrolment.
    #[arg(long, env = "ISTHMUS_TOKEN_PATH", default_value = "/var/run/secrets/tokens/istio-token")]
    pub token_path: PathBuf,
    /// File with the mesh's root certificates in PEM.
    #[arg(long, env = "ISTHMUS_ROOT_PATH", default_value = "/var/run/secrets/istio/root-cert.pem")]
    pub root_path: PathBuf,
    /// Seconds between failing readiness and accepting no more connections.
    #[arg(long, env = "ISTHMUS_DRAIN_DELAY_SECONDS", default_value_t = 1.0)]
    pub drain_delay: f64,
    /// Seconds that open connections may take to finish when the gateway stops.
    #[arg(long, env = "TERMINATION_DRAIN_DURATION_SECONDS", default_value_t = 5.0)]
    pub drain_deadline: f64,
    /// Log level, or a list of TARGET=LEVEL.
    #[arg(long, env = "ISTHMUS_LOG", default_value = "info")]
    pub log: String,
    /// Write log lines as JSON.
    #[arg(long, env = "ISTHMUS_LOG_JSON")]
    pub log_json: bool,
}

impl GatewayOptions {
    /// Returns the listen addresses of admin, health and metrics.
    pub fn addresses(&self) -> Addresses {
        Addresses {
            admin: Some(self.admin_address),
            health: Some(self.health_address),
            metrics: Some(self.metrics_address),
            merged_metrics: None,
        }
    }

    /// Returns the settings of the drain.
    pub fn drain_times(&self) -> DrainTimes {
        DrainTimes {
            delay: Duration::from_secs_f64(self.drain_delay.clamp(0.0, 3600.0)),
            deadline: Duration::from_secs_f64(self.drain_deadline.clamp(0.0, 86_400.0)),
        }
    }

    /// Returns the node ID of a gateway of this role.
    pub fn node(&self, role: Role) -> Node {
        Node {
            role,
            ip: self.ip,
            pod: self.pod.clone(),
            namespace: self.namespace.clone(),
            cluster: self.cluster.clone(),
        }
    }

    /// Returns how the gateway enrols.
    pub fn enrolment(&self) -> enrol::Options {
        let mut controller = self.discovery_address.clone();
        if let Some(id) = &self.controller_identity {
            controller = controller.known_as(id.clone(), self.controller_issuer.clone());
        }
        let mut enrolment = enrol::Options::new(controller, &self.cluster);
        enrolment.token_path.clone_from(&self.token_path);
        enrolment.root_path.clone_from(&self.root_path);
        enrolment
    }
}
