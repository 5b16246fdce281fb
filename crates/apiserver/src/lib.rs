//! An embedded Kubernetes API server for labs and tests.
//!
//! It keeps everything in memory and speaks the API that stock `kubectl` and client libraries expect: discovery, all verbs, all
//! patches with server-side apply, watches, custom resources, RBAC, service accounts' tokens, admission webhooks, garbage
//! collection. There is no etcd and no second replica; what runs against it also runs against the real thing.
//!
//! Start at [`Server`]; a request's way is `handler.rs`, step by step. What is not here: the node agent that runs pods
//! and the controllers of workloads (`lab` has both, as this server's clients), CEL expressions, and protobuf answers.

mod admission;
mod allocator;
mod api;
mod authn;
mod body;
mod bootstrap;
mod call;
pub mod certificates;
mod crd;
mod defaults;
mod discovery;
mod encode;
mod handler;
mod kinds;
mod object;
mod openapi;
mod patch;
mod protobuf;
mod rbac;
mod registry;
mod route;
mod schema;
mod selectors;
mod server;
mod status;
mod storage;
mod strategy;
mod stream;
mod table;
mod timestamp;
mod upkeep;
mod validate;
mod verbs;
mod watch;

pub use server::{Options, Server, StartError};
