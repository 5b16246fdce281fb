//! Authorization policies from the wire. A policy that cannot be read is rejected, and the last good one stays in force.

use std::net::IpAddr;

use http::HeaderName;
use ipnet::IpNet;
use policy::authorization::{Action, Field, Header, Operation, Policy, Rule, Source};
use policy::{PathPattern, Pattern};
use wire::discovery as message;

use super::Result;

/// Reads an authorization policy.
pub(in crate::mesh) fn policy(message: &message::AuthorizationPolicy) -> Result<Policy> {
    read(message).map_err(|reason| format!("policy {}: {reason}", message.name))
}

fn read(message: &message::AuthorizationPolicy) -> Result<Policy> {
    let action = match message::PolicyAction::try_from(message.action) {
        Ok(message::PolicyAction::Allow) => Action::Allow,
        Ok(message::PolicyAction::Deny) => Action::Deny,
        Err(_) => return Err(format!("{} is no action", message.action)),
    };
    let rules = message.rules.iter().map(rule).collect::<Result<_>>()?;
    Ok(Policy { name: message.name.as_str().into(), action, rules })
}

fn rule(message: &message::AuthorizationRule) -> Result<Rule> {
    Ok(Rule {
        from: message.from.iter().map(source).collect::<Result<_>>()?,
        to: message.to.iter().map(operation).collect::<Result<_>>()?,
        when: message.when.iter().map(header).collect::<Result<_>>()?,
    })
}

fn source(message: &message::AuthorizationSource) -> Result<Source> {
    Ok(Source {
        principals: field(message.principals.as_ref(), pattern)?,
        namespaces: field(message.namespaces.as_ref(), pattern)?,
        clusters: field(message.clusters.as_ref(), pattern)?,
        ip_blocks: field(message.ip_blocks.as_ref(), block)?,
    })
}

fn operation(message: &message::AuthorizationOperation) -> Result<Operation> {
    Ok(Operation {
        hosts: field(message.hosts.as_ref(), pattern)?,
        ports: field(message.ports.as_ref(), |text| text.parse().map_err(|_| format!("{text:?} is not a port")))?,
        methods: field(message.methods.as_ref(), pattern)?,
        paths: field(message.paths.as_ref(), |text| PathPattern::parse(text).map_err(|error| error.to_string()))?,
    })
}

fn header(message: &message::HeaderCondition) -> Result<Header> {
    let name: HeaderName = message.name.parse().map_err(|_| format!("{:?} is no header", message.name))?;
    Ok(Header { name: name.as_str().into(), value: field(message.value.as_ref(), pattern)? })
}

fn field<T>(message: Option<&message::Values>, parse: impl Fn(&str) -> Result<T>) -> Result<Field<T>> {
    let Some(values) = message else { return Ok(Field::default()) };
    let all = |texts: &[String]| texts.iter().map(|text| parse(text)).collect::<Result<_>>();
    Ok(Field { any_of: all(&values.any_of)?, none_of: all(&values.none_of)? })
}

fn pattern(text: &str) -> Result<Pattern> {
    Pattern::parse(text).map_err(|error| error.to_string())
}

fn block(text: &str) -> Result<IpNet> {
    let address = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    address.map_err(|_| format!("{text:?} is neither an address nor a CIDR"))
}
