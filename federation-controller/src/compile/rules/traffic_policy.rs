//! Policies of connections. What a rule leaves unset stays unset: proxies have the defaults.

use std::collections::BTreeSet;
use std::time::Duration;

use api::linkerd::annotations::FailureAccrual;
use api::networking::DestinationRuleSpec;
use api::networking::load_balancer::{LoadBalancer, SimpleLb};
use api::networking::traffic_policy::{
    ClientTls, ClientTlsMode, ConnectionPool, H2UpgradePolicy, OutlierDetection, PortTrafficPolicy, ProxyProtocol,
    ProxyProtocolVersion, RetryBudget, TrafficPolicy, Tunnel,
};
use wire::discovery;

use super::http::ms;
use super::{Host, Ports, load_balancer};
use crate::objects::{Key, Kind};

/// The blocks of a policy that are in force.
#[derive(Clone, Copy, Default)]
pub(super) struct Blocks<'a> {
    load_balancer: Option<&'a LoadBalancer>,
    connection_pool: Option<&'a ConnectionPool>,
    outlier_detection: Option<&'a OutlierDetection>,
    tls: Option<&'a ClientTls>,
    tunnel: Option<&'a Tunnel>,
    proxy_protocol: Option<&'a ProxyProtocol>,
    retry_budget: Option<&'a RetryBudget>,
}

impl<'a> Blocks<'a> {
    /// Compiles the blocks. Without outlier detection of a rule, annotations of the Service set it, else the mesh settings.
    pub(super) fn compile_with(self, accrual: Option<FailureAccrual>, mesh: Blocks<'_>) -> discovery::TrafficPolicy {
        let mut compiled = self.compile(mesh);
        if let Some(accrual) = accrual.filter(|_| self.outlier_detection.is_none()) {
            compiled.outlier_detection = Some(consecutive(accrual));
        }
        compiled
    }

    /// Returns the blocks of a policy, without those of its ports.
    pub(super) fn of(policy: Option<&'a TrafficPolicy>) -> Self {
        let Some(policy) = policy else { return Blocks::default() };
        Blocks {
            load_balancer: policy.load_balancer.as_ref(),
            connection_pool: policy.connection_pool.as_ref(),
            outlier_detection: policy.outlier_detection.as_ref(),
            tls: policy.tls.as_ref(),
            tunnel: policy.tunnel.as_ref(),
            proxy_protocol: policy.proxy_protocol.as_ref(),
            retry_budget: policy.retry_budget.as_ref(),
        }
    }

    /// Returns the blocks of a subset: its own in the places of these. `PASSTHROUGH` stays, as in Istio: what connects to the
    /// address of the client has no endpoints to pick from. A tunnel is not inherited.
    pub(super) fn of_subset(self, policy: Option<&'a TrafficPolicy>) -> Self {
        let of = Blocks::of(policy);
        let passthrough = self.load_balancer.filter(|of| of.simple == Some(SimpleLb::Passthrough));
        Blocks {
            load_balancer: passthrough.or(of.load_balancer).or(self.load_balancer),
            connection_pool: of.connection_pool.or(self.connection_pool),
            outlier_detection: of.outlier_detection.or(self.outlier_detection),
            tls: of.tls.or(self.tls),
            tunnel: of.tunnel,
            proxy_protocol: of.proxy_protocol.or(self.proxy_protocol),
            retry_budget: of.retry_budget.or(self.retry_budget),
        }
    }

    /// Returns the blocks on a port. The settings of a port inherit nothing but a tunnel, which is the listener's in Istio.
    pub(super) fn at_port(self, policy: Option<&'a TrafficPolicy>, port: u32) -> Self {
        match settings(policy, port) {
            Some(of) => Blocks { proxy_protocol: None, retry_budget: None, ..self.replaced(of) },
            None => self,
        }
    }

    /// Returns the blocks of a subset on a port, where these are in force without the subset. What its settings of the port
    /// cannot have is not the subset's then.
    pub(super) fn of_subset_at_port(self, policy: Option<&'a TrafficPolicy>, port: u32) -> Self {
        match settings(policy, port) {
            Some(of) => Blocks { tunnel: policy.and_then(|policy| policy.tunnel.as_ref()), ..self.replaced(of) },
            None => self.of_subset(policy),
        }
    }

    /// Returns the blocks with all those that settings of a port can have replaced.
    fn replaced(self, of: &'a PortTrafficPolicy) -> Self {
        Blocks {
            load_balancer: of.load_balancer.as_ref(),
            connection_pool: of.connection_pool.as_ref(),
            outlier_detection: of.outlier_detection.as_ref(),
            tls: of.tls.as_ref(),
            ..self
        }
    }

