//! Conversion of the policies of destinations.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use balance::{
    Algorithm, Distribution, FailoverPriority, LocalityPattern, LocalityPolicy, OutlierPolicy, Preference, Warmup,
};
use rustls_pki_types::ServerName;
use wire::discovery as message;
use wire::discovery::consistent_hash;

use super::{Client, Result, labels, port_number};
use crate::mesh::destination::{
    ClientTls, ConnectionPool, DestinationPolicy, HashCookie, HashKey, Keepalive, LoadBalancing, LocalityRules,
    OriginatedTls, PortPolicies, ProxyProtocol, RetryBudget, SubsetPolicy, Tunnel,
};
use crate::mesh::model::Subset;
use crate::mesh::traffic::TrafficPolicy;

/// The policies of a host for clients that meet a condition each, the first that applies first.
#[derive(Debug, Default)]
pub(in crate::mesh) struct DestinationVariants(Vec<(Option<message::ClientMatch>, Arc<DestinationPolicy>)>);

impl DestinationVariants {
    /// Returns the policy for a pod.
    pub(in crate::mesh) fn policy_for(&self, client: &Client) -> Arc<DestinationPolicy> {
        let found = self.0.iter().find(|(condition, _)| client.meets(condition.as_ref()));
        found.map(|(_, policy)| policy.clone()).unwrap_or_default()
    }
}

/// Converts the policies of a host.
pub(in crate::mesh) fn destination(message: &message::DestinationPolicy) -> Result<DestinationVariants> {
    let variant = |variant: &message::DestinationVariant| {
        let subset = |subset: &message::DestinationSubset| {
            Ok(SubsetPolicy {
                subset: Subset { name: subset.name.as_str().into(), labels: labels(&subset.labels) },
                policies: policies(subset.policy.as_ref(), &subset.ports)?,
            })
        };
        let policy = DestinationPolicy {
            sources: variant.sources.iter().map(|source| source.as_str().into()).collect(),
            policies: policies(variant.policy.as_ref(), &variant.ports)?,
            subsets: variant.subsets.iter().map(subset).collect::<Result<_>>()?,
        };
        Ok((variant.client.clone(), Arc::new(policy)))
    };
    message.variants.iter().map(variant).collect::<Result<_>>().map(DestinationVariants)
}

fn policies(
    policy: Option<&message::TrafficPolicy>,
    ports: &BTreeMap<u32, message::TrafficPolicy>,
) -> Result<PortPolicies> {
    let default = message::TrafficPolicy::default();
    let of_port = |(port, policy): (&u32, _)| Ok((port_number(*port)?, Arc::new(traffic(policy)?)));
    Ok(PortPolicies {
        policy: Arc::new(traffic(policy.unwrap_or(&default))?),
        ports: ports.iter().map(of_port).collect::<Result<_>>()?,
    })
}

fn traffic(message: &message::TrafficPolicy) -> Result<TrafficPolicy> {
    Ok(TrafficPolicy {
        balancing: message.load_balancer.as_ref().map(balancing).transpose()?.unwrap_or_default(),
        pool: message.connection_pool.as_ref().map(pool).unwrap_or_default(),
        outlier_detection: message.outlier_detection.as_ref().map(outlier_detection),
        tls: message.tls.as_ref().map(tls).transpose()?.unwrap_or_default(),
        tunnel: message.tunnel.as_ref().map(tunnel).transpose()?,
        proxy_protocol: message.proxy_protocol.as_ref().map(proxy_protocol).transpose()?,
        retry_budget: message.retry_budget.as_ref().map(retry_budget),
        ..TrafficPolicy::default()
    })
}

