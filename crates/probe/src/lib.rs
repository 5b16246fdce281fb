//! Health checks of containers, as a kubelet makes them: HTTP and HTTPS requests, and the gRPC health check. A TCP check is a
//! connection.
//!
//! The caller opens the connection, since where it comes from matters: a lab's node connects from outside of the pod, a
//! sidecar from inside. A check has no timeout of its own, and reads a bounded part of the answer.

pub mod grpc;
pub mod http;
