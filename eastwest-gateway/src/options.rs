//! The command line.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use runtime::options::GatewayOptions;

/// Options of an east-west gateway.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// What all gateways have. It forwards to the services of its network.
    #[command(flatten)]
    pub gateway: GatewayOptions,
    /// Listen address for connections of other networks. May be repeated.
    #[arg(long, default_values_t = [SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 15443)])]
    pub listen: Vec<SocketAddr>,
    /// Idle timeout of connections, in seconds.
    #[arg(long, env = "ISTHMUS_IDLE_TIMEOUT_SECONDS", default_value_t = 3600)]
    pub idle_timeout: u32,
}
