//! `lab token` and `lab rotate-keys`: tokens of the issuers that a lab serves, and the replacement of their keys.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use serde_json::{Map, Value, json};

use super::outcome::CommandError;
use super::selection::{LabSelection, option_of};
use crate::console::print;
use crate::orchestration::issuers::{self, IssuerKeys, IssuersError, KeyUse, RotationError, RotationStep};
use crate::orchestration::state::{LabDirectory, LabName};
use crate::topology::TokenIssuer;

/// Longest validity of a token, forward or backward.
const LONGEST: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

/// Print a token of an issuer that a running lab serves.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  isthmus lab token --subject alice --audience api-service\n  \
                  isthmus lab token --issuer auth.example.com --subject alice --claim 'groups=[\"ops\"]' --expires 10m\n  \
                  isthmus lab exec west/default/frontend -- curl -H \"authorization: Bearer $(isthmus lab token --subject alice)\" http://reviews:9080/")]
pub struct TokenOptions {
    /// Host name of the issuer, if the lab has several
    #[arg(long, value_name = "HOST")]
    issuer: Option<String>,
    /// Subject of the token (claim sub)
    #[arg(long, value_name = "NAME")]
    subject: String,
    /// Audience of the token (claim aud); may be repeated
    #[arg(long, value_name = "NAME")]
    audience: Vec<String>,
    /// Further claim, whose value is JSON or else text; may be repeated. It replaces a claim of the same name
    #[arg(long = "claim", value_name = "NAME=VALUE", value_parser = claim)]
    claims: Vec<(String, Value)>,
    /// Time until the token expires, such as 1h or 90s; a negative time makes an expired one
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = expiry, allow_hyphen_values = true)]
    expires: Expiry,
    /// Sign with this published key instead of the one that signs
    #[arg(long, value_name = "KEY-ID")]
    key: Option<String>,
    #[command(flatten)]
    which: LabSelection,
}

impl TokenOptions {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        let record = self.which.choose()?;
        let directory = LabDirectory::of(&record.name);
        let issuer = choose(&record.name, &issuers::of_lab(&directory)?, self.issuer.as_deref())?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let claims = self.claims(&issuer, now);
        let token = issuers::read(&directory, &issuer.host)?.token(&claims, self.key.as_deref())?;
        print(&format!("{token}\n"))?;
        Ok(ExitCode::SUCCESS)
    }

    fn claims(&self, issuer: &TokenIssuer, now: u64) -> Value {
        let mut claims = Map::new();
        claims.insert("iss".to_owned(), json!(issuer.url()));
        claims.insert("sub".to_owned(), json!(self.subject));
        match self.audience.as_slice() {
            [] => {}
            [one] => drop(claims.insert("aud".to_owned(), json!(one))),
            several => drop(claims.insert("aud".to_owned(), json!(several))),
        }
        let expires = self.expires.after(now);
        // A token that has expired was issued before.
        claims.insert("iat".to_owned(), json!(now.min(expires)));
        claims.insert("exp".to_owned(), json!(expires));
        claims.extend(self.claims.iter().cloned());
        Value::Object(claims)
    }
}

/// Replace the key by which an issuer signs tokens, step by step.
///
/// Without --step, the command takes the next step: it publishes a further key, then signs with it, then drops the former one.
#[derive(Debug, Args)]
pub struct RotateKeysOptions {
    /// Host name of the issuer, if the lab has several
    #[arg(value_name = "HOST")]
    issuer: Option<String>,
    /// Step to take
    #[arg(long, value_enum)]
    step: Option<RotationStep>,
    #[command(flatten)]
    which: LabSelection,
}

impl RotateKeysOptions {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        let record = self.which.choose()?;
        let directory = LabDirectory::of(&record.name);
        let host = choose(&record.name, &issuers::of_lab(&directory)?, self.issuer.as_deref())?.host;
        let lab = option_of(&record.name);
        let rotated = issuers::rotate(&directory, &host, self.step);
        let (step, keys) = rotated.map_err(|error| advised(error, &host, &lab))?;
        print(&report(&host, step, &keys, &lab))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Adds the step that is possible to the error of one that is not.
fn advised(error: IssuersError, host: &str, lab: &str) -> CommandError {
    let IssuersError::Rotation(error) = error else { return error.into() };
    let (advice, step) = match &error {
        RotationError::Published(_) => ("sign with it", "sign"),
        RotationError::NotPublished | RotationError::NoFormer(_) => ("publish one", "publish"),
        RotationError::Former(_) => ("drop it", "drop"),
    };
    format!("{error}\n  {advice}: isthmus lab rotate-keys {host} --step {step}{lab}").into()
}

/// Returns what a step did, and the next one.
fn report(host: &str, step: RotationStep, keys: &IssuerKeys, lab: &str) -> String {
    let id = |used| keys.id_of(used).unwrap_or_default();
    let (signing, command) = (id(KeyUse::Signing), format!("isthmus lab rotate-keys {host}{lab}"));
    match step {
        RotationStep::Publish => format!(
            "{host} publishes key {} beside key {signing}, which still signs\nsign with it when the proxies have it, in a few seconds: {command}\n",
            id(KeyUse::Next)
        ),
        RotationStep::Sign => format!(
            "{host} signs with key {signing}; tokens by key {} are still valid\ndrop that key when they have expired: {command}\n",
            id(KeyUse::Former)
        ),
        RotationStep::Drop => format!("{host} publishes key {signing} alone; tokens by earlier keys are not valid\n"),
    }
}

/// Returns the issuer of a host name, or the only one.
fn choose(lab: &LabName, issuers: &[TokenIssuer], host: Option<&str>) -> Result<TokenIssuer, CommandError> {
    let hosts: Vec<&str> = issuers.iter().map(|issuer| issuer.host.as_str()).collect();
    match (issuers, host) {
        ([], _) => Err(format!(
            "lab \"{lab}\" has no issuer of tokens\n  add one to its topology: issuers: [{{host: auth.example.com}}]"
        )
        .into()),
        ([one], None) => Ok(one.clone()),
        (_, None) => Err(format!("lab \"{lab}\" has several issuers\n  name one: {}", hosts.join(", ")).into()),
        (_, Some(name)) => {
            let host = name.strip_prefix("https://").unwrap_or(name).trim_end_matches('/');
            let found = issuers.iter().find(|issuer| issuer.host == host);
            found.cloned().ok_or_else(|| {
                format!("lab \"{lab}\" has no issuer \"{name}\"\n  issuers: {}", hosts.join(", ")).into()
            })
        }
    }
}

/// Parses a claim.
fn claim(text: &str) -> Result<(String, Value), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => {
            let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
            Ok((name.to_owned(), value))
        }
        _ => Err("not a claim, such as group=ops or 'groups=[\"ops\", \"dev\"]'".to_owned()),
    }
}

