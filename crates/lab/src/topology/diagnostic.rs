//! Problems of a topology file, for display: `file:line:column`, the line, and a hint.

use std::fmt;
use std::path::{Path, PathBuf};

use serde_saphyr::Location;

/// A problem of a topology file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Diagnostic {
    /// Path of the file.
    pub path: PathBuf,
    /// Line and column, from 1; `None` if the problem is the whole file.
    pub place: Option<(u64, u64)>,
    /// Text of the line.
    pub line: Option<String>,
    /// Description of the problem.
    pub message: String,
    /// What to do about the problem.
    pub hint: Option<String>,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some((line, column)) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.message)?;
        if let (Some((number, column)), Some(line)) = (self.place, &self.line) {
            let gutter = number.to_string().len();
            let before: String = line
                .chars()
                .take(usize::try_from(column.saturating_sub(1)).unwrap_or(0))
                .map(|c| if c == '\t' { '\t' } else { ' ' })
                .collect();
            write!(f, "\n  {number} | {line}\n  {:gutter$} | {before}^", "")?;
        }
        if let Some(hint) = &self.hint {
            for line in hint.lines() {
                write!(f, "\n  {line}")?;
            }
        }
        Ok(())
    }
}

/// A problem at a location of the parsed file.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) at: Location,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

impl Problem {
    pub(super) fn new(at: Location, message: impl Into<String>) -> Self {
        Self { at, message: message.into(), hint: None }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(super) fn locate(self, path: &Path, text: &str) -> Diagnostic {
        let place = place_of(self.at);
        Diagnostic {
            path: path.to_owned(),
            line: place.and_then(|(line, _)| line_of(text, line)),
            place,
            message: self.message,
            hint: self.hint,
        }
    }
}

/// Creates the diagnostic of a file that cannot be read.
pub(super) fn unreadable(path: &Path, error: &std::io::Error) -> Box<Diagnostic> {
    let hint = match error.kind() {
        std::io::ErrorKind::NotFound => siblings_hint(path),
        std::io::ErrorKind::InvalidData => "a topology is a YAML file in UTF-8".to_owned(),
        _ => "check its permissions, and that it is a file".to_owned(),
    };
    Box::new(Diagnostic {
        path: path.to_owned(),
        place: None,
        line: None,
        message: format!("cannot be read: {}", install::client_error::system(error)),
        hint: Some(hint),
    })
}

/// Lists the topologies in the directory of the missing file.
fn siblings_hint(path: &Path) -> String {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut beside: Vec<String> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".yaml"))
        .collect();
    beside.sort();
    let wanted = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    match nearest(&wanted, beside.iter().map(String::as_str)) {
        Some(name) => format!("Did you mean \"{}\"?", folder.join(name).display()),
        None if beside.is_empty() => format!("{} has no topology; docs/topology.md has an example", folder.display()),
        None => format!("topologies in {}: {}", folder.display(), beside.join(", ")),
    }
}

fn place_of(at: Location) -> Option<(u64, u64)> {
    (at.line() > 0).then(|| (at.line(), at.column()))
}

fn line_of(text: &str, number: u64) -> Option<String> {
    let index = usize::try_from(number).ok()?.checked_sub(1)?;
    text.lines().nth(index).map(|line| line.trim_end().to_owned())
}

/// Adds the nearest of `names` to `known`, if one is near.
pub(super) fn with_nearest<'a>(known: &str, wanted: &str, names: impl Iterator<Item = &'a str>) -> String {
    match nearest(wanted, names) {
        Some(name) => format!("{known}. Did you mean \"{name}\"?"),
        None => known.to_owned(),
    }
}

/// Returns the name with the smallest edit distance, if the distance is at most a third of the length.
#[must_use]
pub fn nearest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let bound = (wanted.chars().count() / 3).max(1);
    names.map(|name| (distance(wanted, name), name)).filter(|(d, _)| *d <= bound).min().map(|(_, name)| name)
}

/// Returns the edit distance of two names: insertions, deletions, replacements, and swaps of neighbours.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.to_lowercase().chars().collect();
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(rows[i - 2][j - 2] + 1);
            }
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}