fn balancing(message: &message::LoadBalancer) -> Result<LoadBalancing> {
    use message::LoadBalancerAlgorithm as Known;
    let simple = message.algorithm();
    let mut balancing = LoadBalancing {
        algorithm: match simple {
            Known::Unspecified | Known::LeastRequest | Known::Passthrough => Algorithm::LeastRequest,
            Known::RoundRobin => Algorithm::RoundRobin,
            Known::Random => Algorithm::Random,
        },
        passthrough: simple == Known::Passthrough,
        hash: None,
        warmup: message.warm_up.as_ref().map(|warmup| Warmup {
            duration: Duration::from_millis(warmup.duration_ms),
            minimum_percent: warmup.minimum_percent,
            aggression: warmup.aggression,
        }),
        locality: message.locality.as_ref().map(locality),
    };
    if let Some(hash) = &message.consistent_hash {
        balancing.passthrough = false;
        balancing.hash = hash.key.as_ref().map(hash_key).transpose()?;
        let size = |size: u64, default| match u32::try_from(size).unwrap_or(u32::MAX) {
            0 => default,
            size => size,
        };
        balancing.algorithm = match hash.algorithm {
            Some(consistent_hash::Algorithm::MaglevSize(table)) => {
                Algorithm::Maglev { table_size: size(table, 65_537) }
            }
            Some(consistent_hash::Algorithm::RingSize(ring)) => Algorithm::RingHash { minimum_size: size(ring, 1024) },
            None => Algorithm::RingHash { minimum_size: 1024 },
        };
    }
    Ok(balancing)
}

fn hash_key(key: &consistent_hash::Key) -> Result<HashKey> {
    Ok(match key {
        consistent_hash::Key::Header(name) => {
            HashKey::Header(name.parse().map_err(|_| format!("{name:?} is not the name of a header"))?)
        }
        consistent_hash::Key::Cookie(cookie) => HashKey::Cookie(Arc::new(HashCookie {
            name: cookie.name.as_str().into(),
            path: cookie.path.as_str().into(),
            ttl: cookie.ttl_ms.map(Duration::from_millis),
            attributes: cookie
                .attributes
                .iter()
                .map(|of| (of.name.as_str().into(), of.value.as_str().into()))
                .collect(),
        })),
        consistent_hash::Key::SourceIp(_) => HashKey::SourceAddress,
        consistent_hash::Key::QueryParameter(name) => HashKey::QueryParameter(name.as_str().into()),
    })
}

fn locality(message: &message::LocalityPolicy) -> LocalityRules {
    let priority = FailoverPriority::parse(message.failover_priority.iter().map(String::as_str));
    let preference = match (message.disabled, priority.is_empty(), message.failover.is_empty()) {
        (true, _, _) => Preference::Off,
        (_, true, _) => Preference::Distance,
        (_, false, true) => Preference::Priority,
        (_, false, false) => Preference::PriorityThenDistance,
    };
    let distribution = |entry: &message::Distribute| Distribution {
        from: LocalityPattern::parse(&entry.from),
        to: entry.to.iter().map(|(to, weight)| (LocalityPattern::parse(to), (*weight).min(100))).collect(),
    };
    let policy = LocalityPolicy {
        preference,
        failover: message.failover.iter().map(|of| (of.from.as_str().into(), of.to.as_str().into())).collect(),
        distribute: message.distribute.iter().map(distribution).collect(),
    };
    LocalityRules { policy, priority }
}

/// Returns a number that is set. Istio takes 0 for unset.
fn set(number: u32) -> Option<u32> {
    (number > 0).then_some(number)
}

fn millis(millis: u64) -> Option<Duration> {
    (millis > 0).then(|| Duration::from_millis(millis))
}

fn pool(message: &message::ConnectionPool) -> ConnectionPool {
    let seconds = |seconds| set(seconds).map(|seconds| Duration::from_secs(seconds.into()));
    let keepalive = |keepalive: &message::TcpKeepalive| Keepalive {
        probes: set(keepalive.probes),
        time: seconds(keepalive.time_s),
        interval: seconds(keepalive.interval_s),
    };
    ConnectionPool {
        max_connections: set(message.max_connections),
        max_pending_requests: message.http1_max_pending_requests.and_then(set),
        max_requests: message.http2_max_requests.and_then(set),
        max_retries: message.max_retries.and_then(set),
        max_requests_per_connection: set(message.max_requests_per_connection),
        connect_timeout: millis(message.connect_timeout_ms),
        keepalive: message.tcp_keepalive.as_ref().map(keepalive),
        max_connection_duration: millis(message.max_connection_duration_ms),
        tcp_idle_timeout: message.tcp_idle_timeout_ms.map(Duration::from_millis),
        http_idle_timeout: message.http_idle_timeout_ms.and_then(millis),
        h2_upgrade: message.h2_upgrade,
        use_client_protocol: message.use_client_protocol,
        max_concurrent_streams: set(message.max_concurrent_streams),
        // Envoy's default timeout of a configured interval is 20 s in Istio.
        http2_keepalive: millis(message.http2_keepalive_interval_ms)
            .map(|interval| (interval, millis(message.http2_keepalive_timeout_ms).unwrap_or(Duration::from_secs(20)))),
    }
}

