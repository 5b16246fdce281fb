//! Accepting that does not end: a connection that is gone before it is accepted is skipped, a shortage of descriptors
//! or memory is waited out instead of spun on.

use std::future::{Future as _, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep};

/// First wait after a shortage; doubled up to [`LONGEST_WAIT`] while it lasts.
const FIRST_WAIT: Duration = Duration::from_millis(5);
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// A listener and its present back-off.
#[derive(Debug)]
pub struct Acceptor {
    listener: TcpListener,
    wait: Option<Duration>,
    pulse: Pulse,
}

impl Acceptor {
    /// Takes a non-blocking listener, as [`listen`](super::listen) makes it, into the current runtime.
    pub fn new(listener: std::net::TcpListener) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::from_std(listener)?, wait: None, pulse: Pulse::default() })
    }

    /// The listener's own address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The next connection. Cancel-safe. An error is returned only where the listener itself
    /// is broken.
    pub async fn next(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        loop {
            let accepted = poll_fn(|cx| {
                self.pulse.poll(cx);
                self.listener.poll_accept(cx)
            });
            match accepted.await {
                Ok((stream, peer)) => {
                    self.wait = None;
                    self.pulse.beat();
                    return Ok((stream, peer));
                }
                Err(error) => match accept_back_off(&error, self.wait) {
                    Some(Duration::ZERO) => {}
                    Some(wait) => {
                        tracing::warn!(%error, wait_ms = wait.as_millis() as u64, "cannot accept connections, waiting");
                        self.wait = Some(wait);
                        tokio::time::sleep(wait).await;
                    }
                    None => return Err(error),
                },
            }
        }
    }
}

/// A timer that is nearer than any deadline of a connection, for as long as connections come.
///
/// For a timer that ends before all others, tokio wakes its driver: a write to an event descriptor, and a turn of the loop
/// to read it. Where connections come one at a time, that would be one for each of them, for its first deadline.
#[derive(Debug, Default)]
struct Pulse {
    timer: Option<Pin<Box<Sleep>>>,
    /// A connection came since it was set.
    busy: bool,
}

impl Pulse {
    /// Less than any deadline in use is long, even as coarse as tokio's wheel keeps it: one of five seconds may stand for
    /// nine tenths of a second until the wheel turns.
    const PERIOD: Duration = Duration::from_millis(500);

    /// A connection came.
    fn beat(&mut self) {
        self.busy = true;
        self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(Self::PERIOD)));
    }

    /// Sets the timer anew where it has ended, or rests if nothing came meanwhile.
    fn poll(&mut self, cx: &mut Context<'_>) {
        while let Some(timer) = &mut self.timer
            && timer.as_mut().poll(cx).is_ready()
        {
            match std::mem::take(&mut self.busy) {
                true => timer.as_mut().reset(Instant::now() + Self::PERIOD),
                false => self.timer = None,
            }
        }
    }
}

impl AsFd for Acceptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// How long to wait before accepting again after `error`, given the wait before; `None` where accepting again is
/// pointless.
pub fn accept_back_off(error: &io::Error, before: Option<Duration>) -> Option<Duration> {
    match error.raw_os_error()? {
        libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM => {
            Some(before.map_or(FIRST_WAIT, |wait| (wait * 2).min(LONGEST_WAIT)))
        }
        libc::EBADF | libc::EFAULT | libc::EINVAL | libc::ENOTSOCK | libc::EOPNOTSUPP => None,
        // accept(2): errors of the new connection are to be treated as if it had never been there.
        _ => Some(Duration::ZERO),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_pulse_goes_on_while_connections_come_and_rests_afterwards() {
        let mut pulse = Pulse::default();
        let look = async |pulse: &mut Pulse| {
            poll_fn(|cx| {
                pulse.poll(cx);
                std::task::Poll::Ready(())
            })
            .await;
            pulse.timer.as_ref().map(|timer| timer.deadline() - Instant::now())
        };
        assert_eq!(look(&mut pulse).await, None);
        pulse.beat();
        assert_eq!(look(&mut pulse).await, Some(Pulse::PERIOD));
        tokio::time::advance(Pulse::PERIOD - Duration::from_millis(10)).await;
        pulse.beat();
        assert_eq!(look(&mut pulse).await, Some(Duration::from_millis(10)));
        // Once more, because something came; then no more.
        tokio::time::advance(Duration::from_millis(20)).await;
        assert_eq!(look(&mut pulse).await, Some(Pulse::PERIOD));
        tokio::time::advance(Pulse::PERIOD * 2).await;
        assert_eq!(look(&mut pulse).await, None);
    }
}
