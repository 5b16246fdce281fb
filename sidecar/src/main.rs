//! Runs the `sidecar` library as a program of its own.

fn main() {}
