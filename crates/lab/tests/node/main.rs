//! The node agent with real pods: processes in namespaces, on a network of the test's own. The test plays the API server.
//!
//! Each test runs in a process of its own, once as root and once as an ordinary user (`harness`). The test program is also the
//! start helper and the pause process of the pods that it starts, and the images of their containers (`isthmus/serve`, …).

extern crate isthmus_lab as lab;

use std::process::ExitCode;

use net::namespace::{Namespaces, enter_user_namespace, unshare};

mod api;
mod bench;
mod ends;
mod lifecycle;
mod probes;
mod program;
mod streams;
mod volumes;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some(net::process::ENTER) => net::process::enter(),
        Some(net::process::PAUSE) => net::process::pause(),
        Some(name) if program::is(name) => program::run(&arguments),
        _ => {
            let tests =
                [lifecycle::TESTS, ends::TESTS, probes::TESTS, volumes::TESTS, streams::TESTS, api::TESTS].concat();
            harness::run(&tests, enter_namespaces)
        }
    }
}

/// Moves this process to namespaces of its own, in which it may create pods.
fn enter_namespaces() -> Result<(), String> {
    enter_user_namespace().map_err(|error| error.to_string())?;
    unshare(Namespaces { pid: false, ..Namespaces::ALL }).map_err(|error| error.to_string())?;
    net::namespace::mount::make_private().expect("private mounts in a mount namespace of its own");
    bench::prepare_network();
    Ok(())
}
