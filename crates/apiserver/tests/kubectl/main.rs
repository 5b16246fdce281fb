//! Stock `kubectl` against the embedded API server.
//!
//! Each test starts a server on loopback and asserts on what kubectl prints. Without kubectl on the machine (`KUBECTL`
//! names another program) the tests are ignored.

mod apply;
mod create;
mod custom;
mod delete;
mod discover;
mod edit;
mod get;
mod node;
mod server;
mod streams;
mod top;
mod workload;

use std::process::ExitCode;
use std::sync::LazyLock;

use libtest_mimic::{Arguments, Completion, Trial};

/// Number of tests that run at once: kubectl takes most of the time, and a core.
const THREADS: usize = 2;

type KubectlTest = (&'static str, fn());

/// Why kubectl cannot be run.
static UNAVAILABLE: LazyLock<Option<String>> = LazyLock::new(|| server::kubectl_version().err());

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(THREADS);
    libtest_mimic::run(&arguments, all().into_iter().map(trial).collect()).exit_code()
}

fn trial((name, test): KubectlTest) -> Trial {
    Trial::ignorable_test(name, move || {
        if let Some(reason) = &*UNAVAILABLE {
            return Ok(Completion::ignored_with(reason));
        }
        test();
        Ok(Completion::Completed)
    })
}

fn all() -> Vec<KubectlTest> {
    let modules: [&[KubectlTest]; 10] = [
        apply::TESTS,
        create::TESTS,
        custom::TESTS,
        delete::TESTS,
        discover::TESTS,
        edit::TESTS,
        get::TESTS,
        streams::TESTS,
        top::TESTS,
        workload::TESTS,
    ];
    modules.concat()
}
