//! Compares outcomes with recorded ones.

use std::collections::BTreeMap;

use crate::case::{Case, CaseRequest};
use crate::outcome::Outcome;

/// Milliseconds that a response may take longer than recorded, beside a fifth: the machine may be busy.
const LATER: u64 = 400;
/// Milliseconds that it may take less.
const EARLIER: u64 = 60;

/// Returns how outcomes of a case differ from recorded ones, one line each.
pub fn differences(case: &Case, recorded: &[Outcome], got: &[Outcome]) -> Vec<String> {
    if recorded.len() != case.requests.len() || got.len() != case.requests.len() {
        return vec![format!("{} requests, {} recorded, {} run", case.requests.len(), recorded.len(), got.len())];
    }
    let all = case.requests.iter().zip(recorded.iter().zip(got)).enumerate();
    let differing = all.flat_map(|(index, (request, (recorded, got)))| {
        let about = format!("request {} {} {}", index + 1, request.method, request.path);
        of_request(request, recorded, got).into_iter().map(move |difference| format!("{about}: {difference}"))
    });
    differing.collect()
}

fn of_request(request: &CaseRequest, recorded: &Outcome, got: &Outcome) -> Vec<String> {
    let mut found = Vec::new();
    let mut differ = |what: &str, recorded: String, got: String| {
        if recorded != got {
            found.push(format!("{what}: Istio {recorded}, Isthmus {got}"));
        }
    };
    let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".to_owned());
    differ("refused", recorded.refused.to_string(), got.refused.to_string());
    let [was, is] = [recorded, got].map(|of| of.status.unwrap_or(0));
    if was != is {
        let why = got.error.as_ref().map(|error| format!(" ({error})")).unwrap_or_default();
        differ("status", was.to_string(), format!("{is}{why}"));
    }
    differ("gRPC status", text(&recorded.grpc), text(&got.grpc));
    differ("version", text(&recorded.version), text(&got.version));
    differ("response headers", format!("{:?}", recorded.headers), format!("{:?}", got.headers));
    differ("body", format!("{:?}", recorded.body), format!("{:?}", got.body));
    differ("details", text(&recorded.details), text(&got.details));
    differ("handshake", text(&recorded.handshake), text(&got.handshake));
    differ("flags", text(&recorded.flags), text(&got.flags));
    differ("versions", format!("{:?}", recorded.versions), format!("{:?}", got.versions));
    if recorded.arrivals.len() == got.arrivals.len() {
        for (recorded, got) in recorded.arrivals.iter().zip(&got.arrivals) {
            differ("arrived", format!("{recorded:?}"), format!("{got:?}"));
        }
    } else {
        differ(
            "arrivals",
            format!("{} {:?}", recorded.arrivals.len(), recorded.arrivals),
            format!("{} {:?}", got.arrivals.len(), got.arrivals),
        );
    }
    let tolerance = (request.tolerance * f64::from(request.times)).ceil() as u32;
    for (what, recorded, got) in
        [("answers", &recorded.counts, &got.counts), ("arrivals", &recorded.arrived, &got.arrived)]
    {
        if !within(recorded, got, tolerance) {
            differ(what, format!("{recorded:?} ± {tolerance}"), format!("{got:?}"));
        }
    }
    if let (Some(recorded), Some(got)) = (recorded.milliseconds, got.milliseconds)
        && (got + EARLIER < recorded || got > recorded + recorded / 5 + LATER)
    {
        differ("time", format!("{recorded} ms"), format!("{got} ms"));
    }
    found
}

fn within(recorded: &BTreeMap<String, u32>, got: &BTreeMap<String, u32>, tolerance: u32) -> bool {
    let of = |counts: &BTreeMap<String, u32>, key: &String| counts.get(key).copied().unwrap_or(0);
    recorded.keys().chain(got.keys()).all(|key| of(recorded, key).abs_diff(of(got, key)) <= tolerance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_may_differ_by_the_tolerance() {
        let counts = |a, b| BTreeMap::from([("200 v1".to_owned(), a), ("200 v2".to_owned(), b)]);
        assert!(within(&counts(75, 25), &counts(70, 30), 5) && !within(&counts(75, 25), &counts(69, 31), 5));
        assert!(within(&BTreeMap::new(), &BTreeMap::new(), 0) && !within(&counts(1, 1), &BTreeMap::new(), 0));
    }
}
