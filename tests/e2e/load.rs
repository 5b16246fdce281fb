//! Calls at a fixed rate beside what a test does, with the time of each.

use std::process::{Child, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::support::Lab;

/// Calls in progress.
pub(crate) struct Load(Child);

/// A call, and its result.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// When it was due, in milliseconds since 1970.
    pub(crate) at_ms: f64,
    /// The result, as the test application reports it.
    pub(crate) result: Value,
}

impl Call {
    pub(crate) fn ok(&self) -> bool {
        self.result["ok"] == true
    }
}

impl Load {
    /// Starts calls from a pod. `options` are further ones of the test application.
    pub(crate) fn start(lab: &Lab, caller: &str, url: &str, rate: u32, seconds: u32, options: &[&str]) -> Self {
        let isthmus = lab.directory.path("isthmus").display().to_string();
        let mut load = lab.directory.isthmus();
        load.args(["lab", "exec", caller, "--", &isthmus, "testapp", "--call", url, "-o", "json"]);
        load.args(["--rate", &rate.to_string(), "--duration", &format!("{seconds}s")]).args(options);
        Self(load.stdout(Stdio::piped()).spawn().expect("calls"))
    }

    /// Waits for the end of the calls.
    pub(crate) fn wait(self) -> Vec<Call> {
        let output = self.0.wait_with_output().expect("the calls end");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            panic!("no report: {error}\n{}", String::from_utf8_lossy(&output.stdout));
        });
        let started = report["started_ms"].as_f64().expect("a time");
        let calls = report["requests"].as_array().expect("requests").iter();
        calls
            .map(|call| Call { at_ms: started + call["at_ms"].as_f64().expect("a time"), result: call.clone() })
            .collect()
    }
}

/// Asserts that there are calls, and that every one succeeded.
#[track_caller]
pub(crate) fn assert_none_failed<'a>(calls: impl Iterator<Item = &'a Call>, least: usize) {
    let (good, failed): (Vec<&Call>, Vec<&Call>) = calls.partition(|call| call.ok());
    assert!(
        failed.is_empty(),
        "{} of {} calls failed, first: {:?}",
        failed.len(),
        good.len() + failed.len(),
        failed[0]
    );
    assert!(good.len() >= least, "{} calls", good.len());
}

/// Returns the time in milliseconds since 1970.
pub(crate) fn now_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970").as_secs_f64() * 1000.0
}
