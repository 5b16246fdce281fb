//! Authorization policies from the wire. A policy that cannot be read is rejected, and the last good one stays in force.

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderName;
use ipnet::IpNet;
use policy::authorization::{Action, Condition, Custom, Field, Operation, Policy, Rule, Source};
use policy::{PathPattern, Pattern, TokenPrincipal};
use wire::discovery as message;

use super::Result;
use super::external::provider;

/// Reads an authorization policy.
pub(in crate::mesh) fn policy(message: &message::AuthorizationPolicy) -> Result<Policy> {
    read(message).map_err(|reason| format!("policy {}: {reason}", message.name))
}

fn read(message: &message::AuthorizationPolicy) -> Result<Policy> {
    let action = match message::PolicyAction::try_from(message.action) {
        Ok(message::PolicyAction::Allow) => Action::Allow,
        Ok(message::PolicyAction::Deny) => Action::Deny,
        Ok(message::PolicyAction::Audit) => Action::Audit,
        Ok(message::PolicyAction::Custom) => Action::Custom(Custom {
            name: message.provider.as_str().into(),
            provider: message.external.as_ref().map(provider).transpose()?.map(Arc::new),
        }),
        Err(_) => return Err(format!("{} is no action", message.action)),
    };
    let rules = message.rules.iter().map(rule).collect::<Result<_>>()?;
    Ok(Policy { name: message.name.as_str().into(), action, rules, dry_run: message.dry_run })
}

fn rule(message: &message::AuthorizationRule) -> Result<Rule> {
    Ok(Rule {
        from: message.from.iter().map(source).collect::<Result<_>>()?,
        to: message.to.iter().map(operation).collect::<Result<_>>()?,
        when: message.when.iter().map(header).chain(message.conditions.iter().map(condition)).collect::<Result<_>>()?,
    })
}

fn source(message: &message::AuthorizationSource) -> Result<Source> {
    Ok(Source {
        principals: field(message.principals.as_ref(), pattern)?,
        namespaces: field(message.namespaces.as_ref(), namespace)?,
        service_accounts: field(message.service_accounts.as_ref(), account)?,
        trust_domains: field(message.trust_domains.as_ref(), pattern)?,
        clusters: field(message.clusters.as_ref(), pattern)?,
        request_principals: field(message.request_principals.as_ref(), token)?,
        ip_blocks: field(message.ip_blocks.as_ref(), block)?,
        remote_ip_blocks: field(message.remote_ip_blocks.as_ref(), block)?,
    })
}

pub(super) fn operation(message: &message::AuthorizationOperation) -> Result<Operation> {
    Ok(Operation {
        hosts: field(message.hosts.as_ref(), pattern)?,
        ports: field(message.ports.as_ref(), port)?,
        methods: field(message.methods.as_ref(), pattern)?,
        paths: field(message.paths.as_ref(), |text| PathPattern::parse(text).map_err(|error| error.to_string()))?,
    })
}

pub(super) fn header(message: &message::HeaderCondition) -> Result<Condition> {
    let pseudo = message.name.strip_prefix(':');
    let name = pseudo.unwrap_or(&message.name).parse::<HeaderName>();
    let name = name.map_err(|_| format!("{:?} is no header", message.name))?;
    let name = if pseudo.is_some() { format!(":{name}").into() } else { Arc::from(name.as_str()) };
    Ok(Condition::Header(name, field(message.value.as_ref(), header_pattern)?))
}

pub(super) fn condition(message: &message::Condition) -> Result<Condition> {
    let value = message.value.as_ref();
    let source = |source| Ok(Condition::Source(Box::new(source)));
    let claim = |path| Ok(Condition::Claim(path, field(value, pattern)?));
    match message.key.as_str() {
        "source.ip" => source(Source { ip_blocks: field(value, block)?, ..Source::default() }),
        "remote.ip" => source(Source { remote_ip_blocks: field(value, block)?, ..Source::default() }),
        "source.namespace" => source(Source { namespaces: field(value, namespace)?, ..Source::default() }),
        "source.serviceAccount" => source(Source { service_accounts: field(value, account)?, ..Source::default() }),
        "source.trustDomain" => source(Source { trust_domains: field(value, pattern)?, ..Source::default() }),
        "source.principal" => source(Source { principals: field(value, pattern)?, ..Source::default() }),
        "source.cluster" => source(Source { clusters: field(value, pattern)?, ..Source::default() }),
        "request.auth.principal" => source(Source { request_principals: field(value, token)?, ..Source::default() }),
        "request.auth.audiences" => claim(vec!["aud".into()]),
        "request.auth.presenter" => claim(vec!["azp".into()]),
        "destination.ip" => Ok(Condition::DestinationIp(field(value, block)?)),
        "destination.port" => Ok(Condition::DestinationPort(field(value, port)?)),
        "connection.sni" => Ok(Condition::ServerName(field(value, pattern)?)),
        key => match key.strip_prefix("request.auth.claims").and_then(wire::name::claim_path) {
            Some(path) => claim(path.into_iter().map(Arc::from).collect()),
            None => Err(format!("{key:?} is no attribute")),
        },
    }
}

fn field<T>(message: Option<&message::Values>, parse: impl Fn(&str) -> Result<T>) -> Result<Field<T>> {
    let Some(values) = message else { return Ok(Field::default()) };
    let all = |texts: &[String]| texts.iter().map(|text| parse(text)).collect::<Result<_>>();
    Ok(Field { any_of: all(&values.any_of)?, none_of: all(&values.none_of)? })
}

fn pattern(text: &str) -> Result<Pattern> {
    Pattern::parse(text).map_err(|error| error.to_string())
}

fn header_pattern(text: &str) -> Result<Pattern> {
    Pattern::parse_header(text).map_err(|error| error.to_string())
}

fn namespace(text: &str) -> Result<Pattern> {
    Pattern::parse_glob(text).map_err(|error| error.to_string())
}

fn account(text: &str) -> Result<(Arc<str>, Arc<str>)> {
    let parts = text.split_once('/').filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty());
    let (namespace, name) = parts.ok_or_else(|| format!("{text:?} is not <namespace>/<service account>"))?;
    Ok((namespace.into(), name.into()))
}

fn token(text: &str) -> Result<TokenPrincipal> {
    TokenPrincipal::parse(text).map_err(|error| error.to_string())
}

fn port(text: &str) -> Result<u16> {
    text.parse().map_err(|_| format!("{text:?} is not a port"))
}

fn block(text: &str) -> Result<IpNet> {
    let address = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    address.map_err(|_| format!("{text:?} is neither an address nor a CIDR"))
}
