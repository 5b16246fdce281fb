//! Progress of a lab that comes up: on a terminal a line per cluster, elsewhere a line per event.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// A step of a cluster's bring-up, in the order of display.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BringUpStep {
    /// The API server answers.
    Api,
    /// The controller is ready; for a remote, the primary serves it.
    Control,
    /// The east-west gateway is ready.
    Gateway,
    /// Pods of the topology are ready.
    Pods,
    /// The exported services are reachable from other clusters.
    Exports,
}

/// Prints progress to standard error.
pub struct BringUpProgress {
    begin: Instant,
    state: Mutex<BTreeMap<String, ClusterLine>>,
    screen: Option<MultiProgress>,
    width: usize,
}

struct ClusterLine {
    steps: BTreeMap<BringUpStep, String>,
    bar: Option<ProgressBar>,
}

impl BringUpProgress {
    /// Creates the progress of the named clusters, with times since `begin`.
    #[must_use]
    pub fn new(clusters: &[&str], begin: Instant) -> Self {
        let screen = std::io::stderr().is_terminal().then(MultiProgress::new);
        let width = clusters.iter().map(|name| name.len()).max().unwrap_or(0);
        let line = |name: &&str| {
            let bar = screen.as_ref().map(|screen| {
                let bar = screen.add(ProgressBar::new_spinner());
                bar.set_style(
                    ProgressStyle::with_template("{spinner} {prefix}   {wide_msg} {elapsed}").unwrap_or_else(
                        // The template is a valid constant.
                        |_| ProgressStyle::default_spinner(),
                    ),
                );
                bar.set_prefix(format!("{name:width$}"));
                bar.set_message("api starting");
                bar.enable_steady_tick(Duration::from_millis(120));
                bar
            });
            ((*name).to_owned(), ClusterLine { steps: BTreeMap::new(), bar })
        };
        let state = Mutex::new(clusters.iter().map(line).collect());
        Self { begin, state, screen, width }
    }

    fn state(&self) -> MutexGuard<'_, BTreeMap<String, ClusterLine>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports that a cluster has reached `step`. `text` is shown, with the time since the beginning if `timed`.
    pub fn reached(&self, cluster: &str, step: BringUpStep, text: &str, timed: bool) {
        let elapsed = self.begin.elapsed().as_secs_f64();
        let text = if timed { format!("{text} {elapsed:.1}s") } else { text.to_owned() };
        let mut state = self.state();
        let Some(line) = state.get_mut(cluster) else { return };
        if line.steps.get(&step) == Some(&text) {
            return;
        }
        line.steps.insert(step, text.clone());
        let shown: Vec<&str> = line.steps.values().map(String::as_str).collect();
        match &line.bar {
            Some(bar) => bar.set_message(shown.join("   ")),
            None => {
                let width = self.width;
                // Standard error may be closed.
                let _ = writeln!(std::io::stderr(), "  {elapsed:5.1}s {cluster:width$}   {text}");
            }
        }
    }

    /// Reports whether a cluster has reached `step`.
    #[must_use]
    pub fn has(&self, cluster: &str, step: BringUpStep) -> bool {
        self.state().get(cluster).is_some_and(|line| line.steps.contains_key(&step))
    }

    /// Prints a line above the progress.
    pub fn note(&self, text: &str) {
        match &self.screen {
            Some(screen) => drop(screen.println(text)),
            None => drop(writeln!(std::io::stderr(), "{text}")),
        }
    }

    /// Removes the progress lines and returns their texts.
    #[must_use]
    pub fn finish(&self) -> Vec<(String, Vec<String>)> {
        let mut state = self.state();
        for line in state.values_mut() {
            if let Some(bar) = line.bar.take() {
                bar.finish_and_clear();
            }
        }
        state.iter().map(|(name, line)| (name.clone(), line.steps.values().cloned().collect())).collect()
    }
}

/// Formats rows as columns, two spaces apart. Every line begins with `indent`.
#[must_use]
pub fn columns(rows: &[Vec<String>], indent: &str) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count)
        .map(|column| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(indent);
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align() {
        let rows = [vec!["A".to_owned(), "LONG".to_owned()], vec!["wide".to_owned(), "x".to_owned()]];
        assert_eq!(columns(&rows, "  "), "  A     LONG\n  wide  x\n");
    }

    #[test]
    fn steps_are_shown_in_order() {
        let progress = BringUpProgress::new(&["west"], Instant::now());
        progress.reached("west", BringUpStep::Gateway, "gateway", false);
        progress.reached("west", BringUpStep::Api, "api ready", false);
        progress.reached("nowhere", BringUpStep::Api, "api ready", false);
        assert_eq!(progress.finish(), [("west".to_owned(), vec!["api ready".to_owned(), "gateway".to_owned()])]);
    }
}
