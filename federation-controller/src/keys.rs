//! Fetching the keys of the issuers of tokens, which RequestAuthentications name.
//!
//! Proxies do not fetch keys: they have the last good ones from the controller, so that an issuer that is away refuses no
//! token. [`fetch`] makes one attempt; this module decides when. Keys that could not be fetched are never replaced by others.

mod address;
mod fetch;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::clusters::queue::{Queues, Source};
use crate::objects::event::Event;
use crate::objects::{KeySource, Text};
use crate::pipeline::State;

pub(crate) use fetch::{Fetcher, FetcherError};

/// How often the places that policies name are looked at.
const INTERVAL: Duration = Duration::from_millis(250);
/// The number of attempts at a time.
const AT_A_TIME: usize = 8;
/// The number of places of keys. Those beyond it are not fetched from.
const PLACES: usize = 1_000;
/// The time after the first failure; it doubles with each further one, up to [`SLOWEST`].
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest time between attempts.
const SLOWEST: Duration = Duration::from_secs(60);

/// Fetches keys for as long as the controller runs, from each place again after `refresh`.
pub(crate) async fn run(state: Arc<State>, events: Queues, fetcher: Fetcher, refresh: Duration) {
    let fetcher = Arc::new(fetcher);
    let mut places: HashMap<KeySource, Place> = HashMap::new();
    let mut attempts: JoinSet<(KeySource, Result<Text, Text>)> = JoinSet::new();
    loop {
        tokio::select! {
            () = state.stop.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
            Some(Ok((source, fetched))) = attempts.join_next() => {
                if let Some(place) = places.get_mut(&source) {
                    place.ended(fetched.is_ok(), refresh);
                }
                if let Err(why) = &fetched {
                    tracing::warn!(?source, %why, "the keys of an issuer cannot be fetched");
                }
                if events.send(Source::Controller, Event::Keys { source, fetched }).await.is_err() {
                    return;
                }
            }
        }
        if !state.ready() && !state.inventory().ready() {
            continue;
        }
        let sources = state.inventory().key_sources();
        places.retain(|source, _| sources.contains_key(source));
        for (source, timeout) in sources {
            let full = places.len() >= PLACES;
            let place = match places.get_mut(&source) {
                Some(known) => known,
                None if full => {
                    let fetched = Err(format!("more than {PLACES} places of keys are named").into());
                    let place = Place { due: Instant::now() + refresh, ..Place::default() };
                    places.insert(source.clone(), place);
                    if events.send(Source::Controller, Event::Keys { source, fetched }).await.is_err() {
                        return;
                    }
                    continue;
                }
                None => places.entry(source.clone()).or_default(),
            };
            if place.running || place.due > Instant::now() || attempts.len() >= AT_A_TIME {
                continue;
            }
            place.running = true;
            let fetcher = fetcher.clone();
            attempts.spawn(async move {
                let fetched = fetcher.fetch(&source, timeout).await.map_err(Text::from);
                (source, fetched)
            });
        }
    }
}

/// When an attempt is made.
#[derive(Debug)]
struct Place {
    due: Instant,
    running: bool,
    failures: u32,
}

impl Default for Place {
    fn default() -> Self {
        Place { due: Instant::now(), running: false, failures: 0 }
    }
}

impl Place {
    /// Notes the end of an attempt. Returns the time until the next one.
    fn ended(&mut self, fetched: bool, refresh: Duration) -> Duration {
        self.running = false;
        self.failures = if fetched { 0 } else { self.failures.saturating_add(1) };
        let retry = FIRST_RETRY.saturating_mul(1 << self.failures.saturating_sub(1).min(10)).min(SLOWEST);
        let wait = if fetched { refresh } else { retry };
        self.due = Instant::now() + wait;
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_farther_apart_with_each_failure() {
        let refresh = Duration::from_secs(600);
        let mut place = Place::default();
        let waits = [(); 9].map(|()| place.ended(false, refresh).as_secs());
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(place.ended(true, refresh), refresh);
        assert_eq!(place.ended(false, refresh), FIRST_RETRY);
    }
}
