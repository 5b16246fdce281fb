//! The policies of connections to a host.

use std::time::Duration;

use super::json::{message, words};
use super::load_balancer::LoadBalancer;
use super::virtual_service::PortSelector;

message! {
    /// The policy of connections to a host.
    TrafficPolicy {
        /// How endpoints are picked.
        load_balancer: Option<LoadBalancer> = "loadBalancer",
        /// The limits of connections and requests.
        connection_pool: Option<ConnectionPool> = "connectionPool",
        /// When endpoints are ejected.
        outlier_detection: Option<OutlierDetection> = "outlierDetection",
        /// TLS of connections.
        tls: Option<ClientTls> = "tls",
        /// What takes the place of the whole policy on some ports.
        port_level_settings: Vec<PortTrafficPolicy> = "portLevelSettings",
        /// The tunnel through which connections go.
        tunnel: Option<Tunnel> = "tunnel",
        /// The PROXY protocol.
        proxy_protocol: Option<ProxyProtocol> = "proxyProtocol",
        /// The number of retries that are in progress.
        retry_budget: Option<RetryBudget> = "retryBudget",
    }
}

message! {
    /// The policy of connections to a port. It takes the place of the host's as a whole.
    PortTrafficPolicy {
        /// The port.
        port: Option<PortSelector> = "port",
        /// How endpoints are picked.
        load_balancer: Option<LoadBalancer> = "loadBalancer",
        /// The limits of connections and requests.
        connection_pool: Option<ConnectionPool> = "connectionPool",
        /// When endpoints are ejected.
        outlier_detection: Option<OutlierDetection> = "outlierDetection",
        /// TLS of connections.
        tls: Option<ClientTls> = "tls",
    }
}

message! {
    /// The limits of connections and requests.
    ConnectionPool {
        /// Of connections.
        tcp: Option<TcpPool> = "tcp",
        /// Of requests.
        http: Option<HttpPool> = "http",
    }
}

message! {
    /// The limits of connections.
    TcpPool {
        /// The number of connections; 0: 2^32-1.
        max_connections: i32 = "maxConnections",
        /// The time to connect.
        connect_timeout: Option<Duration> = "connectTimeout",
        /// Keepalive probes of TCP.
        tcp_keepalive: Option<TcpKeepalive> = "tcpKeepalive",
        /// The time for which a connection exists; unset: no limit.
        max_connection_duration: Option<Duration> = "maxConnectionDuration",
        /// The time without bytes after which a connection is closed; unset: 1h.
        idle_timeout: Option<Duration> = "idleTimeout",
    }
}

message! {
    /// Keepalive probes of TCP.
    TcpKeepalive {
        /// The number of probes without an answer; 0: the system's.
        probes: u32 = "probes",
        /// The idle time before the first probe.
        time: Option<Duration> = "time",
        /// The time between probes.
        interval: Option<Duration> = "interval",
    }
}

message! {
    /// The limits of requests.
    HttpPool {
        /// The number of requests that wait for a connection; 0: 2^32-1.
        http1_max_pending_requests: i32 = "http1MaxPendingRequests",
        /// The number of requests in progress; 0: 2^32-1.
        http2_max_requests: i32 = "http2MaxRequests",
        /// The number of requests of a connection; 0: no limit.
        max_requests_per_connection: i32 = "maxRequestsPerConnection",
        /// The number of retries in progress; 0: 2^32-1.
        max_retries: i32 = "maxRetries",
        /// The time without requests after which a connection is closed; unset: 1h.
        idle_timeout: Option<Duration> = "idleTimeout",
        /// Whether HTTP/1.1 is sent as HTTP/2.
        h2_upgrade_policy: H2UpgradePolicy = "h2UpgradePolicy",
        /// Whether the client's version of HTTP is kept.
        use_client_protocol: bool = "useClientProtocol",
        /// The number of streams of an HTTP/2 connection; 0: 2^31-1.
        max_concurrent_streams: i32 = "maxConcurrentStreams",
        /// Probes of HTTP/2 connections.
        http2_keep_alive: Option<Http2KeepAlive> = "http2KeepAlive",
    }
}

words! {
    /// Whether HTTP/1.1 is sent as HTTP/2.
    H2UpgradePolicy {
        /// As the mesh settings say.
        #[default]
        Default = "DEFAULT",
        /// It is not.
        DoNotUpgrade = "DO_NOT_UPGRADE",
        /// It is.
        Upgrade = "UPGRADE",
    }
}

