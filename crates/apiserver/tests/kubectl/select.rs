//! Which tests the command line asks for.

use crate::Test;

/// What to do.
pub(crate) enum Selected {
    List(Vec<&'static str>),
    Run(Vec<Test>),
}

pub(crate) fn from_arguments(arguments: impl Iterator<Item = String>, mut tests: Vec<Test>) -> Selected {
    let (mut wanted, mut skipped, mut list, mut exact) = (Vec::new(), Vec::new(), false, false);
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--list" => list = true,
            "--exact" => exact = true,
            "--skip" => skipped.extend(arguments.next()),
            // Options of the standard harness that mean nothing here; those with a value bring it along.
            "--test-threads" | "--format" | "--color" | "--logfile" => drop(arguments.next()),
            option if option.starts_with('-') => {}
            _ => wanted.push(argument),
        }
    }
    let matches = |name: &str, part: &String| if exact { name == part } else { name.contains(part.as_str()) };
    tests.retain(|(name, _)| wanted.is_empty() || wanted.iter().any(|part| matches(name, part)));
    tests.retain(|(name, _)| !skipped.iter().any(|part| matches(name, part)));
    if list { Selected::List(tests.into_iter().map(|(name, _)| name).collect()) } else { Selected::Run(tests) }
}
