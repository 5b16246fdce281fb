//! An AuthorizationPolicy as a message for proxies.

use api::security::authorization_policy::{Action, AuthorizationPolicySpec, Condition, Operation, Rule, Source};
use wire::discovery::{
    self as message, AuthorizationOperation, AuthorizationRule, AuthorizationSource, HeaderCondition, PolicyAction,
    Values,
};

use crate::objects::AuthorizationPolicy;

/// The trust domain that stands for the mesh's own in policies, whatever that is called.
const LOCAL: &str = "cluster.local";

/// The trust domains that are the mesh's own: its name first, then its former ones.
pub(super) struct TrustDomains<'a> {
    pub(super) own: &'a str,
    pub(super) aliases: &'a [String],
}

/// Compiles a policy.
pub(super) fn compile(
    policy: &AuthorizationPolicy,
    spec: &AuthorizationPolicySpec,
    domains: &TrustDomains<'_>,
) -> message::AuthorizationPolicy {
    let action = match spec.action {
        Action::Allow => PolicyAction::Allow,
        Action::Deny => PolicyAction::Deny,
        Action::Audit => PolicyAction::Audit,
        Action::Custom => PolicyAction::Custom,
    };
    let compiler = Compiler { namespace: &policy.namespace, domains, strict: spec.action == Action::Allow };
    message::AuthorizationPolicy {
        name: format!("{}/{}", policy.namespace, policy.name),
        action: action.into(),
        rules: spec.rules.iter().map(|of| compiler.rule(of)).collect(),
        dry_run: policy.dry_run,
        provider: spec.provider.as_ref().map(|provider| provider.name.clone()).unwrap_or_default(),
        external: None,
    }
}

struct Compiler<'a> {
    /// The policy's namespace.
    namespace: &'a str,
    domains: &'a TrustDomains<'a>,
    /// Whether a condition that no proxy can evaluate makes its rule match nothing, as for ALLOW, or is left out.
    strict: bool,
}

impl Compiler<'_> {
    fn rule(&self, rule: &Rule) -> AuthorizationRule {
        let sources = rule.from.iter().filter_map(|from| from.source.as_ref());
        let operations = rule.to.iter().filter_map(|to| to.operation.as_ref());
        let mut compiled = AuthorizationRule {
            from: sources.map(|of| self.source(of)).collect(),
            to: operations.map(operation).collect(),
            ..AuthorizationRule::default()
        };
        for condition in &rule.when {
            match condition.key.strip_prefix("request.headers[").and_then(|rest| rest.strip_suffix(']')) {
                Some(name) => compiled.when.push(HeaderCondition {
                    name: name.to_ascii_lowercase(),
                    value: values(&condition.values, &condition.not_values),
                }),
                None => compiled.conditions.extend(self.condition(condition)),
            }
        }
        compiled
    }

    fn source(&self, of: &Source) -> AuthorizationSource {
        AuthorizationSource {
            principals: values(&self.principals(&of.principals), &self.principals(&of.not_principals)),
            namespaces: values(&of.namespaces, &of.not_namespaces),
            clusters: None,
            ip_blocks: values(&of.ip_blocks, &of.not_ip_blocks),
            service_accounts: values(&self.accounts(&of.service_accounts), &self.accounts(&of.not_service_accounts)),
            trust_domains: values(&self.trust_domains(&of.trust_domains), &self.trust_domains(&of.not_trust_domains)),
            request_principals: values(&of.request_principals, &of.not_request_principals),
            remote_ip_blocks: values(&of.remote_ip_blocks, &of.not_remote_ip_blocks),
        }
    }

    fn condition(&self, condition: &Condition) -> Option<message::Condition> {
        let Condition { key, values: any_of, not_values: none_of } = condition;
        let value = match key.as_str() {
            "source.principal" => values(&self.principals(any_of), &self.principals(none_of)),
            "source.serviceAccount" => values(&self.accounts(any_of), &self.accounts(none_of)),
            "source.trustDomain" => values(&self.trust_domains(any_of), &self.trust_domains(none_of)),
            // Metadata of Envoy's filters. No port has this number.
            _ if key.starts_with("experimental.") => {
                let never =
                    message::Condition { key: "destination.port".into(), value: values(&["0".to_owned()], &[]) };
                return self.strict.then_some(never);
            }
            _ => values(any_of, none_of),
        };
        Some(message::Condition { key: key.clone(), value })
    }

    /// Returns service accounts with their namespaces.
    fn accounts(&self, accounts: &[String]) -> Vec<String> {
        let with_namespace = |account: &String| match account.contains('/') {
            true => account.clone(),
            false => format!("{}/{account}", self.namespace),
        };
        accounts.iter().map(with_namespace).collect()
    }

    /// Returns principals with each name of the mesh's own trust domain, if they name one of them.
    fn principals(&self, principals: &[String]) -> Vec<String> {
        let with_aliases = |principal: &String| match principal.split_once('/') {
            // Only whole principals name a trust domain.
            Some((domain, rest)) if rest.split('/').count() == 4 && self.is_own(domain) => {
                self.all().map(|domain| format!("{domain}/{rest}")).collect()
            }
            _ => vec![principal.clone()],
        };
        principals.iter().flat_map(with_aliases).collect()
    }

    fn trust_domains(&self, domains: &[String]) -> Vec<String> {
        let with_aliases = |domain: &String| match self.is_own(domain) {
            true => self.all().map(str::to_owned).collect(),
            false => vec![domain.clone()],
        };
        domains.iter().flat_map(with_aliases).collect()
    }

    fn is_own(&self, domain: &str) -> bool {
        domain == LOCAL || self.all().any(|of| of == domain)
    }

    fn all(&self) -> impl Iterator<Item = &str> {
        [self.domains.own].into_iter().chain(self.domains.aliases.iter().map(String::as_str))
    }
}

