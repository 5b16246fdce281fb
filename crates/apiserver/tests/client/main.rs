//! The API server with kube-rs as its client.

mod cluster;
mod garbage;
mod hooks;
mod lists;
mod tokens;
mod watches;
mod writes;
