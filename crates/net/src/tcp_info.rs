//! What the kernel knows of a connection's progress (`TCP_INFO`).
//!
//! `TCP_USER_TIMEOUT` would end a connection whose peer vanished, but also one whose peer merely reads slowly (it counts
//! the time that data waits for a closed window), so a proxy asks instead and decides for itself.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// How sending goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// How often in a row the oldest unacknowledged data was sent again without an answer. The kernel waits at least
    /// 200 ms before the first time and twice as long each time after. What it sends sooner, guessing at a lost tail, is
    /// not counted.
    pub retransmits: u8,
    /// Since anything was last sent, again or for the first time.
    pub since_sent: Duration,
    /// The smoothed round trip time.
    pub round_trip: Duration,
}

impl Progress {
    /// Whether the peer has not answered although the oldest data was sent again `retransmits` times, and the last of
    /// them long enough ago for an answer to be back.
    pub fn is_unanswered(&self, retransmits: u8) -> bool {
        /// A peer may hold an acknowledgement back for up to 40 ms.
        const DELAYED: Duration = Duration::from_millis(50);
        self.retransmits >= retransmits && self.since_sent >= 2 * self.round_trip + DELAYED
    }
}

/// Asks about a TCP socket.
pub fn progress(socket: &impl AsFd) -> io::Result<Progress> {
    // SAFETY: `tcp_info` is plain integers, for which all zeroes are valid.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the descriptor is open for the call's duration; the buffer is live, writable, and `length` is its size,
    // beyond which the kernel does not write.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Progress {
        retransmits: info.tcpi_retransmits,
        since_sent: Duration::from_millis(info.tcpi_last_data_sent.into()),
        round_trip: Duration::from_micros(info.tcpi_rtt.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn an_answer_must_have_had_time_to_come() {
        let progress = |retransmits, since_sent, round_trip| Progress {
            retransmits,
            since_sent: Duration::from_millis(since_sent),
            round_trip: Duration::from_millis(round_trip),
        };
        let table = [
            (progress(0, 9000, 1), false),
            (progress(1, 10, 1), false),
            (progress(1, 60, 1), true),
            (progress(1, 300, 150), false),
            (progress(1, 360, 150), true),
            (progress(2, 60, 1), true),
        ];
        for (progress, unanswered) in table {
            assert_eq!(progress.is_unanswered(1), unanswered, "{progress:?}");
        }
    }

    #[test]
    fn a_connection_that_works_retransmits_nothing() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(b"hello").unwrap();
        server.read_exact(&mut [0; 5]).unwrap();
        let progress = progress(&client).unwrap();
        assert_eq!(progress.retransmits, 0);
        assert!(progress.since_sent < Duration::from_secs(60));
        assert!(!progress.is_unanswered(1));
        assert!(super::progress(&std::fs::File::open("/dev/null").unwrap()).is_err());
    }
}
