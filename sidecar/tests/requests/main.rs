//! Bounds on the allocations of a request through both sidecars, close to the measured values, so that growth does not
//! go unnoticed. `cargo test -p isthmus-sidecar --test requests -- --nocapture` prints the values.

use net::count::{self, Counting};

#[path = "../mesh/app.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod app;
#[path = "../mesh/fixture/mod.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod fixture;
#[path = "../mesh/gate.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod gate;
#[allow(dead_code, reason = "the benchmark uses the rest")]
mod pair;

use pair::{Pair, Security};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The maximum allocations and bytes of a request in both sidecars together: the measured values (35.0 and 37 853,
/// November 2026) and some 3 % more. Each run measures the same. A change that lowers the values lowers these bounds.
const MAX_ALLOCATIONS: f64 = 36.0;
const MAX_BYTES: f64 = 39_000.0;

/// The same with all policies of a route: time limits, retries and a rewritten path.
const MAX_ALLOCATIONS_OF_POLICIES: f64 = MAX_ALLOCATIONS + 5.0;
/// The same with headers that are set and added, each way. A header that is no standard one takes some allocations on each
/// side that parses it.
const MAX_ALLOCATIONS_OF_HEADERS: f64 = MAX_ALLOCATIONS_OF_POLICIES + 4.5;

/// Returns the allocations of a request, and their bytes.
fn per_request(mut pair: Pair) -> (f64, f64) {
    const REQUESTS: u32 = 1000;
    for _ in 0..100 {
        pair.request();
    }
    let before = count::allocations();
    for _ in 0..REQUESTS {
        pair.request();
    }
    let allocations = count::allocations() - before;
    (allocations.calls as f64 / f64::from(REQUESTS), allocations.bytes as f64 / f64::from(REQUESTS))
}

// The only test of this program: the allocations of another one would be counted as well.
#[test]
fn allocations_per_request_stay_within_bounds() {
    let (calls, bytes) = per_request(Pair::start(Security::MutualTls));
    println!("a request through two sidecars: {calls:.1} allocations, {bytes:.0} bytes");
    assert!(calls <= MAX_ALLOCATIONS, "{calls:.1} allocations, more than {MAX_ALLOCATIONS}");
    assert!(bytes <= MAX_BYTES, "{bytes:.0} bytes, more than {MAX_BYTES}");
    if calls < MAX_ALLOCATIONS * 0.94 || bytes < MAX_BYTES * 0.94 {
        println!("the values have improved: lower the bounds of this test");
    }
    let (calls, bytes) = per_request(Pair::start_with(Security::MutualTls, pair::all_policies()));
    println!("the same with all policies of a route: {calls:.1} allocations, {bytes:.0} bytes");
    assert!(calls <= MAX_ALLOCATIONS_OF_POLICIES, "{calls:.1} allocations, more than {MAX_ALLOCATIONS_OF_POLICIES}");
    let (calls, bytes) = per_request(Pair::start_with(Security::MutualTls, pair::all_policies_and_headers()));
    println!("the same with changes of headers: {calls:.1} allocations, {bytes:.0} bytes");
    assert!(calls <= MAX_ALLOCATIONS_OF_HEADERS, "{calls:.1} allocations, more than {MAX_ALLOCATIONS_OF_HEADERS}");
}
