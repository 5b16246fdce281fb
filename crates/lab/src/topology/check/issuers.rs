//! Issuers of tokens: their host names and algorithms.

use serde_saphyr::Spanned;

use super::super::diagnostic::{Problem, with_nearest};
use super::super::file;
use super::super::model::{TokenAlgorithm, TokenIssuer};
use super::names::{CheckResult, outside_host};

/// Most issuers of a lab.
const MAX_ISSUERS: usize = 16;
/// Returns the issuers, each host once.
pub(super) fn issuers(raw: &[Spanned<file::IssuerEntry>]) -> CheckResult<Vec<TokenIssuer>> {
    if let Some(extra) = raw.get(MAX_ISSUERS) {
        let message = format!("{} issuers; a lab has at most {MAX_ISSUERS}", raw.len());
        return Err(Problem::new(extra.referenced, message).hint("remove those that no policy names"));
    }
    let mut issuers: Vec<TokenIssuer> = Vec::new();
    for entry in raw {
        let host = outside_host(&entry.value.host, "issuer")?;
        if issuers.iter().any(|other| other.host == host) {
            return Err(Problem::new(entry.referenced, format!("issuer \"{host}\" is listed twice"))
                .hint("remove one of them: an issuer has one algorithm"));
        }
        let algorithm = entry.value.algorithm.as_ref().map(algorithm).transpose()?.unwrap_or_default();
        issuers.push(TokenIssuer { host, algorithm });
    }
    Ok(issuers)
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