message! {
    /// Probes of HTTP/2 connections.
    Http2KeepAlive {
        /// The time between probes.
        interval: Option<Duration> = "interval",
        /// The time for an answer.
        timeout: Option<Duration> = "timeout",
    }
}

message! {
    /// When endpoints are ejected.
    OutlierDetection {
        /// Deprecated: the former name of `consecutive_5xx_errors`. [`OutlierDetection::consecutive_5xx`] returns either.
        consecutive_errors: i32 = "consecutiveErrors",
        /// Whether failures to connect are counted apart from errors.
        split_external_local_origin_errors: bool = "splitExternalLocalOriginErrors",
        /// The number of failures to connect in a row; unset: 5.
        consecutive_local_origin_failures: Option<u32> = "consecutiveLocalOriginFailures",
        /// The number of statuses 502, 503 and 504 in a row; unset or 0: they do not count apart.
        consecutive_gateway_errors: Option<u32> = "consecutiveGatewayErrors",
        /// The number of statuses 5xx in a row; unset: 5, 0: they do not count.
        consecutive_5xx_errors: Option<u32> = "consecutive5xxErrors",
        /// The time between checks; unset: 10s.
        interval: Option<Duration> = "interval",
        /// The time of the first ejection; unset: 30s.
        base_ejection_time: Option<Duration> = "baseEjectionTime",
        /// The share of endpoints that may be ejected; 0: 10.
        max_ejection_percent: i32 = "maxEjectionPercent",
        /// The share of healthy endpoints below which all are used.
        min_health_percent: i32 = "minHealthPercent",
        /// The statuses that count as errors; empty: 5xx.
        http_error_codes: Vec<u32> = "outlierDetectionHttpErrorCodes",
    }
}

impl OutlierDetection {
    /// Returns the number of statuses 5xx in a row after which an endpoint is ejected: unset: 5, 0: they do not count.
    pub fn consecutive_5xx(&self) -> Option<u32> {
        let former = u32::try_from(self.consecutive_errors).ok().filter(|number| *number > 0);
        self.consecutive_5xx_errors.or(former)
    }
}

message! {
    /// TLS of connections to a host.
    ClientTls {
        /// The mode.
        mode: ClientTlsMode = "mode",
        /// The file with the client's certificate.
        client_certificate: String = "clientCertificate",
        /// The file with the client's key.
        private_key: String = "privateKey",
        /// The file with the certificates that sign the server's; empty: the system's.
        ca_certificates: String = "caCertificates",
        /// The Secret with the certificates.
        credential_name: String = "credentialName",
        /// The names of which the server's certificate has to have one.
        subject_alt_names: Vec<String> = "subjectAltNames",
        /// The server name to send.
        sni: String = "sni",
        /// Whether the server's certificate is not verified.
        insecure_skip_verify: Option<bool> = "insecureSkipVerify",
        /// The file with the revoked certificates.
        ca_crl: String = "caCrl",
    }
}

words! {
    /// The mode of TLS of connections to a host.
    ClientTlsMode {
        /// No TLS.
        #[default]
        Disable = "DISABLE",
        /// TLS without a certificate of the client.
        Simple = "SIMPLE",
        /// Mutual TLS with the certificate that is named.
        Mutual = "MUTUAL",
        /// Mutual TLS of the mesh.
        IstioMutual = "ISTIO_MUTUAL",
    }
}

message! {
    /// A tunnel through a proxy.
    Tunnel {
        /// `CONNECT` or `POST`; empty: `CONNECT`.
        protocol: String = "protocol",
        /// The host to which the proxy connects.
        target_host: String = "targetHost",
        /// The port to which the proxy connects.
        target_port: u32 = "targetPort",
    }
}

message! {
    /// The PROXY protocol.
    ProxyProtocol {
        /// The version.
        version: ProxyProtocolVersion = "version",
    }
}

words! {
    /// The version of the PROXY protocol.
    ProxyProtocolVersion {
        /// 1: text.
        #[default]
        V1 = "V1",
        /// 2: binary.
        V2 = "V2",
    }
}

message! {
    /// The number of retries that are in progress.
    RetryBudget {
        /// The share of requests in progress; unset: 20.
        percent: Option<f64> = "percent",
        /// The number that is always possible; 0: 3.
        min_retry_concurrency: u32 = "minRetryConcurrency",
        /// The time over which requests count; unset: only those in progress.
        budget_interval: Option<Duration> = "budgetInterval",
    }
}
