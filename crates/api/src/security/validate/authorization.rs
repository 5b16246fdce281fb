//! AuthorizationPolicy.

use super::values;
use crate::networking::json::shown;
use crate::networking::problem::Severity;
use crate::networking::validate::{Check, names};
use crate::security::authorization_policy::{Action, AuthorizationPolicySpec, Condition, Operation, Rule, Source};
use crate::security::{AuthorizationPolicy, DRY_RUN};

/// The form of values of a field.
use values::Form;

/// A field of a source: its name and that of the excluded values, both lists, and the form of the values.
type SourceField<'a> = (&'static str, &'static str, &'a [String], &'a [String], Form);

pub(super) fn check(policy: &AuthorizationPolicy, check: &mut Check) {
    let spec = &policy.spec;
    let named = spec.provider.as_ref().is_some_and(|provider| !provider.name.is_empty());
    match spec.action {
        Action::Custom if spec.rules.is_empty() => check.error_of("rules", WITHOUT_RULES),
        Action::Custom if !named => check.error_of("provider.name", "is missing; name a provider of the mesh settings"),
        Action::Deny if spec.rules.is_empty() => check.error_of("rules", WITHOUT_RULES),
        Action::Audit if spec.rules.is_empty() => check.warn_of("rules", WITHOUT_RULES),
        _ => {}
    }
    if spec.provider.is_some() && spec.action != Action::Custom {
        check.error_of("provider", "is only possible with action CUSTOM; remove it, or set the action");
    }
    dry_run(policy, check);
    check.each("rules", &spec.rules, |of, check| rule(of, spec, check));
}

const WITHOUT_RULES: &str =
    "is missing or empty, so that the policy never matches; add the empty rule {} to match everything";

fn dry_run(policy: &AuthorizationPolicy, check: &mut Check) {
    let Some(value) = policy.metadata.annotations.as_ref().and_then(|annotations| annotations.get(DRY_RUN)) else {
        return;
    };
    if !matches!(value.as_str(), "true" | "false") {
        check.error(format!("annotation {DRY_RUN} is {:?}, but must be \"true\" or \"false\"", shown(value)));
    } else if !matches!(policy.spec.action, Action::Allow | Action::Deny) {
        check.error(format!("annotation {DRY_RUN} is only possible with action ALLOW or DENY; remove it"));
    }
}

fn rule(rule: &Rule, spec: &AuthorizationPolicySpec, check: &mut Check) {
    check.each("from", &rule.from, |from, check| match &from.source {
        None => check.error_of("source", "is missing; write the source, or remove the entry"),
        Some(of) => check.at(format_args!(".source"), |check| source(of, spec.action, check)),
    });
    check.each("to", &rule.to, |to, check| match &to.operation {
        None => check.error_of("operation", "is missing; write the operation, or remove the entry"),
        Some(of) => check.at(format_args!(".operation"), |check| operation(of, check)),
    });
    check.each("when", &rule.when, |of, check| condition(of, spec.action, check));
    opaque(rule, spec.action, check);
}

/// Returns the fields of a source, except for service accounts.
fn fields_of_source(of: &Source) -> [SourceField<'_>; 6] {
    [
        ("principals", "notPrincipals", &of.principals, &of.not_principals, values::pattern),
        (
            "requestPrincipals",
            "notRequestPrincipals",
            &of.request_principals,
            &of.not_request_principals,
            values::token,
        ),
        ("namespaces", "notNamespaces", &of.namespaces, &of.not_namespaces, values::glob),
        ("trustDomains", "notTrustDomains", &of.trust_domains, &of.not_trust_domains, values::trust_domain),
        ("ipBlocks", "notIpBlocks", &of.ip_blocks, &of.not_ip_blocks, values::block),
        ("remoteIpBlocks", "notRemoteIpBlocks", &of.remote_ip_blocks, &of.not_remote_ip_blocks, values::block),
    ]
}

fn source(of: &Source, action: Action, check: &mut Check) {
    let fields = fields_of_source(of);
    for (name, not, any_of, none_of, form) in fields {
        values::all(name, any_of, form, check);
        values::all(not, none_of, form, check);
        if action == Action::Custom && !name.ends_with("Blocks") {
            for field in [(name, any_of), (not, none_of)].into_iter().filter(|(_, values)| !values.is_empty()) {
                check.error_of(field.0, CUSTOM);
            }
        }
    }
    let accounts = [("serviceAccounts", &of.service_accounts), ("notServiceAccounts", &of.not_service_accounts)];
    for (name, accounts) in accounts {
        values::accounts(name, accounts, check);
        if action == Action::Custom && !accounts.is_empty() {
            check.error_of(name, CUSTOM);
        }
    }
    let by_account = accounts.iter().any(|(_, values)| !values.is_empty());
    let set = |fields: &[&[String]]| fields.iter().any(|values| !values.is_empty());
    if by_account && set(&[&of.principals, &of.not_principals, &of.namespaces, &of.not_namespaces]) {
        check.error_of("serviceAccounts", "cannot be set beside principals or namespaces; keep one of them");
    }
    if !by_account && fields.iter().all(|(_, _, any_of, none_of, _)| any_of.is_empty() && none_of.is_empty()) {
        check.error("is empty; write a field of the source, or remove it to match every source");
    }
    // Callers without an identity are in none of the lists.
    let excluded = set(&[&of.not_principals, &of.not_namespaces, &of.not_service_accounts, &of.not_trust_domains]);
    if action == Action::Allow
        && excluded
        && !set(&[&of.principals, &of.namespaces, &of.service_accounts, &of.trust_domains])
    {
        check.warn(
            "allows callers without mutual TLS as well, which have no identity to exclude; add principals: [\"*\"], or set PeerAuthentication STRICT",
        );
    }
}

