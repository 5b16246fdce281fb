//! End-to-end tests: labs, driven by the `isthmus` command, as root and as an ordinary user.
//!
//! The name of each test is what a user observes. Tests take turns, because a lab is several dozen processes.

mod analyze;
mod authz_feedback;
mod bad_input;
mod canary;
mod circuit_breakers;
mod clusters;
mod commands;
mod failover;
mod import;
mod kubectl;
mod mesh;
mod pods;
mod policies;
mod protocols;
mod readme;
mod restart;
mod routes;
mod service_entries;
mod slow_network;
mod support;
mod topologies;
mod without_effect;
