//! The process log: written to standard error, with a filter that can be changed at run time.

use std::sync::OnceLock;

use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

type Reload = Box<dyn Fn(Option<&str>) -> Result<String, LevelError> + Send + Sync>;

static RELOAD: OnceLock<Reload> = OnceLock::new();

/// Why a log filter is not set.
#[derive(Debug, thiserror::Error)]
pub enum LevelError {
    /// The filter is invalid.
    #[error("invalid log filter {given:?}: {reason}; use a level (error, warn, info, debug, trace) or target=level,…")]
    Unknown {
        /// The filter.
        given: String,
        /// Why the filter is invalid.
        reason: String,
    },
    /// This program has not started logging.
    #[error("logging is not started in this process")]
    NotStarted,
}

/// Starts logging. `filter` is a level (`info`) or a list of `target=level`; with `json` each line is a JSON object. A
/// second call has no effect.
pub fn init(filter: &str, json: bool) -> Result<(), LevelError> {
    let (filter, handle) = reload::Layer::<_, Registry>::new(parse(filter)?);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(filter);
    let started = if json {
        registry.with(lines.json().flatten_event(true)).try_init()
    } else {
        registry.with(lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))).try_init()
    };
    if started.is_ok() {
        let _ = RELOAD.set(Box::new(move |filter| {
            if let Some(filter) = filter {
                handle.reload(parse(filter)?).map_err(|_| LevelError::NotStarted)?;
            }
            handle.with_current(|filter| filter.to_string()).map_err(|_| LevelError::NotStarted)
        }));
    }
    Ok(())
}

/// Sets the filter and returns it.
pub fn set_level(filter: &str) -> Result<String, LevelError> {
    RELOAD.get().ok_or(LevelError::NotStarted)?(Some(filter))
}

/// Returns the current filter.
pub fn level() -> Result<String, LevelError> {
    RELOAD.get().ok_or(LevelError::NotStarted)?(None)
}

fn parse(filter: &str) -> Result<EnvFilter, LevelError> {
    // Envoy's names of levels, which `istioctl proxy-config log` sends.
    let filter = match filter {
        "warning" => "warn",
        "critical" => "error",
        filter => filter,
    };
    let unknown = |reason: String| LevelError::Unknown { given: filter.to_owned(), reason };
    // The parser takes a word that is not a level for a target, which would silence all other targets.
    let named = |part: &str| {
        !part.is_empty() && (part.contains(['=', '[']) || part.parse::<tracing::level_filters::LevelFilter>().is_ok())
    };
    if let Some(part) = filter.split(',').map(str::trim).find(|part| !named(part)) {
        return Err(unknown(format!("{part:?} is not a level")));
    }
    EnvFilter::try_new(filter).map_err(|error| unknown(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_changes_at_run_time() {
        assert!(matches!(level(), Err(LevelError::NotStarted)));
        init("info", true).unwrap();
        assert_eq!(level().unwrap(), "info");
        assert_eq!(set_level("debug").unwrap(), "debug");
        assert!(tracing::enabled!(tracing::Level::DEBUG));
        assert_eq!(set_level("warning").unwrap(), "warn");
        set_level("warn,isthmus_net=trace").unwrap();
        assert!(!tracing::enabled!(tracing::Level::INFO));
        for wrong in ["loud", "", "info,nonsense", "x=loud"] {
            assert!(matches!(set_level(wrong), Err(LevelError::Unknown { .. })), "{wrong:?}");
        }
        assert_eq!(level().unwrap(), "isthmus_net=trace,warn");
    }
}
