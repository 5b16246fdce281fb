//! DNS questions from pods, with programs that every machine has.

use crate::support::Lab;

/// The number of the type SRV.
pub(super) const SRV: u16 = 33;

/// An answer of a DNS server.
#[derive(Debug, PartialEq)]
pub(super) struct DnsReply {
    /// The response code; 3: the name does not exist.
    pub(super) code: u8,
    /// The number of records in the answer section.
    pub(super) count: u16,
    pub(super) bytes: Vec<u8>,
}

/// Returns the IPv4 addresses of a name, sorted.
pub(super) fn addresses(lab: &Lab, target: &str, name: &str) -> Vec<String> {
    let text = lab.exec(target, &["getent", "ahostsv4", name]).stdout;
    let mut found: Vec<String> =
        text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
    found.sort();
    found.dedup();
    found
}

/// Asks the cluster's DNS server. `dd` sends the packet, since `printf` alone sends a packet for each line.
pub(super) fn ask(lab: &Lab, target: &str, name: &str, kind: u16) -> DnsReply {
    let mut packet = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        packet.push(u8::try_from(label.len()).expect("a label"));
        packet.extend_from_slice(label.as_bytes());
    }
    packet.push(0);
    packet.extend_from_slice(&kind.to_be_bytes());
    packet.extend_from_slice(&[0, 1]);
    let escaped: String = packet.iter().map(|byte| format!("\\x{byte:02x}")).collect();
    let script = format!(
        "exec 3<>/dev/udp/10.96.0.10/53; printf '{escaped}' | dd bs=512 iflag=fullblock >&3 2>/dev/null; \
         timeout 3 dd bs=4096 count=1 <&3 2>/dev/null | od -An -v -tx1"
    );
    let text = lab.exec(target, &["bash", "-c", &script]).stdout;
    let bytes: Vec<u8> = text.split_whitespace().filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    let at = |index: usize| bytes.get(index).copied().unwrap_or_default();
    DnsReply { code: at(3) & 0xf, count: u16::from_be_bytes([at(6), at(7)]), bytes }
}
