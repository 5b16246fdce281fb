//! What protects the controller's ports from their clients: limits on connections and on work, by source.
//!
//! - [`gate`]: the open connections that have proved no identity. When all places are taken, the source with the most of
//!   them loses its oldest, so that no source can keep another one out.
//! - [`shares`]: work that is done for a few callers at a time, such as reading a review. A source waits for its own work.
//! - [`guarded`]: a connection that holds its place in the gate, and ends when it loses the place or takes too long.
//!
//! Memory and descriptors are bounded by the number of places, whatever the number of sources.

pub mod gate;
pub mod guarded;
pub mod shares;

use std::net::{IpAddr, Ipv6Addr};

/// Returns the address by which the connections of one source are counted: an IPv4 address, or the /64 of an IPv6 address,
/// of which one host can have every address.
pub fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_an_address_is_one_source() {
        let of = |text: &str| source_of(text.parse().unwrap()).to_string();
        assert_eq!(of("10.0.0.1"), "10.0.0.1");
        assert_eq!(of("::ffff:10.0.0.1"), "10.0.0.1");
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
    }
}
