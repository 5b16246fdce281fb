//! Links, packet rules and processes in real namespaces.
//!
//! Each test runs in a process of its own, once as root and once as an ordinary user (`harness`). The test program is also
//! the start helper and the pause process of the pods that it starts.

extern crate isthmus_net as net;

use std::process::ExitCode;

use net::namespace::{Namespaces, enter_user_namespace, mount, unshare};

mod firewall;
mod links;
mod processes;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some(net::process::ENTER) => net::process::enter(),
        Some(net::process::PAUSE) => net::process::pause(),
        Some(processes::LAUNCHER) => processes::launcher(),
        _ => harness::run(&[links::TESTS, firewall::TESTS, processes::TESTS].concat(), enter_namespaces),
    }
}

/// Moves this process to namespaces of its own, in which it may change links, packet rules and mounts.
fn enter_namespaces() -> Result<(), String> {
    enter_user_namespace().map_err(|error| error.to_string())?;
    unshare(Namespaces { pid: false, ..Namespaces::ALL }).map_err(|error| error.to_string())?;
    mount::make_private().expect("private mounts in a mount namespace of its own");
    Ok(())
}

/// Ignores the calling test where it cannot change its user: a user namespace without subordinate ids has a single user.
fn needs_several_users() {
    if !net::namespace::maps_user(net::PROXY_UID) {
        harness::ignore("this user namespace has a single user");
    }
}