fn outlier_detection(message: &message::OutlierDetection) -> OutlierPolicy {
    let default = OutlierPolicy::default();
    OutlierPolicy {
        consecutive_5xx: message.consecutive_5xx_errors.unwrap_or(default.consecutive_5xx),
        consecutive_gateway_errors: message.consecutive_gateway_errors.unwrap_or(default.consecutive_gateway_errors),
        split_local_origin: message.split_external_local_origin_errors,
        consecutive_local_origin_failures: message
            .consecutive_local_origin_failures
            .and_then(set)
            .unwrap_or(default.consecutive_local_origin_failures),
        interval: millis(message.interval_ms).unwrap_or(default.interval),
        base_ejection_time: millis(message.base_ejection_time_ms).unwrap_or(default.base_ejection_time),
        max_ejection_percent: message.max_ejection_percent.and_then(set).unwrap_or(default.max_ejection_percent),
        min_health_percent: message.min_health_percent,
    }
}

fn tls(message: &message::ClientTls) -> Result<ClientTls> {
    use message::ClientTlsMode as Mode;
    let some = |text: &String| (!text.is_empty()).then(|| Box::from(text.as_str()));
    Ok(match message::ClientTlsMode::try_from(message.mode) {
        Ok(Mode::Auto) => ClientTls::Auto,
        Ok(Mode::Disable) => ClientTls::Disable,
        Ok(Mode::IstioMutual) => {
            // With what is no server name, connections fail, and the rest of the policy is in force.
            let sni = some(&message.sni).and_then(|name: Box<str>| {
                ServerName::try_from(name.to_string()).or_else(|_| "invalid.invalid".try_into()).ok()
            });
            // A name that is no identity of the mesh matches no workload.
            let identities = message.subject_alt_names.iter().filter_map(|name| name.parse().ok()).collect();
            let identities = (!message.subject_alt_names.is_empty()).then_some(identities);
            ClientTls::Mesh { sni, identities }
        }
        Ok(mode @ (Mode::Simple | Mode::Mutual)) => {
            let client = match (some(&message.client_certificate), some(&message.private_key)) {
                (Some(certificate), Some(key)) => Some((certificate, key)),
                // Without the files, as with a credential of Kubernetes, connections fail. To refuse the policy would leave
                // them as they are without it: in plaintext.
                _ if mode == Mode::Mutual => Some((Box::default(), Box::default())),
                _ => None,
            };
            ClientTls::Originate(Arc::new(OriginatedTls {
                client,
                authorities: some(&message.ca_certificates),
                revoked: some(&message.ca_crl),
                names: message.subject_alt_names.iter().map(|name| name.as_str().into()).collect(),
                sni: some(&message.sni),
                insecure: message.insecure_skip_verify,
            }))
        }
        Err(_) => return Err(format!("{} is not a TLS mode", message.mode)),
    })
}

fn tunnel(message: &message::Tunnel) -> Result<Tunnel> {
    let host = &message.target_host;
    let port = port_number(message.target_port)?;
    let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.clone() };
    let target = format!("{host}:{port}");
    let _: http::uri::Authority = target.parse().map_err(|_| format!("{target:?} is not a host and a port"))?;
    Ok(Tunnel { post: message.post, target: target.into() })
}

fn proxy_protocol(message: &message::ProxyProtocol) -> Result<ProxyProtocol> {
    match message.version {
        0 | 1 => Ok(ProxyProtocol::V1),
        2 => Ok(ProxyProtocol::V2),
        version => Err(format!("{version} is not a version of the PROXY protocol")),
    }
}

fn retry_budget(message: &message::RetryBudget) -> RetryBudget {
    RetryBudget { percent: message.percent.clamp(0.0, 100.0), min_retries: message.min_retry_concurrency }
}

#[cfg(test)]
mod tests;
