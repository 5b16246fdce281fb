//! The addresses from which keys are fetched. Whoever may write a policy chooses the URL, and the controller may reach
//! what that person does not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Returns whether keys are fetched from an address: one that is public, or permitted by the controller's options.
pub(super) fn is_permitted(ip: IpAddr, permitted: &[IpNet]) -> bool {
    let ip = ip.to_canonical();
    if permitted.iter().any(|net| net.contains(&ip)) {
        return true;
    }
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

/// Not one of the special-purpose addresses of IANA's registry.
fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let special = ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_multicast()
        || ip.is_documentation()
        || a == 0
        || (a == 100 && b & 0xC0 == 64)
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && b & 0xFE == 18)
        || a >= 240;
    !special
}

/// Global unicast (2000::/3) without documentation, and without addresses that embed one of IPv4.
fn is_public_v6(ip: Ipv6Addr) -> bool {
    let segments = ip.segments();
    let embeds = segments[0] == 0x2002 || (segments[0] == 0x2001 && segments[1] == 0);
    let documentation = (segments[0] == 0x2001 && segments[1] == 0xDB8) || segments[0] == 0x3FFF;
    let benchmarking = segments[0] == 0x2001 && segments[1] == 2;
    segments[0] & 0xE000 == 0x2000 && !embeds && !documentation && !benchmarking
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_from_public_addresses_and_from_those_that_are_permitted() {
        let permitted = |ip: &str, nets: &[&str]| {
            let nets: Vec<IpNet> = nets.iter().map(|net| net.parse().unwrap()).collect();
            is_permitted(ip.parse().unwrap(), &nets)
        };
        for public in ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "198.17.0.1"] {
            assert!(permitted(public, &[]), "{public}");
        }
        for other in [
            "127.0.0.1",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "192.0.0.1",
            "198.18.0.1",
            "203.0.113.1",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "fd00:ec2::254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "2001:db8::1",
            "::ffff:127.0.0.1",
            "ff02::1",
        ] {
            assert!(!permitted(other, &[]), "{other}");
        }
        assert!(permitted("10.1.2.3", &["10.0.0.0/8"]) && permitted("::ffff:10.1.2.3", &["10.0.0.0/8"]));
        assert!(!permitted("169.254.169.254", &["10.0.0.0/8"]));
    }
}
