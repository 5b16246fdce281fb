//! Runs the `eastwest-gateway` library as a program of its own.

fn main() {}
