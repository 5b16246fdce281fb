//! The open connections of one worker, which report their bytes regularly.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use foldhash::HashMap;
use net::splice::Carried;
use runtime::admission::Admitted;
use telemetry::istio::TcpConnection;

/// A connection that is being forwarded.
pub(crate) struct OpenConnection {
    pub(crate) carried: Carried,
    pub(crate) metrics: TcpConnection,
    /// The place among the connections of the listener.
    admitted: Admitted,
    /// The connection is in use for its admission, except while no byte moves between two reports.
    used: Cell<bool>,
    reported: Cell<u64>,
}

impl OpenConnection {
    /// Returns a connection that carries its first bytes.
    pub(crate) fn new(admitted: Admitted, metrics: TcpConnection) -> Self {
        admitted.begin();
        let carried = Carried::default();
        Self { carried, metrics, admitted, used: Cell::new(true), reported: Cell::new(0) }
    }

    /// Counts the bytes since the last call.
    pub(crate) fn report(&self) {
        let moved = self.carried.back.get() + self.carried.forth.get();
        let used = self.reported.replace(moved) != moved;
        if self.used.replace(used) != used {
            if used { self.admitted.begin() } else { self.admitted.end() }
        }
        self.metrics.carried(self.carried.back.get(), self.carried.forth.get());
    }
}

/// All open connections of a worker. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct OpenConnections {
    connections: Rc<RefCell<HashMap<u64, Rc<OpenConnection>>>>,
    last_id: Rc<Cell<u64>>,
}

impl OpenConnections {
    /// Adds a connection, which is removed when the returned value is dropped.
    pub(crate) fn track(&self, connection: Rc<OpenConnection>) -> Tracked {
        let id = self.last_id.get() + 1;
        self.last_id.set(id);
        self.connections.borrow_mut().insert(id, connection);
        Tracked { id, connections: self.clone() }
    }

    /// Counts the bytes of all connections since the last call.
    pub(crate) fn report(&self) {
        self.connections.borrow().values().for_each(|connection| connection.report());
    }
}

/// An open connection among those that report.
pub(crate) struct Tracked {
    /// The number of the connection, from one on.
    pub(crate) id: u64,
    connections: OpenConnections,
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.connections.connections.borrow_mut().remove(&self.id);
    }
}
