//! The process's own log: to standard error, filtered by a level that can be changed while running.

use std::sync::OnceLock;

use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

type Reload = Box<dyn Fn(Option<&str>) -> Result<String, LevelError> + Send + Sync>;

static RELOAD: OnceLock<Reload> = OnceLock::new();

/// Why a level is not taken.
#[derive(Debug, thiserror::Error)]
pub enum LevelError {
    /// It says nothing.
    #[error("{given:?} is no log filter: {reason}; write a level (error, warn, info, debug, trace) or target=level,…")]
    Unknown {
        /// As given.
        given: String,
        /// As the parser sees it.
        reason: String,
    },
    /// There is no log to change.
    #[error("logging was not started by this program")]
    NotStarted,
}

/// Starts logging. `filter` is a level (`info`) or a list of `target=level`; `json` writes one object per line. Doing it
/// twice keeps the first.
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

/// Changes the filter and returns what is in force.
pub fn set_level(filter: &str) -> Result<String, LevelError> {
    RELOAD.get().ok_or(LevelError::NotStarted)?(Some(filter))
}

/// The filter in force.
pub fn level() -> Result<String, LevelError> {
    RELOAD.get().ok_or(LevelError::NotStarted)?(None)
}

fn parse(filter: &str) -> Result<EnvFilter, LevelError> {
    let unknown = |reason: String| LevelError::Unknown { given: filter.to_owned(), reason };
    // A bare word that is no level would be taken for a target by the parser, and silence everything.
    let named = |part: &str| {
        !part.is_empty() && (part.contains(['=', '[']) || part.parse::<tracing::level_filters::LevelFilter>().is_ok())
    };
    if let Some(part) = filter.split(',').map(str::trim).find(|part| !named(part)) {
        return Err(unknown(format!("{part:?} is no level")));
    }
    EnvFilter::try_new(filter).map_err(|error| unknown(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_change_while_running() {
        assert!(matches!(level(), Err(LevelError::NotStarted)));
        init("info", true).unwrap();
        assert_eq!(level().unwrap(), "info");
        assert_eq!(set_level("debug").unwrap(), "debug");
        assert!(tracing::enabled!(tracing::Level::DEBUG));
        set_level("warn,isthmus_net=trace").unwrap();
        assert!(!tracing::enabled!(tracing::Level::INFO));
        for wrong in ["loud", "", "info,nonsense", "x=loud"] {
            assert!(matches!(set_level(wrong), Err(LevelError::Unknown { .. })), "{wrong:?}");
        }
        assert_eq!(level().unwrap(), "isthmus_net=trace,warn");
    }
}