const CUSTOM: &str = "is not possible with action CUSTOM; write it into a policy of action DENY or ALLOW";

fn operation(of: &Operation, check: &mut Check) {
    let fields: [(&str, &[String], Form); 8] = [
        ("hosts", &of.hosts, values::pattern),
        ("notHosts", &of.not_hosts, values::pattern),
        ("ports", &of.ports, values::port),
        ("notPorts", &of.not_ports, values::port),
        ("methods", &of.methods, values::pattern),
        ("notMethods", &of.not_methods, values::pattern),
        ("paths", &of.paths, values::path),
        ("notPaths", &of.not_paths, values::path),
    ];
    for (name, of, form) in fields {
        values::all(name, of, form, check);
    }
    if fields.iter().all(|(_, values, _)| values.is_empty()) {
        check.error("is empty; write a field of the operation, or remove it to match every operation");
    }
    check.each("methods", &of.methods, |method, check| {
        if method.bytes().any(|byte| byte.is_ascii_lowercase()) {
            check.warn("has lower-case letters; methods are matched as they are sent, which is in upper case");
        }
    });
}

fn condition(of: &Condition, action: Action, check: &mut Check) {
    if of.key.is_empty() {
        return check.error_of("key", "is missing; name an attribute, such as request.headers[x-user]");
    }
    if of.values.is_empty() && of.not_values.is_empty() {
        check.error("has neither values nor notValues; write one of them");
    }
    let by_identity = of.key.starts_with("request.auth.")
        || ["source.namespace", "source.serviceAccount", "source.trustDomain", "source.principal", "source.cluster"]
            .contains(&&*of.key);
    if action == Action::Custom && by_identity {
        check.error_of("key", CUSTOM);
    }
    let form = match form_of(&of.key) {
        Ok(form) => form,
        Err(why) => return check.error_of("key", format!("is {:?}, {why}", shown(&of.key))),
    };
    if of.key.starts_with("experimental.") {
        check.at(format_args!(".key"), |check| check.found("IST0101", Severity::Warning, EXPERIMENTAL));
    }
    match of.key == "source.serviceAccount" {
        true => {
            values::accounts("values", &of.values, check);
            values::accounts("notValues", &of.not_values, check);
        }
        false => {
            values::all("values", &of.values, form, check);
            values::all("notValues", &of.not_values, form, check);
        }
    }
}

const EXPERIMENTAL: &str = "is metadata of a filter of Envoy, which no proxy has: the rule never allows, and otherwise matches without this condition";

/// Returns the form of the values of an attribute.
fn form_of(key: &str) -> Result<Form, &'static str> {
    Ok(match key {
        "source.ip" | "remote.ip" | "destination.ip" => values::block,
        "source.namespace" => values::glob,
        "source.serviceAccount" => values::glob,
        "source.trustDomain" => values::trust_domain,
        "request.auth.principal" => values::token,
        "destination.port" => values::port,
        "source.principal"
        | "source.cluster"
        | "request.auth.audiences"
        | "request.auth.presenter"
        | "connection.sni" => values::pattern,
        "destination.namespace" => return Err("which the policy's own namespace replaces; remove it"),
        "destination.name" | "destination.user" | "source.user" => {
            return Err("which no policy has any longer; use the selector, principals or source.principal");
        }
        _ => return form_of_keyed(key),
    })
}

fn form_of_keyed(key: &str) -> Result<Form, &'static str> {
    let (attribute, rest) = key.split_once('[').unwrap_or((key, ""));
    let inner = rest.strip_suffix(']').filter(|inner| !inner.is_empty());
    match (attribute, inner) {
        ("request.headers", Some(name)) => match names::header(name.strip_prefix(':').unwrap_or(name)) {
            Ok(()) => Ok(values::pattern),
            Err(_) => Err("but there is no header of this name"),
        },
        ("request.auth.claims", Some(path)) => {
            match path.split("][").all(|name| !name.is_empty() && !name.contains(['[', ']'])) {
                true => Ok(values::pattern),
                false => Err("but must name a claim as in request.auth.claims[a] or request.auth.claims[a][b]"),
            }
        }
        ("destination.labels", _) => Err("which the policy's selector replaces; remove it"),
        (attribute, Some(_)) if attribute.starts_with("experimental.envoy.filters.") => Ok(values::pattern),
        ("request.headers" | "request.auth.claims", None) => Err("but must name a header or claim in brackets"),
        _ => Err("which is not an attribute of requests or connections"),
    }
}

/// Notes what a rule does on ports that are not HTTP.
fn opaque(rule: &Rule, action: Action, check: &mut Check) {
    let sources = || rule.from.iter().filter_map(|from| from.source.as_ref());
    let operations = || rule.to.iter().filter_map(|to| to.operation.as_ref());
    let set = |fields: &[&Vec<String>]| fields.iter().any(|values| !values.is_empty());
    let of_requests = sources().any(|of| set(&[&of.request_principals, &of.not_request_principals]))
        || operations()
            .any(|of| set(&[&of.hosts, &of.not_hosts, &of.methods, &of.not_methods, &of.paths, &of.not_paths]))
        || rule.when.iter().any(|of| of.key.starts_with("request."));
    let by_port = operations().any(|of| set(&[&of.ports, &of.not_ports]))
        || rule.when.iter().any(|of| of.key == "destination.port");
    if action == Action::Deny && of_requests && !by_port {
        check.warn("has fields of requests and no ports: connections to ports that are not HTTP have no requests, and are denied by the other fields alone; add the ports of HTTP");
    }
}
