//! Sidecars against each other on loopback, with a real control plane, real certificates and real sockets.

mod app;
mod controller;
mod drain;
mod failover;
mod gate;
mod http;
mod opaque;
mod start;
mod stream;
mod world;
