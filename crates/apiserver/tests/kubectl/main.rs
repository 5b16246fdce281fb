//! Stock `kubectl` against the embedded API server.
//!
//! Each test starts a server of its own on loopback and looks at what kubectl prints, as a person would. Without kubectl on the
//! machine (or named by `KUBECTL`) the tests are reported as ignored, which the standard harness cannot do at run time:
//! hence the one below. It takes the usual arguments: parts of test names, `--list`, `--exact`, `--skip`.

mod apply;
mod bench;
mod create;
mod custom;
mod delete;
mod discover;
mod edit;
mod get;
mod node;
mod select;
mod streams;
mod workload;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// How many tests run at once: kubectl is what takes the time, and it uses a core.
const AT_ONCE: usize = 2;

type Test = (&'static str, fn());

fn main() -> ExitCode {
    let tests = select::from_arguments(std::env::args().skip(1), all());
    let tests = match tests {
        select::Selected::List(names) => {
            names.iter().for_each(|name| println!("{name}: test"));
            return ExitCode::SUCCESS;
        }
        select::Selected::Run(tests) => tests,
    };
    println!("\nrunning {} tests", tests.len());
    if let Err(reason) = bench::kubectl_version() {
        for (name, _) in &tests {
            println!("test {name} ... ignored, {reason}");
        }
        println!("\ntest result: ok. 0 passed; 0 failed; {} ignored ({reason})\n", tests.len());
        return ExitCode::SUCCESS;
    }
    let failed = run(&tests);
    let passed = tests.len() - failed.len();
    println!(
        "\ntest result: {}. {passed} passed; {} failed\n",
        if failed.is_empty() { "ok" } else { "FAILED" },
        failed.len()
    );
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs the tests, and returns the names of those that failed.
fn run(tests: &[Test]) -> Vec<&'static str> {
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((name, test)) = tests.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let start = Instant::now();
                    let outcome = catch_unwind(AssertUnwindSafe(test));
                    let took = start.elapsed().as_secs_f32();
                    println!("test {name} ... {} ({took:.1} s)", if outcome.is_ok() { "ok" } else { "FAILED" });
                    if outcome.is_err() {
                        failed.lock().expect("no test holds this lock").push(*name);
                    }
                }
            });
        }
    });
    failed.into_inner().expect("no test holds this lock")
}

fn all() -> Vec<Test> {
    let modules: [&[Test]; 9] = [
        apply::TESTS,
        create::TESTS,
        custom::TESTS,
        delete::TESTS,
        discover::TESTS,
        edit::TESTS,
        get::TESTS,
        streams::TESTS,
        workload::TESTS,
    ];
    modules.concat()
}
