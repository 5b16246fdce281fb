//! Runs the `federation-controller` library as a program of its own.

fn main() {}
