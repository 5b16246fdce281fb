//! What commands print, and how they wait.
//!
//! Commands print with [`print()`] and [`print_stderr`]: a reader that has closed its end, as `isthmus … | head -1` does, ends
//! a command quietly, while `println!` would panic. Commands wait with [`Patience`], which bounds the time and shows what
//! is waited for.

mod wait;

use std::io::{self, Write as _};

use install::client_error::system;
pub use wait::{NoAnswer, Patience, Waiting};

/// Exit code of a command that timed out.
pub const TIMED_OUT: u8 = 3;

/// Standard output cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("standard output cannot be written: {}", system(.0))]
pub struct OutputError(#[source] io::Error);

/// Prints to standard output. A closed standard output is not an error.
///
/// # Errors
/// Returns an error if the text cannot be written for another reason, such as a full disk.
pub fn print(text: &str) -> Result<(), OutputError> {
    print_bytes(text.as_bytes())
}

/// Prints the output of another process to standard output, as [`print()`] does.
///
/// # Errors
/// Returns an error if it cannot be written for another reason than a closed standard output.
pub fn print_bytes(bytes: &[u8]) -> Result<(), OutputError> {
    let mut out = io::stdout();
    unless_closed(out.write_all(bytes).and_then(|()| out.flush())).map_err(OutputError)
}

/// Prints a line to standard error.
pub fn print_stderr(text: &str) {
    print_stderr_bytes(format!("{text}\n").as_bytes());
}

/// Prints the output of another process to standard error.
pub fn print_stderr_bytes(bytes: &[u8]) {
    // There is no place left to report that this fails.
    let _ = io::stderr().write_all(bytes);
}

fn unless_closed(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_output_is_no_error_and_a_full_disk_is() {
        let of = |number: i32| unless_closed(Err(io::Error::from_raw_os_error(number))).map_err(OutputError);
        assert!(of(32).is_ok(), "EPIPE");
        let full = of(28).expect_err("ENOSPC").to_string();
        assert_eq!(full, "standard output cannot be written: no space left on device");
    }
}
