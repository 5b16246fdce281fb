//! Exit codes and errors of commands.

use std::process::ExitCode;

use install::client_error;

use crate::console::{NoAnswer, TIMED_OUT, print_stderr};
use crate::orchestration::control::ControlError;

/// An error that ends a command.
pub(super) type CommandError = Box<dyn std::error::Error + Send + Sync>;

pub(super) fn exit_code(result: Result<ExitCode, CommandError>) -> ExitCode {
    result.unwrap_or_else(|error| {
        print_stderr(&format!("error: {}", explain(&error)));
        match is_timeout(&error) {
            true => ExitCode::from(TIMED_OUT),
            false => ExitCode::FAILURE,
        }
    })
}

fn is_timeout(error: &CommandError) -> bool {
    error.is::<NoAnswer>() || matches!(error.downcast_ref(), Some(ControlError::NoAnswer(_)))
}

/// Describes an error, and on a second line what to do about it, where there is something to try.
pub(super) fn explain(error: &CommandError) -> String {
    if let Some(silent) = error.downcast_ref::<NoAnswer>() {
        return format!("{silent}\n  {}", silent.advice);
    }
    if let Some(error) = error.downcast_ref::<std::io::Error>() {
        return client_error::system(error);
    }
    let Some(error) = error.downcast_ref::<kube::Error>() else { return error.to_string() };
    match client_error::advice(error) {
        Some(advice) => format!("{}\n  {advice}", client_error::describe(error)),
        None => client_error::describe(error),
    }
}

pub(super) fn block_on(command: impl Future<Output = Result<ExitCode, CommandError>>) -> ExitCode {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let code = exit_code(runtime.block_on(command));
            // A pending read of standard input must not keep the process alive.
            runtime.shutdown_background();
            code
        }
        Err(error) => exit_code(Err(error.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_has_its_own_exit_code_and_advice() {
        let silent = || NoAnswer {
            from: "the API server of east".into(),
            limit: std::time::Duration::from_secs(15),
            advice: "release it".into(),
        };
        assert_eq!(explain(&silent().into()), "no answer from the API server of east within 15s\n  release it");
        assert_eq!(exit_code(Err(silent().into())), ExitCode::from(TIMED_OUT));
        assert_eq!(exit_code(Err("wrong".into())), ExitCode::FAILURE);
        let missing = std::io::Error::from_raw_os_error(2);
        assert_eq!(explain(&missing.into()), "no such file or directory");
    }
}
