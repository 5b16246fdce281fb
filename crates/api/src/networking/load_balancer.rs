//! How endpoints are picked.

use std::collections::BTreeMap;
use std::time::Duration;

use super::json::{message, words};

message! {
    /// How endpoints are picked.
    LoadBalancer {
        /// The algorithm. Exclusive with `consistent_hash`.
        simple: Option<SimpleLb> = "simple",
        /// Consistent hashing.
        consistent_hash: Option<ConsistentHash> = "consistentHash",
        /// Preferences of localities; unset: the mesh's.
        locality_lb_setting: Option<LocalityLb> = "localityLbSetting",
        /// Preferences of zones by their capacity.
        zone_aware_lb_setting: Option<ZoneAwareLb> = "zoneAwareLbSetting",
        /// Deprecated: the duration of `warmup`.
        warmup_duration_secs: Option<Duration> = "warmupDurationSecs",
        /// The time in which new endpoints reach their share.
        warmup: Option<Warmup> = "warmup",
    }
}

words! {
    /// The algorithm that picks endpoints.
    SimpleLb {
        /// The endpoint with fewer requests in progress, of two.
        #[default]
        Unspecified = "UNSPECIFIED",
        /// Deprecated: the former name of `LEAST_REQUEST`.
        LeastConn = "LEAST_CONN",
        /// Any.
        Random = "RANDOM",
        /// The address to which the client connected.
        Passthrough = "PASSTHROUGH",
        /// One after the other.
        RoundRobin = "ROUND_ROBIN",
        /// The endpoint with fewer requests in progress, of two.
        LeastRequest = "LEAST_REQUEST",
    }
}

message! {
    /// Consistent hashing: requests with the same key go to the same endpoint. One key, one algorithm.
    ConsistentHash {
        /// The key is a header.
        http_header_name: Option<String> = "httpHeaderName",
        /// The key is a cookie.
        http_cookie: Option<HttpCookie> = "httpCookie",
        /// The key is the client's address.
        use_source_ip: Option<bool> = "useSourceIp",
        /// The key is a parameter of the query.
        http_query_parameter_name: Option<String> = "httpQueryParameterName",
        /// The algorithm is a ring.
        ring_hash: Option<RingHash> = "ringHash",
        /// The algorithm is Maglev.
        maglev: Option<Maglev> = "maglev",
        /// Deprecated: that of `ring_hash`.
        minimum_ring_size: u64 = "minimumRingSize",
    }
}

message! {
    /// The cookie with the key. It is set if it has a `ttl` and the request does not have it.
    HttpCookie {
        /// The name.
        name: String = "name",
        /// The path.
        path: String = "path",
        /// The time for which it is valid; zero: the session.
        ttl: Option<Duration> = "ttl",
        /// Further attributes.
        attributes: Vec<CookieAttribute> = "attributes",
    }
}

message! {
    /// An attribute of a cookie.
    CookieAttribute {
        /// The name.
        name: String = "name",
        /// The value; empty: the name alone.
        value: String = "value",
    }
}

message! {
    /// A ring of hashes.
    RingHash {
        /// The number of places; 0: 1024.
        minimum_ring_size: u64 = "minimumRingSize",
    }
}

message! {
    /// A table of Maglev.
    Maglev {
        /// The size, a prime number; 0: 65537.
        table_size: u64 = "tableSize",
    }
}

message! {
    /// Preferences of localities.
    LocalityLb {
        /// The shares of localities. Exclusive with `failover`.
        distribute: Vec<Distribute> = "distribute",
        /// Where requests go from a region without healthy endpoints.
        failover: Vec<Failover> = "failover",
        /// The labels, `key` or `key=value`, of which endpoints have the more the better.
        failover_priority: Vec<String> = "failoverPriority",
        /// Whether localities are preferred; unset: yes.
        enabled: Option<bool> = "enabled",
    }
}

message! {
    /// The shares of localities, for clients of a locality.
    Distribute {
        /// The clients' locality, such as `region/zone/*`.
        from: String = "from",
        /// The share of each locality. They add up to 100.
        to: BTreeMap<String, u32> = "to",
    }
}

message! {
    /// Where requests go from a region without healthy endpoints.
    Failover {
        /// The clients' region.
        from: String = "from",
        /// The other region.
        to: String = "to",
    }
}

message! {
    /// Preferences of zones by their capacity.
    ZoneAwareLb {
        /// Whether zones are preferred.
        enabled: Option<bool> = "enabled",
        /// Where requests go from a region without healthy endpoints.
        failover: Vec<Failover> = "failover",
        /// The labels of which endpoints have the more the better.
        failover_priority: Vec<String> = "failoverPriority",
        /// The number of endpoints below which zones have no effect; 0: 6.
        min_cluster_size: u32 = "minClusterSize",
    }
}

message! {
    /// The time in which new endpoints reach their share.
    Warmup {
        /// The time.
        duration: Option<Duration> = "duration",
        /// The share at the beginning, in percent; unset: 10.
        minimum_percent: Option<f64> = "minimumPercent",
        /// How fast the share grows; unset: 1.0, linear.
        aggression: Option<f64> = "aggression",
    }
}
