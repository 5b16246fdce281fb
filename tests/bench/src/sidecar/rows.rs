//! The loads of the scenario.

use std::time::Duration;

use crate::load::{Protocol, Shape};

/// One load.
#[derive(Clone, Copy, Debug)]
pub struct LoadRow {
    /// The shape of the load.
    pub shape: Shape,
    /// The length of a closed loop's window, as a multiple of [`WINDOW`].
    pub closed: f64,
    /// The length of an open loop's window, as a multiple of [`WINDOW`].
    pub open: f64,
    /// Whether system calls are counted.
    pub counts_calls: bool,
    /// Whether the pair that only copies bytes is measured.
    pub beside_copy: bool,
}

impl LoadRow {
    /// Returns whether a system is measured under this load.
    pub fn measures(&self, system: &str) -> bool {
        self.beside_copy || system != "copy"
    }
}

/// The usual length of a window.
pub const WINDOW: Duration = Duration::from_millis(350);

const EMPTY: usize = 0;
const SMALL: usize = 1 << 10;
const MEDIUM: usize = 64 << 10;
const LARGE: usize = 1 << 20;
/// The length of a chat's or a sensor's message.
const FRAME: usize = 64;

/// The loads over HTTP/1.1 that budgets are about.
pub fn budgeted() -> [LoadRow; 2] {
    [32, 1].map(|connections| LoadRow {
        shape: Shape { protocol: Protocol::Http1, body: SMALL, connections },
        closed: 4.0,
        open: 4.0,
        counts_calls: true,
        beside_copy: true,
    })
}

/// All loads. Those that budgets are about come first, with longer windows.
pub fn all() -> Vec<LoadRow> {
    let matrix: [(Protocol, &[usize]); 6] = [
        (Protocol::Http1, &[EMPTY, SMALL, MEDIUM, LARGE]),
        (Protocol::Http2, &[EMPTY, SMALL, MEDIUM, LARGE]),
        (Protocol::GrpcUnary, &[EMPTY, SMALL, MEDIUM]),
        (Protocol::GrpcStream, &[FRAME, SMALL, MEDIUM]),
        (Protocol::Tcp, &[SMALL, MEDIUM, LARGE]),
        (Protocol::NewConnection, &[EMPTY, SMALL]),
    ];
    let mut rows: Vec<LoadRow> = budgeted().into();
    for (protocol, bodies) in matrix {
        for &body in bodies {
            for connections in [1, 16, 256] {
                let shape = Shape { protocol, body, connections };
                if rows.iter().all(|row| row.shape != shape) {
                    let smallest = body == if protocol == Protocol::GrpcStream { FRAME } else { SMALL };
                    let counts_calls = smallest && connections == 16;
                    rows.push(LoadRow { shape, closed: 1.0, open: 1.0, counts_calls, beside_copy: false });
                }
            }
        }
    }
    rows
}

/// The loads of a quick run.
pub fn quick() -> Vec<LoadRow> {
    let row = |protocol| LoadRow {
        shape: Shape { protocol, body: SMALL, connections: 16 },
        closed: 0.25,
        open: 0.25,
        counts_calls: protocol == Protocol::Http1,
        beside_copy: protocol == Protocol::Http1,
    };
    vec![row(Protocol::Http1), row(Protocol::GrpcStream)]
}

#[cfg(test)]
mod tests {
    use super::{WINDOW, all};

    /// Four systems in two turns, and one more under some loads. Windows that are too short are measured again for longer, which
    /// adds a minute for large bodies on many connections.
    #[test]
    fn all_of_it_takes_less_than_eleven_minutes() {
        let turns = |beside_copy| if beside_copy { 10.0 } else { 8.0 };
        let windows: f64 = all().iter().map(|row| (row.closed + row.open) * turns(row.beside_copy)).sum();
        let seconds = windows * WINDOW.as_secs_f64() * 1.25;
        assert!(seconds < 660.0, "{seconds} s");
    }
}
