//! Load balancing.

use super::{Check, envoy, locality};
use crate::networking::load_balancer::{ConsistentHash, LoadBalancer, Warmup};

/// Tables of Maglev have fewer places.
const MAGLEV_LIMIT: u64 = 5_000_011;
/// Rings of Envoy have at most this number of places.
const MAX_RING: u64 = 8 << 20;

pub(super) fn check(balancer: &LoadBalancer, check: &mut Check) {
    check.one_of(&[("simple", balancer.simple.is_some()), ("consistentHash", balancer.consistent_hash.is_some())]);
    check.one_of(&[
        ("localityLbSetting", balancer.locality_lb_setting.is_some()),
        ("zoneAwareLbSetting", balancer.zone_aware_lb_setting.is_some()),
    ]);
    check.some("consistentHash", &balancer.consistent_hash, hash);
    check.some("localityLbSetting", &balancer.locality_lb_setting, locality::check);
    check.some("zoneAwareLbSetting", &balancer.zone_aware_lb_setting, locality::zones);
    check.duration("warmupDurationSecs", balancer.warmup_duration_secs);
    if balancer.warmup_duration_secs.is_some() {
        check
            .warn_of("warmupDurationSecs", "is deprecated; use warmup.duration, which takes its place if both are set");
    }
    check.some("warmup", &balancer.warmup, warmup);
}

fn hash(hash: &ConsistentHash, check: &mut Check) {
    let keys = [
        ("httpHeaderName", hash.http_header_name.is_some()),
        ("httpCookie", hash.http_cookie.is_some()),
        ("useSourceIp", hash.use_source_ip.is_some()),
        ("httpQueryParameterName", hash.http_query_parameter_name.is_some()),
    ];
    check.one_of(&keys);
    if keys.iter().all(|(_, set)| !set) {
        check.warn("has no key, so endpoints are picked at random; write httpHeaderName, httpCookie or another key");
    }
    envoy::hash_key("httpHeaderName", &hash.http_header_name, true, check);
    envoy::hash_key("httpQueryParameterName", &hash.http_query_parameter_name, false, check);
    check.some("httpCookie", &hash.http_cookie, |cookie, check| {
        if cookie.name.is_empty() {
            check.error_of("name", "is missing; name the cookie");
        }
    });
    check.one_of(&[
        ("ringHash", hash.ring_hash.is_some()),
        ("maglev", hash.maglev.is_some()),
        ("minimumRingSize", hash.minimum_ring_size != 0),
    ]);
    if hash.minimum_ring_size != 0 {
        check.warn_of("minimumRingSize", "is deprecated; use ringHash.minimumRingSize");
    }
    ring(check, "minimumRingSize", hash.minimum_ring_size);
    check.some("ringHash", &hash.ring_hash, |of, check| ring(check, "minimumRingSize", of.minimum_ring_size));
    check.some("maglev", &hash.maglev, |maglev, check| {
        let size = maglev.table_size;
        if size >= MAGLEV_LIMIT || !is_prime(size) {
            check.error_of(
                "tableSize",
                format!("is {size}, but must be a prime number below {MAGLEV_LIMIT}, such as 65537"),
            );
        }
    });
}

fn ring(check: &mut Check, field: &str, size: u64) {
    if size > MAX_RING {
        check.warn_of(field, format!("is {size}; rings have at most {MAX_RING} places"));
    }
}

/// Returns whether a number is prime. The number of steps grows with its square root.
fn is_prime(number: u64) -> bool {
    number >= 2 && (2..).take_while(|factor| factor * factor <= number).all(|factor| !number.is_multiple_of(factor))
}

fn warmup(warmup: &Warmup, check: &mut Check) {
    if warmup.duration.is_none() {
        check.error_of("duration", "is missing; write the time in which new endpoints reach their share");
    }
    check.duration("duration", warmup.duration);
    if let Some(percent) = warmup.minimum_percent
        && !(0.0..=100.0).contains(&percent)
    {
        check.error_of("minimumPercent", format!("is {percent}, but must be from 0 to 100"));
    }
    if let Some(aggression) = warmup.aggression
        && (aggression.is_nan() || aggression <= 0.0)
    {
        check.error_of("aggression", format!("is {aggression}, but must be more than 0"));
    }
}
