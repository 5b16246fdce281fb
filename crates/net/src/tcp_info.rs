//! The progress of a TCP connection, as the kernel reports it (`TCP_INFO`).
//!
//! `TCP_USER_TIMEOUT` would close connections whose peer has disappeared, but also connections whose peer reads slowly,
//! since it counts the time that data waits for a closed window. So a proxy reads the progress and decides by itself.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// The progress of sending on a TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpProgress {
    /// The number of consecutive retransmissions of the oldest unacknowledged data. The kernel waits at least 200 ms
    /// before the first retransmission and doubles the wait each time. Earlier tail loss probes are not counted.
    pub retransmits: u8,
    /// The time since the last transmission or retransmission.
    pub since_sent: Duration,
    /// The smoothed round trip time.
    pub round_trip: Duration,
}

impl TcpProgress {
    /// Returns whether the peer has not acknowledged the oldest data after `retransmits` retransmissions, although the
    /// time since the last one suffices for an acknowledgement.
    pub fn is_unanswered(&self, retransmits: u8) -> bool {
        /// A peer may delay an acknowledgement by up to 40 ms.
        const DELAYED: Duration = Duration::from_millis(50);
        self.retransmits >= retransmits && self.since_sent >= 2 * self.round_trip + DELAYED
    }
}

/// Returns the progress of a TCP socket.
///
/// # Errors
/// Returns an error if the descriptor is not a TCP socket.
pub fn progress(socket: &impl AsFd) -> io::Result<TcpProgress> {
    // SAFETY: `tcp_info` is plain integers, for which all zeroes are valid.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the descriptor is open during the call; the buffer is valid and writable, and the kernel writes at most
    // `length` bytes, its size.
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
    Ok(TcpProgress {
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
    fn an_acknowledgement_needs_time_to_arrive() {
        let progress = |retransmits, since_sent, round_trip| TcpProgress {
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
    fn a_working_connection_has_no_retransmissions() {
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
