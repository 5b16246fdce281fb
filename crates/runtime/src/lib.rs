//! What every long-running part of Isthmus is made of: worker threads with their own runtime, a control thread, drain,
//! readiness, the admin endpoint, and a proxy's enrolment with the mesh's certificate authority.
//!
//! A proxy reads, in order: [`control::run`] on the main thread, [`enrol::start`] for its identity, [`workers::spawn`] for
//! the data path, [`admin::Admin`] for people and probes, [`drain::Signal`] for leaving. Nothing here knows what a
//! proxy forwards.

pub mod admin;
pub mod control;
pub mod drain;
pub mod enrol;
pub mod limits;
pub mod readiness;
pub mod resolve;
pub mod workers;
