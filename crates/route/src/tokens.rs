//! A budget of retries, as Linkerd has it: requests pay for the retries of others.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The number of parts in which the time that counts passes.
const SLOTS: u32 = 10;

/// What a token is divided into, so that ratios are whole numbers.
const PARTS: f64 = 1_000.0;

/// How many retries a budget allows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenPolicy {
    /// The tokens that a request adds which is not repeated.
    pub ratio: f64,
    /// The tokens that are added in each second.
    pub min_per_second: u32,
    /// How long added and taken tokens count.
    pub ttl: Duration,
}

/// A budget of retries, which the workers of a proxy share. A retry takes a token.
#[derive(Debug)]
pub struct RetryTokens {
    policy: TokenPolicy,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What was added and taken in each part of the time, in parts of a token.
    slots: [i64; SLOTS as usize],
    /// The present slot, numbered from `since`.
    now: u64,
    since: Option<Instant>,
}

/// Two budgets are equal if their policies are.
impl PartialEq for RetryTokens {
    fn eq(&self, other: &Self) -> bool {
        self.policy == other.policy
    }
}

impl RetryTokens {
    /// Creates a full budget.
    pub fn new(policy: TokenPolicy) -> Self {
        Self { policy, state: Mutex::default() }
    }

    /// Adds what a request is worth that is not repeated.
    pub fn deposit(&self, now: Instant) {
        self.change(now, |_| Some((self.policy.ratio * PARTS) as i64));
    }

    /// Takes the token of a retry. Returns whether there was one.
    pub fn withdraw(&self, now: Instant) -> bool {
        // What is always there, of all the time that counts.
        let reserve = (f64::from(self.policy.min_per_second) * self.policy.ttl.as_secs_f64() * PARTS) as i64;
        let token = PARTS as i64;
        self.change(now, |sum| (reserve.saturating_add(sum) >= token).then_some(-token))
    }

    /// Changes the present slot by what `change` returns for the sum of all.
    fn change(&self, now: Instant, change: impl FnOnce(i64) -> Option<i64>) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.pass_to(now, self.policy.ttl / SLOTS);
        let sum = state.slots.iter().fold(0_i64, |sum, slot| sum.saturating_add(*slot));
        let change = change(sum);
        if let Some(change) = change {
            let slot = state.present();
            *slot = slot.saturating_add(change);
        }
        change.is_some()
    }
}

impl State {
    fn present(&mut self) -> &mut i64 {
        let index = usize::try_from(self.now % u64::from(SLOTS)).unwrap_or_default();
        &mut self.slots[index]
    }

    /// Lets time pass: what is older than all slots no longer counts.
    fn pass_to(&mut self, now: Instant, slot: Duration) {
        let since = *self.since.get_or_insert(now);
        let passed = now.saturating_duration_since(since).as_nanos() / slot.as_nanos().max(1);
        let passed = u64::try_from(passed).unwrap_or(u64::MAX);
        for _ in 0..passed.saturating_sub(self.now).min(SLOTS.into()) {
            self.now += 1;
            *self.present() = 0;
        }
        self.now = self.now.max(passed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(ratio: f64, min_per_second: u32) -> (RetryTokens, Instant) {
        (RetryTokens::new(TokenPolicy { ratio, min_per_second, ttl: Duration::from_secs(10) }), Instant::now())
    }

    fn withdraw_all(tokens: &RetryTokens, now: Instant) -> usize {
        (0..10_000).take_while(|_| tokens.withdraw(now)).count()
    }

    #[test]
    fn requests_pay_for_retries() {
        let (tokens, start) = tokens(0.2, 0);
        assert_eq!(withdraw_all(&tokens, start), 0);
        (0..50).for_each(|_| tokens.deposit(start));
        assert_eq!(withdraw_all(&tokens, start), 10);
    }

    #[test]
    fn some_retries_are_always_allowed() {
        let (tokens, start) = tokens(0.0, 10);
        assert_eq!(withdraw_all(&tokens, start), 100, "of ten seconds");
        assert_eq!(withdraw_all(&tokens, start + Duration::from_secs(5)), 0);
        assert_eq!(withdraw_all(&tokens, start + Duration::from_secs(11)), 100, "what was taken no longer counts");
    }

    #[test]
    fn what_was_added_counts_for_a_time() {
        let (tokens, start) = tokens(1.0, 0);
        tokens.deposit(start);
        tokens.deposit(start + Duration::from_secs(6));
        assert_eq!(withdraw_all(&tokens, start + Duration::from_secs(12)), 1, "the second one");
        tokens.deposit(start + Duration::from_secs(13));
        assert_eq!(withdraw_all(&tokens, start + Duration::from_secs(1_000_000)), 0);
    }

    #[test]
    fn a_time_that_is_past_is_the_present() {
        let (tokens, start) = tokens(1.0, 0);
        tokens.deposit(start + Duration::from_secs(20));
        tokens.deposit(start);
        assert_eq!(withdraw_all(&tokens, start), 2);
    }
}
