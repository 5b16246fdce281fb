//! An embedded Kubernetes API server for labs and tests.
//!
//! The server keeps all objects in memory and serves the API that stock `kubectl` and client libraries use: discovery, all
//! verbs, all patch types with server-side apply, watches, custom resources, RBAC, service account tokens, admission
//! webhooks, garbage collection. Whatever works with this server works with a Kubernetes API server of version 1.33.
//!
//! [`Server`] is the entry point; `handler.rs` handles a request step by step. Not included are the node agent that runs
//! pods and the controllers of workloads, which are in `lab` and are clients of this server, CEL expressions, and protobuf
//! responses. `docs/decisions/api-server.md` has the reasons and the limits.
//!
//! Modules use modules of lower layers or of their own layer, and no two of them use each other, not even indirectly:
//!
//! | layer | modules |
//! | --- | --- |
//! | server | `server` (listeners, TLS), `handler` (a request), `controllers` (work after changes), `bootstrap` (first objects) |
//! | operations | `verbs`, `watch`, `discovery` |
//! | writes | `admission` (webhooks, service accounts), `strategy` (decoding, preparing), `allocator` (cluster IPs, node ports) |
//! | request | `call` (an authorized request to a resource) |
//! | state | `api` (what all requests share) |
//! | subsystems | `authn`, `body`, `crd`, `defaults`, `encode`, `openapi`, `patch`, `protobuf`, `rbac`, `registry`, `route`, `schema`, `selectors`, `storage`, `stream` (pods and proxies), `table`, `validate` |
//! | base | `certificates`, `cron`, `kinds`, `object`, `quantity`, `status`, `timestamp` |

mod admission;
mod allocator;
mod api;
mod authn;
mod body;
mod bootstrap;
mod call;
pub mod certificates;
mod controllers;
mod crd;
mod cron;
mod defaults;
mod discovery;
mod encode;
mod handler;
mod kinds;
mod object;
mod openapi;
mod patch;
mod protobuf;
mod quantity;
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
mod validate;
mod verbs;
mod watch;

pub use cron::{CronError, CronSchedule};
pub use server::{Options, Server, ServerObjects, StartError};
pub use storage::SavedObjects;
