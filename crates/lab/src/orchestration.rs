//! How a lab's processes and networks come to be, and how they end.
//!
//! ```text
//! isthmus lab up                    front: the terminal, the progress, the lab's directory
//! └─ lab-init (outer)               user namespace when not root; makes the others
//!    └─ lab-init (pid 1)            "the wire": a bridge, and a network namespace per cluster
//!       ├─ lab-apiserver  (west)    in the cluster's network, listening also on the host's loopback
//!       ├─ lab-node       (west)    node agent, controllers, service proxy, DNS
//!       │  └─ lab-pause …           one per pod
//!       └─ … (east)
//! ```
//!
//! Everything below the front is in a pid namespace of its own whose first process ends with the front, however the front ends. So
//! nothing can be left over but the lab's directory, and that is known to whoever looks next ([`state`]).

pub mod authorities;
pub mod bring_up;
pub mod clients;
pub mod cluster;
pub mod control;
pub mod front;
pub mod handover;
pub mod handshake;
pub mod init;
pub mod installation;
pub mod keys;
pub mod manifest;
pub mod progress;
pub mod reach;
pub mod relay;
pub mod state;
pub mod wire;
pub mod workloads;
