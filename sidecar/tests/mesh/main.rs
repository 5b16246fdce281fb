//! Sidecars on loopback, with a fake controller, real certificates and real sockets.

mod admission;
mod app;
mod drain;
mod failover;
mod fixture;
mod gate;
mod http;
mod limits;
mod opaque;
mod own_ports;
mod routing;
mod start;
mod stream;
