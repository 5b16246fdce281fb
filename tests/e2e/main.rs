//! End-to-end tests: real labs, driven by the real `isthmus` command as root and as an ordinary user.
//!
//! Each test says in its name what a person would see. They take turns, because a lab is several dozen processes.

mod bad_input;
mod clusters;
mod commands;
mod failover;
mod kubectl;
mod mesh;
mod protocols;
mod restart;
mod support;
