//! Local clusters out of network namespaces: topology files, the node agent, a cluster's controllers, drills.
//!
//! A lab is a real mesh on one machine. Start reading at [`topology`] (what a lab is made of), then
//! [`orchestration`] (how its processes and networks come to be), then [`controllers`] and [`dns`] (what a cluster does
//! beside its API server). The API server itself is the `apiserver` crate; containers are run by [`node`].

pub mod command;
pub mod controllers;
pub mod dns;
pub mod node;
pub mod orchestration;
pub mod testapp;
mod timestamp;
pub mod topology;
