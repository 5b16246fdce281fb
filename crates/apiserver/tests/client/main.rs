//! The API server as client libraries see it: kube-rs over real sockets.

mod cluster;
mod garbage;
mod hooks;
mod lists;
mod tokens;
mod watches;
mod writes;
