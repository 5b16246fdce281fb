//! Preferences of localities.

use super::{Check, names};
use crate::networking::load_balancer::{Distribute, Failover, LocalityLb, ZoneAwareLb};

/// The labels of a locality, whose order `failover` decides.
const LOCALITY_LABELS: &[&str] =
    &["topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"];
/// The number of patterns in one list that are compared with each other.
const MAX_COMPARED: usize = 500;

pub(super) fn check(setting: &LocalityLb, check: &mut Check) {
    // Istio refuses `distribute` beside `failover`; here they go together.
    if !setting.failover.is_empty() {
        check.each("failoverPriority", &setting.failover_priority, |label, check| {
            if LOCALITY_LABELS.contains(&label.as_str()) {
                check.error(format!("is {label:?}, whose order failover decides; remove one of them"));
            }
        });
    }
    check.each("distribute", &setting.distribute, distribute);
    let sources: Vec<&str> = setting.distribute.iter().map(|of| of.from.as_str()).collect();
    patterns(check, &sources, |index| format!(".distribute[{index}].from"));
    failover(check, &setting.failover);
}

/// Checks the preferences of zones.
pub(super) fn zones(setting: &ZoneAwareLb, check: &mut Check) {
    failover(check, &setting.failover);
    check.each("failoverPriority", &setting.failover_priority, |label, check| {
        if LOCALITY_LABELS.contains(&label.as_str()) {
            check.error(format!("is {label:?}, whose order the setting itself decides; remove it"));
        }
    });
}

fn distribute(distribute: &Distribute, check: &mut Check) {
    let total: u64 = distribute.to.values().map(|weight| u64::from(*weight)).sum();
    for (locality, weight) in &distribute.to {
        if !(1..=100).contains(weight) {
            check.error_of(
                &format!("to[{}]", names::shown(locality)),
                format!("is {weight}, but must be from 1 to 100"),
            );
        }
    }
    if total != 100 {
        check.error_of("to", format!("adds up to {total}, but must add up to 100"));
    }
    let targets: Vec<&str> = distribute.to.keys().map(String::as_str).collect();
    patterns(check, &targets, |index| format!(".to[{}]", names::shown(targets[index])));
}

/// Checks patterns of localities: `region`, `region/zone` or `region/zone/subzone`, of which the end may be `*`, and none of
/// which covers another.
fn patterns(check: &mut Check, patterns: &[&str], field: impl Fn(usize) -> String) {
    for (index, pattern) in patterns.iter().take(MAX_COMPARED).enumerate() {
        check.at(format_args!("{}", field(index)), |check| {
            if pattern.split('/').any(str::is_empty) || pattern.split('/').count() > 3 {
                check.error(format!(
                    "is {:?}, but must be region/zone/subzone or less, with no part empty",
                    names::shown(pattern)
                ));
            } else if pattern.find('*').is_some_and(|at| at + 1 != pattern.len()) {
                check.error(format!("is {:?}, but may have one \"*\", at the end", names::shown(pattern)));
            } else if let Some(other) = patterns[..index].iter().find(|other| overlap(other, pattern)) {
                check.error(format!("overlaps with {:?}; remove one of them", names::shown(other)));
            }
        });
    }
}

/// Returns whether the later of two patterns has no effect of its own. The first that matches has effect, so a general one
/// after a specific one does.
fn overlap(early: &str, late: &str) -> bool {
    for (early, late) in early.split('/').zip(late.split('/')) {
        match early {
            "*" => return true,
            early if early != late => return false,
            _ => {}
        }
    }
    true
}

fn failover(check: &mut Check, failover: &[Failover]) {
    check.each("failover", failover, |of, check| {
        for (field, region) in [("from", &of.from), ("to", &of.to)] {
            if region.is_empty() {
                check.error_of(field, "is missing; name a region");
            } else if region.contains(['/', '*']) {
                check.error_of(field, format!("is {:?}, but must be a region alone", names::shown(region)));
            }
        }
        if of.from == of.to && !of.from.is_empty() {
            check.error_of("to", format!("is {:?}, as from is; name another region", names::shown(&of.to)));
        }
    });
}
