//! The processes and networks of a lab.
//!
//! ```text
//! isthmus lab up                    launcher: the terminal, the progress, the lab's directory
//! └─ lab-init (outer)               user namespace when not root; creates the other namespaces
//!    └─ lab-init (pid 1)            a bridge between clusters, and a network namespace per cluster
//!       ├─ lab-apiserver  (west)    in the cluster's network, listening also on the host's loopback
//!       ├─ lab-node       (west)    node agent, controllers, service proxy, DNS
//!       │  └─ lab-pause …           one per pod
//!       ├─ … (east)
//!       ├─ lab-issuers              issuers of tokens, if the topology has any
//!       ├─ lab-external             servers outside of the mesh, if the topology has any
//!       └─ lab-ports                ports of ingress gateways on the host's loopback, if there are any
//! ```
//!
//! Every process below the launcher is in a pid namespace whose first process ends with the launcher, however the launcher
//! ends. Only the lab's directory can remain, and the next command finds and removes it ([`state`]).

pub mod authorities;
pub mod bring_up;
pub mod clients;
pub mod cluster;
pub mod control;
mod cuts;
pub mod handover;
pub mod handshake;
pub mod host_listener;
pub mod host_ports;
pub mod init;
pub mod installation;
pub mod issuers;
pub mod keys;
pub mod launcher;
pub mod networks;
pub mod outside;
pub mod progress;
pub mod reachability;
pub mod relay;
pub mod state;
pub mod workloads;
