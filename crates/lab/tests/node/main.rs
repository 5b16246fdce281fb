//! The node agent with real pods: processes in namespaces, on a network made for the test, as root and as an ordinary
//! user. The API server is played by the test.
//!
//! The process enters namespaces before it starts a thread, is its own start helper, and stands for the images of the
//! pods (`isthmus/serve` and so on), so it has a `main` of its own. It runs itself once as the current user and, if that
//! is root, once more as an ordinary user in a user namespace.

extern crate isthmus_lab as lab;

use std::os::unix::process::CommandExt;
use std::panic::AssertUnwindSafe;
use std::process::{Command, ExitCode};

use net::namespace::{Namespaces, enter_user_namespace, unshare};

mod api;
mod bench;
mod ends;
mod lifecycle;
mod probes;
mod program;
mod streams;
mod volumes;

const INSIDE: &str = "--inside";
const NOBODY: u32 = 65534;

type Check = (&'static str, fn());

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some(net::process::ENTER) => return lab::node::enter(),
        Some(net::process::PAUSE) => return lab::node::pause(),
        Some(INSIDE) => return inside(&arguments[1..]),
        Some(name) if program::is(name) => return program::run(&arguments),
        _ => {}
    }
    if arguments.iter().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    let filter: Vec<_> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let mut users = vec![None];
    if rustix::process::geteuid().is_root() {
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
    bench::prepare_network();
    let checks: Vec<Check> =
        [lifecycle::CHECKS, ends::CHECKS, probes::CHECKS, volumes::CHECKS, streams::CHECKS, api::CHECKS].concat();
    let (mut passed, mut failed) = (0, 0);
    for (name, check) in checks {
        if !filter.is_empty() && !filter.iter().any(|part| name.contains(part.as_str())) {
            continue;
        }
        let started = std::time::Instant::now();
        let result = std::panic::catch_unwind(AssertUnwindSafe(check));
        let outcome = if result.is_ok() { "ok" } else { "FAILED" };
        println!("test {name} ({who}) ... {outcome} {:.1}s", started.elapsed().as_secs_f32());
        if result.is_ok() { passed += 1 } else { failed += 1 }
    }
    println!("\ntest result ({who}): {passed} passed; {failed} failed\n");
    ExitCode::from(u8::from(failed > 0))
}
