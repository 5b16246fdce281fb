//! The README, followed from top to bottom: every command of its console blocks runs, and prints what the README shows.
//!
//! Pod names, addresses, ports and times differ from lab to lab, and so does the order of pods; the comparison ignores them.

use std::path::Path;
use std::time::Duration;

use regex::Regex;

use crate::support::{Lab, Outcome, User, eventually, kubectl_is_installed};

/// How long a command's output may take to become what the README shows: changes need a moment to reach proxies.
const SETTLED: Duration = Duration::from_secs(20);

/// A command and the output that the README shows for it.
#[derive(Debug)]
struct Example {
    command: String,
    output: Vec<String>,
}

/// Returns the examples of all console blocks.
fn examples(readme: &str) -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    let mut in_block = false;
    for line in readme.lines().map(str::trim_start) {
        match line.strip_prefix("```") {
            Some(language) => in_block = language == "console",
            None if !in_block => {}
            None => match (line.strip_prefix("$ "), examples.last_mut()) {
                (Some(command), _) => examples.push(Example { command: command.to_owned(), output: Vec::new() }),
                (None, Some(example)) => example.output.push(line.to_owned()),
                (None, None) => panic!("output without a command: {line:?}"),
            },
        }
    }
    examples
}

/// Replaces what differs from lab to lab.
struct Normalizer(Vec<(Regex, &'static str)>);

impl Normalizer {
    fn new() -> Self {
        let replacements = [
            (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "TIMESTAMP"),
            (r"-[0-9a-z]{8,10}-[0-9a-z]{5}\b", "-POD"),
            (r"us-west-1[ab]\s+10\.244\.\d+\.\d+", "ZONE ADDRESS"),
            (r"\b10\.244\.\d+\.\d+", "ADDRESS"),
            (r"127\.0\.0\.1:\d+", "127.0.0.1:PORT"),
            // Before times: the first digits of a fingerprint can be those of one, such as `537d`.
            (r"root [0-9a-f]{4}…", "root FINGERPRINT"),
            (r"\b(\d+(\.\d+)?(ms|s|m|h|d))+\b", "TIME"),
            (r"\b\d+ ms\b", "TIME"),
            (r"\s+", " "),
        ];
        Self(replacements.map(|(pattern, by)| (Regex::new(pattern).expect("a pattern"), by)).into())
    }

    /// Returns the lines, normalized and sorted, without empty lines and lines about waiting.
    fn lines<'a>(&self, lines: impl IntoIterator<Item = &'a str>) -> Vec<String> {
        let normalize = |line: &str| {
            self.0
                .iter()
                .fold(line.trim().to_owned(), |line, (pattern, by)| pattern.replace_all(&line, *by).into_owned())
        };
        let mut lines: Vec<_> = lines
            .into_iter()
            .map(normalize)
            .filter(|line| !line.is_empty() && !line.starts_with("waiting ("))
            .collect();
        lines.sort();
        lines
    }
}

#[test]
fn every_command_of_the_readme_prints_what_it_shows() {
    kubectl_is_installed();
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let readme = std::fs::read_to_string(readme).expect("the README");
    let mut examples = examples(&readme).into_iter();
    let normalizer = Normalizer::new();
    let first = examples.next().expect("a first command");
    let topology = first.command.strip_prefix("cargo run --release -- lab up topologies/");
    let lab = Lab::up(topology.unwrap_or_else(|| panic!("{:?} does not start a lab", first.command)), User::Ordinary);
    let printed = normalizer.lines(lab.output().lines());
    for line in normalizer.lines(first.output.iter().map(String::as_str)) {
        // The lab has printed its progress before, and prints the line about Ctrl-C last.
        assert!(printed.contains(&line), "{line:?} is not in {printed:#?}");
    }
    let mut followed = 1;
    for example in examples {
        let expected = normalizer.lines(example.output.iter().map(String::as_str));
        // A command that only shows something is repeated until the lab has settled.
        let shows = ["lab exec", "status", "get "].iter().any(|part| example.command.contains(part));
        let within = if shows { SETTLED } else { Duration::ZERO };
        let outcome = eventually(within, || {
            let run = lab
                .directory
                .program(Path::new("/bin/sh"))
                .args(["-c", &example.command])
                .current_dir(lab.directory.path("run"))
                .output();
            let outcome = Outcome::from(run.expect("a shell"));
            let printed = normalizer.lines(outcome.stdout.lines().chain(outcome.stderr.lines()));
            if outcome.code == Some(0) && printed == expected { Ok(()) } else { Err((outcome, printed)) }
        });
        if let Err((outcome, printed)) = outcome {
            panic!("$ {}\n{outcome:#?}\nprinted {printed:#?}\nexpected {expected:#?}", example.command);
        }
        followed += 1;
    }
    assert!(followed >= 10, "only {followed} commands were found");
    lab.directory.assert_nothing_left();
}
