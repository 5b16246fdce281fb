//! How endpoints are picked.

use api::networking::load_balancer::{ConsistentHash, HttpCookie, LoadBalancer, LocalityLb, SimpleLb};
use wire::discovery;
use wire::discovery::consistent_hash::{Algorithm, Key};

use super::http::ms;

/// Compiles the block.
pub(super) fn compile(of: &LoadBalancer) -> discovery::LoadBalancer {
    use discovery::LoadBalancerAlgorithm as Wire;
    let algorithm = match of.simple {
        None | Some(SimpleLb::Unspecified) => Wire::Unspecified,
        Some(SimpleLb::LeastConn | SimpleLb::LeastRequest) => Wire::LeastRequest,
        Some(SimpleLb::RoundRobin) => Wire::RoundRobin,
        Some(SimpleLb::Random) => Wire::Random,
        Some(SimpleLb::Passthrough) => Wire::Passthrough,
    };
    let warmup = of.warmup.as_ref();
    let duration = warmup.and_then(|of| of.duration).or(of.warmup_duration_secs);
    discovery::LoadBalancer {
        algorithm: algorithm.into(),
        consistent_hash: of.consistent_hash.as_ref().map(consistent_hash),
        locality: of.locality_lb_setting.as_ref().map(locality),
        warm_up: duration.map(|duration| discovery::WarmUp {
            duration_ms: ms(duration),
            minimum_percent: warmup.and_then(|of| of.minimum_percent).unwrap_or(10.0),
            aggression: warmup.and_then(|of| of.aggression).unwrap_or(1.0),
        }),
    }
}

fn consistent_hash(of: &ConsistentHash) -> discovery::ConsistentHash {
    // For a name that no header has, proxies would refuse the whole policy.
    let header = of.http_header_name.clone().filter(|name| http::HeaderName::from_bytes(name.as_bytes()).is_ok());
    let header = header.map(Key::Header);
    let cookie = of.http_cookie.as_ref().map(|of| Key::Cookie(cookie(of)));
    let source = (of.use_source_ip == Some(true)).then_some(Key::SourceIp(true));
    let query = of.http_query_parameter_name.clone().map(Key::QueryParameter);
    let ring = of.ring_hash.as_ref().map(|ring| ring.minimum_ring_size);
    let deprecated = (of.minimum_ring_size > 0).then_some(of.minimum_ring_size);
    let algorithm = match &of.maglev {
        Some(maglev) => Some(Algorithm::MaglevSize(maglev.table_size)),
        None => ring.or(deprecated).map(Algorithm::RingSize),
    };
    discovery::ConsistentHash { key: header.or(cookie).or(source).or(query), algorithm }
}

fn cookie(of: &HttpCookie) -> discovery::HashCookie {
    let attributes = of.attributes.iter();
    discovery::HashCookie {
        name: of.name.clone(),
        path: of.path.clone(),
        ttl_ms: of.ttl.map(ms),
        attributes: attributes
            .map(|of| discovery::HashCookieAttribute { name: of.name.clone(), value: of.value.clone() })
            .collect(),
    }
}

fn locality(of: &LocalityLb) -> discovery::LocalityPolicy {
    if of.enabled == Some(false) {
        return discovery::LocalityPolicy { disabled: true, ..Default::default() };
    }
    let distribute = of.distribute.iter();
    let failover = of.failover.iter();
    discovery::LocalityPolicy {
        disabled: false,
        distribute: distribute.map(|of| discovery::Distribute { from: of.from.clone(), to: of.to.clone() }).collect(),
        failover: failover.map(|of| discovery::RegionFailover { from: of.from.clone(), to: of.to.clone() }).collect(),
        failover_priority: of.failover_priority.clone(),
    }
}
