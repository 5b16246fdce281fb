//! The runtime of proxies and the controller: worker threads, the control thread, drain, readiness, the admin server,
//! and a proxy's enrolment.
//!
//! A proxy uses, in this order: [`control::run`] for the main thread, [`admin::Admin`] for the admin and health
//! listeners, [`enrol::start`] for its identity, [`workers::spawn`] for the data path, [`control::drain_on_shutdown`] for its
//! shutdown. This crate does not depend on what a proxy forwards.

pub mod admin;
pub mod admission;
pub mod control;
pub mod drain;
pub mod enrol;
pub mod limits;
pub mod options;
pub mod readiness;
pub mod resolve;
pub mod workers;