/// A time after now, or before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Expiry {
    is_past: bool,
    time: Duration,
}

impl Expiry {
    /// Returns the time in seconds since 1970.
    pub(super) fn after(self, now: u64) -> u64 {
        match self.is_past {
            true => now.saturating_sub(self.time.as_secs()),
            false => now.saturating_add(self.time.as_secs()),
        }
    }
}

pub(super) fn expiry(text: &str) -> Result<Expiry, String> {
    let (is_past, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let time = api::duration::parse_duration(rest).filter(|time| *time <= LONGEST);
    let time = time.ok_or_else(|| "not a duration, such as 1h, 90s or -5m".to_owned())?;
    Ok(Expiry { is_past, time })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::topology::TokenAlgorithm;

    #[derive(Debug, Parser)]
    struct TokenCommand {
        #[command(flatten)]
        options: TokenOptions,
    }

    fn issuer(host: &str) -> TokenIssuer {
        TokenIssuer { host: host.to_owned(), algorithm: TokenAlgorithm::EdDsa }
    }

    #[test]
    fn options_become_claims() {
        let claims = |arguments: &[&str]| {
            let all = [&["token", "--subject", "ada"], arguments].concat();
            let options = TokenCommand::try_parse_from(all).expect("options").options;
            options.claims(&issuer("auth.example.com"), 1_000_000)
        };
        let plain = json!({"iss": "https://auth.example.com", "sub": "ada", "iat": 1_000_000, "exp": 1_003_600});
        assert_eq!(claims(&[]), plain);
        assert_eq!(claims(&["--audience", "a"])["aud"], "a");
        assert_eq!(claims(&["--audience", "a", "--audience", "b"])["aud"], json!(["a", "b"]));
        let expired = claims(&["--expires", "-5m"]);
        assert_eq!((&expired["iat"], &expired["exp"]), (&json!(999_700), &json!(999_700)));
        let further =
            claims(&["--claim", "groups=[\"ops\"]", "--claim", "team=a=b", "--claim", "iss=x", "--claim", "n=7"]);
        assert_eq!(
            (&further["groups"], &further["team"], &further["iss"], &further["n"]),
            (&json!(["ops"]), &json!("a=b"), &json!("x"), &json!(7))
        );
        for bad in [["--claim", "groups"], ["--claim", "=x"], ["--expires", "soon"], ["--expires", "1000000h"]] {
            let all = [&["token", "--subject", "ada"][..], &bad].concat();
            assert!(TokenCommand::try_parse_from(all).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_issuer_is_chosen_by_host_or_url() {
        let lab: LabName = "a".parse().expect("a name");
        let both = [issuer("a.example"), issuer("b.example")];
        let host = |issuers: &[TokenIssuer], name: Option<&str>| {
            choose(&lab, issuers, name).map(|issuer| issuer.host).map_err(|error| error.to_string())
        };
        assert_eq!(host(&both[..1], None).as_deref(), Ok("a.example"));
        assert_eq!(host(&both, Some("b.example")).as_deref(), Ok("b.example"));
        assert_eq!(host(&both, Some("https://b.example/")).as_deref(), Ok("b.example"));
        assert!(host(&both, None).is_err_and(|error| error.contains("name one: a.example, b.example")));
        assert!(host(&both, Some("c.example")).is_err_and(|error| error.contains("issuers: a.example, b.example")));
        assert!(host(&[], None).is_err_and(|error| error.contains("has no issuer of tokens")));
    }

    #[test]
    fn a_step_that_is_not_possible_names_one_that_is() {
        let mut keys = IssuerKeys::generate(TokenAlgorithm::EdDsa).expect("keys");
        let error = keys.rotate(RotationStep::Sign).expect_err("nothing is published");
        let text = advised(error, "a.example", " --lab x").to_string();
        assert!(text.ends_with("publish one: isthmus lab rotate-keys a.example --step publish --lab x"), "{text}");
    }

    #[test]
    fn each_step_names_the_next_one() {
        let mut keys = IssuerKeys::generate(TokenAlgorithm::EdDsa).expect("keys");
        for (step, expected) in [
            (RotationStep::Publish, "a.example publishes key 2 beside key 1, which still signs"),
            (RotationStep::Sign, "a.example signs with key 2; tokens by key 1 are still valid"),
            (RotationStep::Drop, "a.example publishes key 2 alone"),
        ] {
            keys.rotate(step).expect("the next step");
            let text = report("a.example", step, &keys, " --lab x");
            assert!(text.starts_with(expected), "{text}");
            let next = "isthmus lab rotate-keys a.example --lab x";
            assert_eq!(text.contains(next), step != RotationStep::Drop, "{text}");
        }
    }
}
