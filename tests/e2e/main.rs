//! End-to-end tests: labs, driven by the `isthmus` command, as root and as an ordinary user.
//!
//! The name of each test is what a user observes. Tests take turns, because a lab is several dozen processes.

mod analyze;
mod authz_feedback;
mod bad_input;
mod canary;
mod check;
mod circuit_breakers;
mod clusters;
mod commands;
mod explain;
mod export;
mod external_authorization;
mod failover;
mod federation_policy;
mod gateways;
mod import;
mod kubectl;
mod leases;
mod linkerd_and_smi;
mod load;
mod mesh;
mod multicluster_services;
mod mutual_tls;
mod pods;
mod policies;
mod protocols;
mod rate_limits;
mod readme;
mod restart;
mod routes;
mod service_entries;
mod sidecars;
mod slow_network;
mod support;
mod tokens;
mod topologies;
mod virtual_machines;
mod without_effect;
