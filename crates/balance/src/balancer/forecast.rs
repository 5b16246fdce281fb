//! Where the next picks will go, for display: computed from the pools that picks are made from.

use std::time::Instant;

use super::{Balancer, Endpoint, Mode, Pool};
use crate::EndpointState;

/// Where the next picks will go.
#[derive(Debug)]
pub struct Forecast<'a, T> {
    /// The endpoints, with their shares.
    pub endpoints: Vec<EndpointForecast<'a, T>>,
    /// Too few endpoints are in use, so ejected ones are picked as well.
    pub panic: bool,
}

/// An endpoint, and its share of the next picks.
#[derive(Debug)]
pub struct EndpointForecast<'a, T> {
    /// The endpoint.
    pub endpoint: &'a Endpoint<T>,
    /// Its state in outlier detection.
    pub state: EndpointState,
    /// The number of requests in progress.
    pub in_flight: u32,
    /// Its rank ([`super::TierView::rank`]).
    pub rank: u32,
    /// The expected share of the next picks, from 0 to 1.
    pub share: f64,
}

impl<T: Clone> Balancer<T> {
    /// Returns where the next picks will go. With the hash of a request, for algorithms that choose by it, that is one
    /// endpoint. The single requests that probe endpoints after an ejection are not part of it.
    ///
    /// Shares are exact for picks without load. Requests in progress move picks of [`crate::Algorithm::LeastRequest`] to
    /// less loaded endpoints of the same tier; without a hash, shares on a ring are those of the weights.
    pub fn forecast(&mut self, now: Instant, hash: Option<u64>) -> Forecast<'_, T> {
        self.refresh(now);
        let mut shares = vec![0.0; self.rows.len()];
        let mut panic = match hash.filter(|_| self.hashes()) {
            Some(hash) => self.ordinary(&[], hash).is_some_and(|(row, mode)| {
                shares[row] = 1.0;
                mode == Mode::Panic
            }),
            None => self.share_out(&mut shares),
        };
        if shares.iter().all(|share| *share == 0.0) {
            let last = self.last_resort(&[]);
            panic = !last.is_empty();
            last.iter().for_each(|row| shares[*row] = 1.0 / last.len() as f64);
        }
        let ranks = self.rows.iter().map(|row| self.ranks.get(row.tier).copied().unwrap_or_default());
        let endpoints = self.endpoints().zip(ranks).zip(shares);
        let endpoints = endpoints.map(|(((endpoint, state, in_flight), rank), share)| EndpointForecast {
            endpoint,
            state,
            in_flight,
            rank,
            share,
        });
        Forecast { endpoints: endpoints.collect(), panic }
    }

    /// Adds the shares of pools to those of their endpoints. Returns whether one of them is in panic.
    fn share_out(&self, shares: &mut [f64]) -> bool {
        let weight = |pool: &Pool| pool.available.last().map_or(0, |(sum, _)| *sum);
        let mut panic = false;
        for pool in self.pools.iter().filter(|pool| pool.share > 0) {
            // As in `ordinary`: what a pool without endpoints cannot take goes to the first that has some.
            let has_some = |pool: &&Pool| weight(pool) > 0;
            let Some(used) = Some(pool).filter(has_some).or_else(|| self.pools.iter().find(has_some)) else { break };
            panic |= used.panic;
            let part = pool.share as f64 / self.total as f64;
            let mut before = 0;
            for (end, row) in &used.available {
                shares[*row] += part * (end - before) as f64 / weight(used) as f64;
                before = *end;
            }
        }
        panic
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use super::super::Health;
    use super::*;
    use crate::{Algorithm, Locality, Outcome, Settings};

    const PICKS: u64 = 20_000;

    fn endpoint(id: &str, region: &str, weight: u32, health: Health) -> Endpoint<()> {
        Endpoint { id: id.into(), locality: Locality::new(region, "", ""), priority: 0, weight, health, target: () }
    }

    fn balancer(endpoints: Vec<Endpoint<()>>, algorithm: Algorithm) -> Balancer<()> {
        let mut balancer = Balancer::new(Locality::new("west", "", ""));
        balancer.set_settings(Settings { algorithm, ..Settings::default() });
        balancer.update(endpoints);
        balancer
    }

    fn eject(balancer: &mut Balancer<()>, id: &str, now: Instant) {
        let others: Vec<Arc<str>> =
            balancer.endpoints().map(|(endpoint, ..)| endpoint.id.clone()).filter(|other| **other != *id).collect();
        for _ in 0..2 {
            balancer.pick(now, &others, 7).expect("an endpoint").report(Outcome::ConnectFailure, now);
        }
    }

    /// Asserts that picks follow the forecast.
    #[track_caller]
    fn assert_agrees(balancer: &mut Balancer<()>, now: Instant, name: &str) {
        let forecast: HashMap<Arc<str>, f64> = balancer
            .forecast(now, None)
            .endpoints
            .iter()
            .map(|of| (of.endpoint.id.clone(), of.share))
            .filter(|(_, share)| *share > 0.0)
            .collect();
        let mut counts: HashMap<Arc<str>, u64> = HashMap::new();
        for at in 0..PICKS {
            if let Some(pick) = balancer.pick(now, &[], crate::hashing::mix(at)) {
                *counts.entry(pick.id.clone()).or_default() += 1;
            }
        }
        let ids = |of: &HashMap<Arc<str>, f64>| {
            let mut ids: Vec<_> = of.keys().cloned().collect();
            ids.sort();
            ids
        };
        let seen: HashMap<Arc<str>, f64> =
            counts.into_iter().map(|(id, count)| (id, count as f64 / PICKS as f64)).collect();
        assert_eq!(ids(&forecast), ids(&seen), "{name}: {forecast:?} {seen:?}");
        for (id, share) in &forecast {
            assert!((share - seen[id]).abs() < 0.02, "{name}: {id}: forecast {share}, seen {}", seen[id]);
        }
    }

    #[test]
    fn picks_follow_the_forecast() {
        use Health::{Draining, Ready, Unready};
        let now = Instant::now();
        let local = || vec![endpoint("a", "west", 1, Ready), endpoint("b", "west", 3, Ready)];
        let remote = || vec![endpoint("c", "east", 2, Ready), endpoint("d", "east", 2, Unready)];
        for algorithm in [Algorithm::LeastRequest, Algorithm::RoundRobin, Algorithm::Random] {
            let agree = |endpoints: Vec<Endpoint<()>>, ejected: &[&str], name: &str| {
                let mut balancer = balancer(endpoints, algorithm);
                ejected.iter().for_each(|id| eject(&mut balancer, id, now));
                assert_agrees(&mut balancer, now, &format!("{name}, {algorithm:?}"));
            };
            agree([local(), remote()].concat(), &[], "two tiers");
            agree([local(), remote()].concat(), &["b"], "half of the nearest tier ejected");
            agree([local(), remote()].concat(), &["a", "b"], "the nearest tier ejected");
            agree(remote(), &["c"], "every endpoint ejected");
            agree(vec![endpoint("a", "west", 1, Draining)], &[], "none ready");
            agree(Vec::new(), &[], "no endpoints");
        }
    }

    #[test]
    fn a_hash_leads_to_one_endpoint() {
        let ready = |id: &str| endpoint(id, "west", 1, Health::Ready);
        let mut balancer = balancer(vec![ready("a"), ready("b"), ready("c")], Algorithm::RingHash { minimum_size: 64 });
        for hash in (0..20).map(crate::hashing::mix) {
            let picked = balancer.pick_by(Instant::now(), &[], Some(hash), 1).expect("an endpoint").id.clone();
            let forecast = balancer.forecast(Instant::now(), Some(hash));
            let whole: Vec<_> = forecast.endpoints.iter().filter(|of| of.share == 1.0).collect();
            assert!(whole.len() == 1 && whole[0].endpoint.id == picked, "{forecast:?}");
        }
        let forecast = balancer.forecast(Instant::now(), None);
        assert!(forecast.endpoints.iter().all(|of| (of.share - 1.0 / 3.0).abs() < 1e-9), "{forecast:?}");
    }

    #[test]
    fn panic_is_stated() {
        let now = Instant::now();
        let mut balancer = balancer(vec![endpoint("a", "west", 1, Health::Ready)], Algorithm::LeastRequest);
        assert!(!balancer.forecast(now, None).panic);
        eject(&mut balancer, "a", now);
        let forecast = balancer.forecast(now, None);
        assert!(forecast.panic && forecast.endpoints[0].share == 1.0, "{forecast:?}");
        assert!(matches!(forecast.endpoints[0].state, EndpointState::Ejected { .. }), "{forecast:?}");
    }
}
