//! Links, packet rules and processes in real namespaces, as root and as an ordinary user.
//!
//! The process enters namespaces before it starts a thread, and is its own start helper, so it has a `main` of its own:
//! it runs itself once as the current user and, if that is root, once more as an ordinary user in a user namespace.

extern crate isthmus_net as net;

use std::os::unix::process::CommandExt;
use std::panic::AssertUnwindSafe;
use std::process::{Command, ExitCode};

use net::namespace::{Namespaces, enter_user_namespace, unshare};

mod firewall;
mod links;
mod processes;

const INSIDE: &str = "--inside";
const NOBODY: u32 = 65534;

type Check = (&'static str, fn());

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some(net::process::ENTER) => return net::process::enter(),
        Some(net::process::PAUSE) => return net::process::pause(),
        Some(processes::LAUNCHER) => return processes::launcher(),
        Some(INSIDE) => return inside(&arguments[1..]),
        _ => {}
    }
    if arguments.iter().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    let filter: Vec<_> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let root = std::env::var_os("USER_NAMESPACE_ONLY").is_none() && is_root();
    let mut users = vec![None];
    if root {
        users.push(Some(NOBODY));
    }
    let mut failed = false;
    for user in users {
        let mut command = Command::new(std::env::current_exe().expect("own path"));
        command.arg(INSIDE).args(&filter).current_dir("/");
        if let Some(id) = user {
            command.uid(id).gid(id);
        }
        match command.status() {
            Ok(status) => failed |= !status.success(),
            Err(error) => println!("IGNORED: all checks as an ordinary user: cannot start as user {NOBODY}: {error}"),
        }
    }
    ExitCode::from(u8::from(failed))
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

fn inside(filter: &[String]) -> ExitCode {
    let who = match enter_user_namespace() {
        Ok(false) => "root",
        Ok(true) => "user namespace",
        Err(error) => {
            println!("IGNORED: all checks in a user namespace: {error}");
            return ExitCode::SUCCESS;
        }
    };
    if let Err(error) = unshare(Namespaces { pid: false, ..Namespaces::ALL }) {
        println!("IGNORED: all checks as {who}: {error}");
        return ExitCode::SUCCESS;
    }
    net::namespace::mount::make_private().expect("private mounts");
    let checks: Vec<Check> = [links::CHECKS, firewall::CHECKS, processes::CHECKS].concat();
    let (mut passed, mut failed) = (0, 0);
    for (name, check) in checks {
        if !filter.is_empty() && !filter.iter().any(|part| name.contains(part.as_str())) {
            continue;
        }
        let result = std::panic::catch_unwind(AssertUnwindSafe(check));
        println!("test {name} ({who}) ... {}", if result.is_ok() { "ok" } else { "FAILED" });
        if result.is_ok() { passed += 1 } else { failed += 1 }
    }
    println!("\ntest result ({who}): {passed} passed; {failed} failed\n");
    ExitCode::from(u8::from(failed > 0))
}

/// Whether this process is in a user namespace with a single user.
pub fn single_user() -> bool {
    !net::namespace::maps_user(NOBODY)
}
