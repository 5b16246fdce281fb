//! Local clusters made of network namespaces: topology files, the node agent, a cluster's controllers, the test
//! application.
//!
//! A lab is a mesh on one machine. Start with [`topology`] (the description of a lab), then [`orchestration`] (its
//! processes and networks), then [`controllers`] and [`dns`] (what a cluster runs beside its API server). The API
//! server is the `apiserver` crate, the mesh's own objects come from the `install` crate, and [`node`] runs containers.
//! [`command`] has the commands, which print and wait with [`console`].
//!
//! Modules depend on each other in one direction, with one exception: `node::worker`, `node::worker::start` and
//! `node::worker::stop` form a cycle, because the methods of one state machine are divided by topic into three files.

// A closed pipe must not end a command with a panic: commands print with `console`.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

pub mod command;
pub mod console;
pub mod controllers;
pub mod dns;
mod field_path;
pub mod node;
pub mod orchestration;
pub mod testapp;
mod timestamp;
pub mod topology;
