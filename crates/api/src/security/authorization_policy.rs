//! AuthorizationPolicy: which requests and connections workloads accept.

use super::TargetRef;
use crate::networking::destination_rule::WorkloadSelector;
use crate::networking::json::{message, object, words};

object! {
    /// Istio's AuthorizationPolicy resource.
    AuthorizationPolicy: optional AuthorizationPolicySpec, "security.istio.io", "AuthorizationPolicy", "authorizationpolicies"
}

message! {
    /// The spec of an AuthorizationPolicy.
    AuthorizationPolicySpec {
        /// The workloads to which it applies; unset: all of its namespace, or of the mesh if that is the root namespace.
        selector: Option<WorkloadSelector> = "selector",
        /// The object to which it applies instead.
        target_ref: Option<TargetRef> = "targetRef",
        /// The objects to which it applies instead.
        target_refs: Vec<TargetRef> = "targetRefs",
        /// The rules; it matches if any of them matches.
        rules: Vec<Rule> = "rules",
        /// What happens to what it matches.
        action: Action = "action",
        /// Whom a policy of action CUSTOM asks.
        provider: Option<Provider> = "provider",
    }
}

words! {
    /// What happens to requests and connections that a policy matches.
    Action {
        /// They are allowed, and others are refused.
        #[default]
        Allow = "ALLOW",
        /// They are refused.
        Deny = "DENY",
        /// They are counted.
        Audit = "AUDIT",
        /// A server of the mesh settings is asked.
        Custom = "CUSTOM",
    }
}

message! {
    /// Whom a policy asks.
    Provider {
        /// The name in `extensionProviders` of the mesh settings.
        name: String = "name",
    }
}

message! {
    /// A rule: matches if any of `from`, any of `to` and all of `when` match.
    Rule {
        /// Sources; empty: any.
        from: Vec<From> = "from",
        /// Operations; empty: any.
        to: Vec<To> = "to",
        /// Conditions.
        when: Vec<Condition> = "when",
    }
}

message! {
    /// A source in its wrapper.
    From {
        /// The source.
        source: Option<Source> = "source",
    }
}

message! {
    /// An operation in its wrapper.
    To {
        /// The operation.
        operation: Option<Operation> = "operation",
    }
}

message! {
    /// Where a request comes from. All fields that are set have to match.
    Source {
        /// `<trust domain>/ns/<namespace>/sa/<service account>` of the peer's certificate.
        principals: Vec<String> = "principals",
        /// None of these.
        not_principals: Vec<String> = "notPrincipals",
        /// `<issuer>/<subject>` of the request's token.
        request_principals: Vec<String> = "requestPrincipals",
        /// None of these.
        not_request_principals: Vec<String> = "notRequestPrincipals",
        /// The namespace in the peer's certificate.
        namespaces: Vec<String> = "namespaces",
        /// None of these.
        not_namespaces: Vec<String> = "notNamespaces",
        /// `<service account>` of the policy's namespace, or `<namespace>/<service account>`.
        service_accounts: Vec<String> = "serviceAccounts",
        /// None of these.
        not_service_accounts: Vec<String> = "notServiceAccounts",
        /// The trust domain in the peer's certificate.
        trust_domains: Vec<String> = "trustDomains",
        /// None of these.
        not_trust_domains: Vec<String> = "notTrustDomains",
        /// The peer's address: addresses and CIDR blocks.
        ip_blocks: Vec<String> = "ipBlocks",
        /// None of these.
        not_ip_blocks: Vec<String> = "notIpBlocks",
        /// The original client's address: addresses and CIDR blocks.
        remote_ip_blocks: Vec<String> = "remoteIpBlocks",
        /// None of these.
        not_remote_ip_blocks: Vec<String> = "notRemoteIpBlocks",
    }
}

message! {
    /// What a request does. All fields that are set have to match.
    Operation {
        /// The host.
        hosts: Vec<String> = "hosts",
        /// None of these.
        not_hosts: Vec<String> = "notHosts",
        /// The application's port.
        ports: Vec<String> = "ports",
        /// None of these.
        not_ports: Vec<String> = "notPorts",
        /// The method.
        methods: Vec<String> = "methods",
        /// None of these.
        not_methods: Vec<String> = "notMethods",
        /// The path without the query.
        paths: Vec<String> = "paths",
        /// None of these.
        not_paths: Vec<String> = "notPaths",
    }
}

message! {
    /// A condition on an attribute.
    Condition {
        /// The attribute, such as `request.headers[x-user]`.
        key: String = "key",
        /// Any of these has to match.
        values: Vec<String> = "values",
        /// None of these.
        not_values: Vec<String> = "notValues",
    }
}

impl Source {
    /// Returns all values.
    pub fn values(&self) -> impl Iterator<Item = &String> {
        let fields = [
            &self.principals,
            &self.not_principals,
            &self.request_principals,
            &self.not_request_principals,
            &self.namespaces,
            &self.not_namespaces,
            &self.service_accounts,
            &self.not_service_accounts,
            &self.trust_domains,
            &self.not_trust_domains,
            &self.ip_blocks,
            &self.not_ip_blocks,
            &self.remote_ip_blocks,
            &self.not_remote_ip_blocks,
        ];
        fields.into_iter().flatten()
    }
}

impl Operation {
    /// Returns all values.
    pub fn values(&self) -> impl Iterator<Item = &String> {
        let fields = [
            &self.hosts,
            &self.not_hosts,
            &self.ports,
            &self.not_ports,
            &self.methods,
            &self.not_methods,
            &self.paths,
            &self.not_paths,
        ];
        fields.into_iter().flatten()
    }
}
