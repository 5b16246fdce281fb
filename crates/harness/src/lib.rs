//! Test harness for tests that enter Linux namespaces.
//!
//! A process can enter a user or mount namespace only while it has a single thread, so these tests cannot run in the threads
//! of Rust's test harness. [`run`] starts the test program again for each test: the new process prepares its namespaces and
//! then runs that one test. Each test runs as root and as an ordinary user in a user namespace. A test that cannot run counts
//! as ignored, with the reason (docs/decisions/test-harnesses.md).
//!
//! The arguments are those of Rust's test harness: a filter, `--list`, `--exact` and so on.

use std::fmt::Display;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Output};

use libtest_mimic::{Arguments, Completion, Failed, Trial};

/// The argument before the name of the test that a process is to run.
const SINGLE_TEST: &str = "--single-test";
/// Exit code of a test that cannot run, as in Automake and Meson.
const IGNORED: i32 = 77;
/// The ordinary user as whom root runs tests.
const NOBODY: u32 = 65534;

/// A test's name and body. The test fails if the body panics.
pub type Test = (&'static str, fn());

/// The user as whom a test runs.
#[derive(Clone, Copy)]
enum User {
    Root,
    Ordinary,
}

/// Runs tests, each in a process of its own. To be called in `main` before any thread starts.
///
/// `prepare` enters the namespaces. It runs first in each test's process; its error is the reason why no test can run there.
/// Tests run one after another unless `--test-threads` is given, since some of them measure time.
pub fn run(tests: &[Test], prepare: fn() -> Result<(), String>) -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some(SINGLE_TEST) {
        return run_single(tests, &arguments.next().unwrap_or_default(), prepare);
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(1);
    let trials = [User::Root, User::Ordinary].into_iter().flat_map(|user| {
        tests.iter().map(move |&(name, _)| Trial::ignorable_test(user.trial(name), move || start(user, name)))
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// Ends the process of a test that cannot run here. The test counts as ignored.
pub fn ignore(reason: impl Display) -> ! {
    println!("\n{reason}");
    std::process::exit(IGNORED)
}

fn run_single(tests: &[Test], wanted: &str, prepare: fn() -> Result<(), String>) -> ExitCode {
    let Some((_, body)) = tests.iter().find(|(name, _)| *name == wanted) else {
        eprintln!("there is no test {wanted:?}");
        return ExitCode::FAILURE;
    };
    if let Err(reason) = prepare() {
        ignore(reason);
    }
    body();
    ExitCode::SUCCESS
}

/// Runs one test in a process of its own.
fn start(user: User, name: &str) -> Result<Completion, Failed> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args([SINGLE_TEST, name]).current_dir("/");
    match (user, rustix::process::geteuid().is_root()) {
        (User::Root, true) | (User::Ordinary, false) => {}
        (User::Root, false) => return Ok(Completion::ignored_with("this test needs root")),
        (User::Ordinary, true) => {
            command.uid(NOBODY).gid(NOBODY);
        }
    }
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => {
            return Ok(Completion::ignored_with(format!("the test program cannot be started as this user: {error}")));
        }
    };
    completion(&output)
}

fn completion(output: &Output) -> Result<Completion, Failed> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        return Ok(Completion::Completed);
    }
    let printed = text(&output.stdout);
    if output.status.code() == Some(IGNORED) {
        return Ok(Completion::ignored_with(printed.lines().last().unwrap_or("no reason given")));
    }
    Err(format!("{}\n{printed}{}", output.status, text(&output.stderr)).into())
}

impl User {
    fn trial(self, test: &str) -> String {
        match self {
            Self::Root => format!("root::{test}"),
            Self::Ordinary => format!("user_namespace::{test}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    #[test]
    fn completion_follows_the_exit_code() {
        let output = |code: i32, stdout: &str, stderr: &str| Output {
            status: ExitStatus::from_raw(code << 8),
            stdout: stdout.into(),
            stderr: stderr.into(),
        };
        assert!(matches!(completion(&output(0, "", "")), Ok(Completion::Completed)));
        let ignored = completion(&output(IGNORED, "set up\nno IPv6\n", ""));
        assert!(matches!(ignored, Ok(Completion::Ignored { reason: Some(reason) }) if reason == "no IPv6"));
        let failed = completion(&output(101, "set up\n", "panicked")).err().expect("a failure");
        assert_eq!(failed.message(), Some("exit status: 101\nset up\npanicked"));
    }
}