fn operation(of: &Operation) -> AuthorizationOperation {
    AuthorizationOperation {
        hosts: values(&of.hosts, &of.not_hosts),
        ports: values(&of.ports, &of.not_ports),
        methods: values(&of.methods, &of.not_methods),
        paths: values(&of.paths, &of.not_paths),
    }
}

fn values(any_of: &[String], none_of: &[String]) -> Option<Values> {
    let empty = any_of.is_empty() && none_of.is_empty();
    (!empty).then(|| Values { any_of: any_of.to_vec(), none_of: none_of.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn principals_have_the_names_of_the_mesh_s_own_trust_domain() {
        let aliases = ["old.example".to_owned()];
        let domains = TrustDomains { own: "mesh.example", aliases: &aliases };
        let compiler = Compiler { namespace: "shop", domains: &domains, strict: true };
        let principals = |text: &str| compiler.principals(&[text.to_owned()]);
        for own in ["cluster.local", "mesh.example", "old.example"] {
            let expected = ["mesh.example/ns/a/sa/b", "old.example/ns/a/sa/b"];
            assert_eq!(principals(&format!("{own}/ns/a/sa/b")), expected);
        }
        for other in ["*", "*/ns/a/sa/b", "x.example/ns/a/sa/b", "*/sa/b", "cluster.local/*"] {
            assert_eq!(principals(other), [other]);
        }
        assert_eq!(compiler.trust_domains(&["cluster.local".into(), "x".into()]), ["mesh.example", "old.example", "x"]);
        assert_eq!(compiler.accounts(&["a".into(), "b/c".into()]), ["shop/a", "b/c"]);
    }

    #[test]
    fn a_condition_that_no_proxy_has_allows_nothing_and_denies_without_it() {
        let domains = TrustDomains { own: "cluster.local", aliases: &[] };
        let condition =
            Condition { key: "experimental.envoy.filters.a[b]".into(), values: vec!["c".into()], not_values: vec![] };
        let compile = |strict| Compiler { namespace: "shop", domains: &domains, strict }.condition(&condition);
        assert_eq!(compile(true).map(|of| of.key), Some("destination.port".into()));
        assert_eq!(compile(false), None);
    }
}
