//! TCP sockets of other processes in the same network namespace, as those of a pod's containers are.

use std::collections::HashSet;
use std::fs;

/// States of `include/net/tcp_states.h` in which a socket is of use: `TCP_ESTABLISHED` and `TCP_LISTEN`.
const IN_USE: [&str; 2] = ["01", "0A"];

/// Returns whether another process of this network namespace listens, or has an open connection.
pub fn are_used_by_others() -> bool {
    let own: HashSet<String> = fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            fs::read_link(entry.ok()?.path()).ok()?.to_str()?.strip_prefix("socket:[").map(str::to_owned)
        })
        .filter_map(|rest| rest.strip_suffix(']').map(str::to_owned))
        .collect();
    ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"]
        .into_iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .any(|table| inodes_in_use(&table).any(|inode| !own.contains(inode)))
}

/// Returns the inodes of the sockets in a table of `proc(5)`. A socket without a process has the inode 0.
fn inodes_in_use(table: &str) -> impl Iterator<Item = &str> {
    table.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let state = fields.nth(3)?;
        // After the state: queues, timer, retransmissions, user and timeout.
        let inode = fields.nth(5)?;
        (IN_USE.contains(&state) && inode != "0").then_some(inode)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_that_are_in_use_are_found() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
             0: 00000000:2378 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 111 1 0000 100 0 0 10 0\n   \
             1: 0100007F:9C40 0100007F:2378 01 00000000:00000000 00:00000000 00000000  1337        0 222 1 0000 20 4 30 10 -1\n   \
             2: 0100007F:9C41 0100007F:2378 06 00000000:00000000 03:00000000 00000000     0        0 0 3 0000\n   \
             3: 0100007F:9C42 0100007F:2378 08 00000000:00000000 00:00000000 00000000     0        0 444 1 0000\n";
        assert_eq!(inodes_in_use(table).collect::<Vec<_>>(), ["111", "222"]);
    }
}
