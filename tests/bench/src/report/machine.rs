//! The machine that a run was measured on.

use std::fmt;
use std::fs;

use serde::{Deserialize, Serialize};

/// A machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The number of processors that the process may use.
    pub cores: usize,
    /// The processor's model name.
    pub model: String,
    /// The kernel's release.
    pub kernel: String,
    /// The size of its memory, in MiB.
    pub memory_mib: u64,
}

impl Machine {
    /// The machine that this process runs on.
    pub fn this() -> Self {
        let field = |file: &str, name: &str| {
            let text = fs::read_to_string(file).unwrap_or_default();
            value_of(&text, name).map(ToOwned::to_owned)
        };
        let kibibytes = field("/proc/meminfo", "MemTotal").and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        Self {
            cores: std::thread::available_parallelism().map_or(1, Into::into),
            model: field("/proc/cpuinfo", "model name").unwrap_or_else(|| "an unnamed processor".into()),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            memory_mib: kibibytes.unwrap_or_default() / 1024,
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cores, model, kernel, memory_mib } = self;
        let memory = (memory_mib + 512) / 1024;
        write!(f, "{cores} cores of {model}, {memory} GiB of memory, Linux {kernel}")
    }
}

/// The value in a line `name : value`.
fn value_of<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::value_of;

    #[test]
    fn fields_of_proc_files() {
        assert_eq!(value_of("processor\t: 0\nmodel name\t: A B\n", "model name"), Some("A B"));
        assert_eq!(value_of("MemTotal:       24 kB\n", "MemTotal"), Some("24 kB"));
        assert_eq!(value_of("", "MemTotal"), None);
    }
}