    /// Returns the policy on the wire, with the mesh's blocks in place of those that are unset.
    pub(super) fn compile(self, mesh: Blocks<'_>) -> discovery::TrafficPolicy {
        discovery::TrafficPolicy {
            load_balancer: self.load_balancer.map(load_balancer::compile),
            connection_pool: self.connection_pool.or(mesh.connection_pool).map(connection_pool),
            outlier_detection: self.outlier_detection.or(mesh.outlier_detection).map(outlier_detection),
            tls: self.tls.map(tls),
            tunnel: self.tunnel.map(|of| discovery::Tunnel {
                post: of.protocol.eq_ignore_ascii_case("POST"),
                target_host: of.target_host.clone(),
                target_port: of.target_port,
            }),
            proxy_protocol: self.proxy_protocol.map(|of| discovery::ProxyProtocol {
                version: match of.version {
                    ProxyProtocolVersion::V1 => 1,
                    ProxyProtocolVersion::V2 => 2,
                },
            }),
            retry_budget: self.retry_budget.map(|of| discovery::RetryBudget {
                percent: of.percent.unwrap_or(20.0),
                min_retry_concurrency: if of.min_retry_concurrency == 0 { 3 } else { of.min_retry_concurrency },
                budget_interval_ms: optional_ms(of.budget_interval),
            }),
        }
    }
}

/// Returns the settings of a port.
fn settings(policy: Option<&TrafficPolicy>, port: u32) -> Option<&PortTrafficPolicy> {
    policy?.port_level_settings.iter().find(|of| number(of) == Some(port))
}

/// Returns the ports with settings of their own, of those that a service has.
pub(super) fn ports(policy: Option<&TrafficPolicy>, of: &Ports) -> impl Iterator<Item = u32> {
    let settings = policy.into_iter().flat_map(|policy| &policy.port_level_settings);
    settings.filter_map(number).filter(|port| u16::try_from(*port).is_ok_and(|port| of.contains_key(&port)))
}

/// Notes what a DestinationRule says without effect on a host.
pub(super) fn note(host: &mut Host<'_>, rule: &Key, spec: &DestinationRuleSpec) {
    let policies = spec.subsets.iter().filter_map(|subset| subset.traffic_policy.as_ref()).chain(&spec.traffic_policy);
    let mut lacks: BTreeSet<String> = BTreeSet::new();
    for policy in policies {
        for port in policy.port_level_settings.iter().filter_map(number) {
            if !u16::try_from(port).is_ok_and(|port| host.ports.contains_key(&port)) {
                lacks.insert(format!("portLevelSettings of port {port}: {} has no such port", host.hostname));
            }
        }
        let ports =
            policy.port_level_settings.iter().map(|port| (&port.load_balancer, &port.outlier_detection, &port.tls));
        for (balancer, detection, tls) in ports.chain([(&policy.load_balancer, &policy.outlier_detection, &policy.tls)])
        {
            let without = [
                (
                    balancer.as_ref().is_some_and(|of| of.zone_aware_lb_setting.is_some()),
                    "zoneAwareLbSetting has no effect: use localityLbSetting",
                ),
                (
                    detection.as_ref().is_some_and(|of| !of.http_error_codes.is_empty()),
                    "outlierDetectionHttpErrorCodes has no effect: statuses from 500 count",
                ),
                (
                    tls.as_ref().is_some_and(|of| !of.credential_name.is_empty()),
                    "tls.credentialName has no effect: sidecars read certificates from files; use clientCertificate, privateKey and caCertificates",
                ),
            ];
            lacks.extend(without.into_iter().filter(|(set, _)| *set).map(|(_, text)| text.to_owned()));
        }
        if policy.tunnel.as_ref().is_some_and(|tunnel| tunnel.protocol.eq_ignore_ascii_case("POST")) {
            lacks.insert("tunnel by POST: connections are refused; use CONNECT".to_owned());
        }
        let budget = policy.retry_budget.as_ref().and_then(|budget| budget.budget_interval);
        if budget.is_some_and(|interval| !interval.is_zero()) {
            lacks.insert("retryBudget.budgetInterval has no effect: requests in progress count; remove it".to_owned());
        }
    }
    lacks.into_iter().for_each(|text| host.note(Kind::DestinationRule, rule, "IST0133", text));
}

fn number(of: &PortTrafficPolicy) -> Option<u32> {
    of.port.as_ref().map(|port| port.number)
}

fn optional_ms(duration: Option<Duration>) -> u64 {
    duration.map(ms).unwrap_or_default()
}

