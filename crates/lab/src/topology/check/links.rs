//! Links between networks: their delay and loss.

use std::time::Duration;

use serde_saphyr::Spanned;

use super::super::diagnostic::{Problem, with_nearest};
use super::super::file;
use super::super::model::{Cluster, Delay, Link};
use super::names::CheckResult;

/// Greatest loss in percent; with more, few connections are established.
const MAX_LOSS: f64 = 50.0;
/// Longest delay between networks; a longer one is a broken link rather than a slow one.
const MAX_DELAY: Duration = Duration::from_secs(5);

/// Returns the links between clusters, one for each pair that an entry names by its networks or clusters.
pub(super) fn links(raw: &[Spanned<file::LinkEntry>], clusters: &[Cluster]) -> CheckResult<Vec<Link>> {
    let mut links: Vec<Link> = Vec::new();
    for entry in raw {
        let link = &entry.value;
        let [near, far] = link.between.value.as_slice() else {
            let message = format!("a link is between two networks, not {}", link.between.value.len());
            return Err(Problem::new(link.between.referenced, message).hint("such as between: [net-west, net-east]"));
        };
        let delay = delay_with_jitter(link)?;
        let loss_per_mille = link.loss.as_ref().map(loss).transpose()?;
        if delay.is_none() && loss_per_mille.is_none() {
            return Err(Problem::new(entry.referenced, "the link has neither delay nor loss")
                .hint("add delay: 20ms or loss: 1%, or remove the link"));
        }
        for one in ends(near, clusters)? {
            for other in ends(far, clusters)? {
                if one.network == other.network {
                    let message = match near.value == far.value {
                        true => format!("the link is between \"{}\" and itself", near.value),
                        false => format!("\"{}\" and \"{}\" are on the same network", near.value, far.value),
                    };
                    return Err(Problem::new(link.between.referenced, message)
                        .hint("a link is between different networks: pods of one network reach each other directly"));
                }
                let is_same = |link: &&Link| link.between.contains(&one.name) && link.between.contains(&other.name);
                if links.iter().any(|link| is_same(&link)) {
                    let message = format!("a second link between clusters \"{}\" and \"{}\"", one.name, other.name);
                    return Err(Problem::new(link.between.referenced, message)
                        .hint("put delay, jitter and loss of a link into one entry"));
                }
                links.push(Link { between: [one.name.clone(), other.name.clone()], delay, loss_per_mille });
            }
        }
    }
    Ok(links)
}

/// Returns the clusters of the network with a name, or the cluster.
fn ends<'a>(name: &Spanned<String>, clusters: &'a [Cluster]) -> CheckResult<Vec<&'a Cluster>> {
    let of = |is: &dyn Fn(&Cluster) -> bool| clusters.iter().filter(|cluster| is(cluster)).collect::<Vec<_>>();
    let on_network = of(&|cluster| cluster.network == name.value);
    if !on_network.is_empty() {
        return Ok(on_network);
    }
    let named = of(&|cluster| cluster.name == name.value);
    if !named.is_empty() {
        return Ok(named);
    }
    let mut known: Vec<&str> = clusters.iter().map(|cluster| cluster.network.as_str()).collect();
    known.sort_unstable();
    known.dedup();
    let names = known.iter().copied().chain(clusters.iter().map(|cluster| cluster.name.as_str()));
    Err(Problem::new(name.referenced, format!("the link names \"{}\", which is no network and no cluster", name.value))
        .hint(with_nearest(&format!("networks: {}", known.join(", ")), &name.value, names)))
}

fn delay_with_jitter(link: &file::LinkEntry) -> CheckResult<Option<Delay>> {
    let mean = link.delay.as_ref().map(delay).transpose()?;
    let jitter = link.jitter.as_ref().map(|raw| duration(raw, "jitter")).transpose()?;
    match (mean, jitter, &link.jitter) {
        (Some(mean), Some(jitter), _) if jitter <= mean => Ok(Some(Delay { mean, jitter })),
        (mean, Some(_), Some(raw)) => {
            let than = mean.map_or("no delay".to_owned(), |mean| format!("a delay of {mean:?}"));
            Err(Problem::new(raw.referenced, format!("jitter \"{}\", but the link has {than}", raw.value))
                .hint("the delay varies by the jitter: add a delay that is at least as long"))
        }
        (mean, ..) => Ok(mean.map(|mean| Delay { mean, jitter: Duration::ZERO })),
    }
}

/// Parses `1%` or `0.5%`, as packets of a thousand.
pub(super) fn loss(raw: &Spanned<String>) -> CheckResult<u16> {
    let percent = raw.value.trim().strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
    match percent {
        Some(percent) if (0.1..=MAX_LOSS).contains(&percent) => Ok((percent * 10.0).round() as u16),
        Some(_) => Err(Problem::new(raw.referenced, format!("loss \"{}\" is out of range", raw.value))
            .hint(format!("between 0.1% and {MAX_LOSS}%"))),
        None => {
            Err(Problem::new(raw.referenced, format!("\"{}\" is not a loss", raw.value))
                .hint("a percentage, such as 1%"))
        }
    }
}

pub(super) fn delay(raw: &Spanned<String>) -> CheckResult<Duration> {
    duration(raw, "delay")
}

/// Parses `20ms`, `1.5s` or `500us`, the value of the field `what`.
fn duration(raw: &Spanned<String>, what: &str) -> CheckResult<Duration> {
    let text = raw.value.trim();
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let unit = match &text[split..] {
        "us" => Some(1e-6),
        "ms" => Some(1e-3),
        "s" => Some(1.0),
        _ => None,
    };
    let seconds = unit.and_then(|unit| Some(text[..split].trim().parse::<f64>().ok()? * unit));
    match seconds {
        Some(seconds) if seconds >= 0.0 && seconds <= MAX_DELAY.as_secs_f64() => Ok(Duration::from_secs_f64(seconds)),
        Some(_) => Err(Problem::new(raw.referenced, format!("{what} \"{}\" is out of range", raw.value))
            .hint(format!("between 0 and {} s", MAX_DELAY.as_secs()))),
        None => Err(Problem::new(raw.referenced, format!("\"{}\" is not a {what}", raw.value))
            .hint("a number with us, ms or s, such as 20ms")),
    }
}
