//! Issuers of tokens: their host names and algorithms.

use api::names::is_dns_label;
use serde_saphyr::Spanned;

use super::super::diagnostic::{Problem, with_nearest};
use super::super::file;
use super::super::model::{TokenAlgorithm, TokenIssuer};
use super::names::CheckResult;

/// Most issuers of a lab.
const MAX_ISSUERS: usize = 16;
/// Longest host name (RFC 1035 §2.3.4).
const MAX_HOST: usize = 253;
/// The domain of the clusters, whose names are those of Services and pods.
const CLUSTER_DOMAIN: &str = "cluster.local";

/// Returns the issuers, each host once.
pub(super) fn issuers(raw: &[Spanned<file::IssuerEntry>]) -> CheckResult<Vec<TokenIssuer>> {
    if let Some(extra) = raw.get(MAX_ISSUERS) {
        let message = format!("{} issuers; a lab has at most {MAX_ISSUERS}", raw.len());
        return Err(Problem::new(extra.referenced, message).hint("remove those that no policy names"));
    }
    let mut issuers: Vec<TokenIssuer> = Vec::new();
    for entry in raw {
        let host = host(&entry.value.host)?;
        if issuers.iter().any(|other| other.host == host) {
            return Err(Problem::new(entry.referenced, format!("issuer \"{host}\" is listed twice"))
                .hint("remove one of them: an issuer has one algorithm"));
        }
        let algorithm = entry.value.algorithm.as_ref().map(algorithm).transpose()?.unwrap_or_default();
        issuers.push(TokenIssuer { host, algorithm });
    }
    Ok(issuers)
}

/// Checks a host name outside of the clusters: labels with dots between them.
fn host(raw: &Spanned<String>) -> CheckResult<String> {
    let text = &raw.value;
    let labels: Vec<&str> = text.split('.').collect();
    let is_name = labels.len() > 1 && text.len() <= MAX_HOST && labels.iter().all(|label| is_dns_label(label));
    let is_address = labels.iter().all(|label| label.bytes().all(|byte| byte.is_ascii_digit()));
    if !is_name || is_address {
        return Err(Problem::new(raw.referenced, format!("\"{text}\" is not the host name of an issuer"))
            .hint("a name in lower case with at least one dot, without scheme and path, such as auth.example.com"));
    }
    if text.ends_with(&format!(".{CLUSTER_DOMAIN}")) || text == CLUSTER_DOMAIN {
        return Err(Problem::new(raw.referenced, format!("issuer \"{text}\" has the name of a Service"))
            .hint(format!("choose a name outside of {CLUSTER_DOMAIN}, such as auth.example.com")));
    }
    Ok(text.clone())
}

fn algorithm(raw: &Spanned<String>) -> CheckResult<TokenAlgorithm> {
    let found = TokenAlgorithm::ALL.into_iter().find(|algorithm| algorithm.name() == raw.value);
    found.ok_or_else(|| {
        let known = TokenAlgorithm::ALL.map(TokenAlgorithm::name);
        Problem::new(raw.referenced, format!("unknown algorithm of an issuer \"{}\"", raw.value)).hint(with_nearest(
            &format!("algorithms: {}", known.join(", ")),
            &raw.value,
            known.into_iter(),
        ))
    })
}