/// Returns a limit; 0 and less: none.
fn limit(number: i32) -> Option<u32> {
    u32::try_from(number).ok().filter(|number| *number > 0)
}

fn connection_pool(of: &ConnectionPool) -> discovery::ConnectionPool {
    let (tcp, http) = (of.tcp.as_ref(), of.http.as_ref());
    let keepalive = tcp.and_then(|tcp| tcp.tcp_keepalive.as_ref());
    let seconds = |duration: Option<Duration>| {
        duration.map_or(0, |duration| u32::try_from(duration.as_secs()).unwrap_or(u32::MAX))
    };
    let http2 = http.and_then(|http| http.http2_keep_alive.as_ref());
    discovery::ConnectionPool {
        max_connections: tcp.and_then(|tcp| limit(tcp.max_connections)).unwrap_or_default(),
        connect_timeout_ms: optional_ms(tcp.and_then(|tcp| tcp.connect_timeout)),
        tcp_keepalive: keepalive.map(|of| discovery::TcpKeepalive {
            probes: of.probes,
            time_s: seconds(of.time),
            interval_s: seconds(of.interval),
        }),
        max_connection_duration_ms: optional_ms(tcp.and_then(|tcp| tcp.max_connection_duration)),
        tcp_idle_timeout_ms: tcp.and_then(|tcp| tcp.idle_timeout).map(ms),
        http1_max_pending_requests: http.and_then(|http| limit(http.http1_max_pending_requests)),
        http2_max_requests: http.and_then(|http| limit(http.http2_max_requests)),
        max_requests_per_connection: http.and_then(|http| limit(http.max_requests_per_connection)).unwrap_or_default(),
        max_retries: http.and_then(|http| limit(http.max_retries)),
        http_idle_timeout_ms: http.and_then(|http| http.idle_timeout).map(ms),
        h2_upgrade: http.and_then(|http| match http.h2_upgrade_policy {
            H2UpgradePolicy::Default => None,
            H2UpgradePolicy::DoNotUpgrade => Some(false),
            H2UpgradePolicy::Upgrade => Some(true),
        }),
        use_client_protocol: http.is_some_and(|http| http.use_client_protocol),
        max_concurrent_streams: http.and_then(|http| limit(http.max_concurrent_streams)).unwrap_or_default(),
        http2_keepalive_interval_ms: optional_ms(http2.and_then(|of| of.interval)),
        http2_keepalive_timeout_ms: optional_ms(http2.and_then(|of| of.timeout)),
    }
}

/// Returns the outlier detection that is nearest to an ejection by consecutive failures: every endpoint may be ejected, and the
/// end of an ejection is looked for as often as the first one lasts.
fn consecutive(of: FailureAccrual) -> discovery::OutlierDetection {
    discovery::OutlierDetection {
        consecutive_5xx_errors: Some(of.max_failures),
        interval_ms: of.min_penalty_ms,
        base_ejection_time_ms: of.min_penalty_ms,
        max_ejection_percent: Some(100),
        ..discovery::OutlierDetection::default()
    }
}

fn outlier_detection(of: &OutlierDetection) -> discovery::OutlierDetection {
    discovery::OutlierDetection {
        split_external_local_origin_errors: of.split_external_local_origin_errors,
        consecutive_local_origin_failures: of.consecutive_local_origin_failures,
        consecutive_gateway_errors: of.consecutive_gateway_errors,
        consecutive_5xx_errors: of.consecutive_5xx(),
        interval_ms: optional_ms(of.interval),
        base_ejection_time_ms: optional_ms(of.base_ejection_time),
        max_ejection_percent: limit(of.max_ejection_percent),
        min_health_percent: limit(of.min_health_percent).unwrap_or_default(),
    }
}

fn tls(of: &ClientTls) -> discovery::ClientTls {
    let mode = match of.mode {
        ClientTlsMode::Disable => discovery::ClientTlsMode::Disable,
        ClientTlsMode::Simple => discovery::ClientTlsMode::Simple,
        ClientTlsMode::Mutual => discovery::ClientTlsMode::Mutual,
        ClientTlsMode::IstioMutual => discovery::ClientTlsMode::IstioMutual,
    };
    discovery::ClientTls {
        mode: mode.into(),
        client_certificate: of.client_certificate.clone(),
        private_key: of.private_key.clone(),
        ca_certificates: of.ca_certificates.clone(),
        ca_crl: of.ca_crl.clone(),
        subject_alt_names: of.subject_alt_names.clone(),
        sni: of.sni.clone(),
        insecure_skip_verify: of.insecure_skip_verify == Some(true),
    }
}
