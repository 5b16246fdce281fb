//! HTTPLocalRateLimitPolicy: limits on the rate of requests to the port of a [`Server`].

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::POLICY_GROUP;
use crate::networking::Problem;
use crate::networking::json::{Field, Reader, message, object};
use crate::networking::validate::Check;
use crate::rate_limit::{
    Action, ActionValue, Bucket, Condition, Descriptor, DescriptorLimit, Limit, LimitRule, Limits,
};

/// The number of overrides of a policy, and of the clients of one.
const MAX_CLIENTS: usize = 256;

object! {
    /// Linkerd's Server resource: a port of pods. It has effect as the target of an HTTPLocalRateLimitPolicy.
    Server: ServerSpec, "policy.linkerd.io", "v1beta3", "Server", "servers"
}

message! {
    /// The spec of a Server.
    ServerSpec {
        /// The pods, of its own namespace.
        pod_selector: Option<PodSelector> = "podSelector",
        /// The workloads outside of Kubernetes.
        external_workload_selector: Option<PodSelector> = "externalWorkloadSelector",
        /// The port of the pods.
        port: ServerPort = "port",
        /// What is spoken there.
        proxy_protocol: String = "proxyProtocol",
        /// Who may connect if no policy says so.
        access_policy: String = "accessPolicy",
    }
}

message! {
    /// A selector of pods.
    PodSelector {
        /// Labels.
        match_labels: BTreeMap<String, String> = "matchLabels",
        /// Expressions.
        match_expressions: Vec<Expression> = "matchExpressions",
    }
}

message! {
    /// An expression of a selector.
    Expression {
        /// The label.
        key: String = "key",
        /// The operator.
        operator: String = "operator",
        /// The values.
        values: Vec<String> = "values",
    }
}

/// A port: its number, or the name that a container has for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ServerPort {
    /// Neither.
    #[default]
    Unset,
    /// The number.
    Number(u16),
    /// The name.
    Name(String),
}

impl Field for ServerPort {
    fn read(value: &Value, reader: &mut Reader) -> Self {
        match value {
            Value::String(name) if !name.is_empty() => return ServerPort::Name(name.clone()),
            Value::Number(number) => {
                let port = number.as_u64().and_then(|number| u16::try_from(number).ok()).filter(|port| *port != 0);
                if let Some(port) = port {
                    return ServerPort::Number(port);
                }
            }
            _ => {}
        }
        reader.unexpected(value, "the number of a port, from 1 to 65535, or its name");
        ServerPort::Unset
    }

    fn json(&self) -> Value {
        match self {
            ServerPort::Unset => Value::Null,
            ServerPort::Number(number) => (*number).into(),
            ServerPort::Name(name) => name.as_str().into(),
        }
    }

    fn is_unset(&self) -> bool {
        *self == ServerPort::Unset
    }
}

object! {
    /// Linkerd's HTTPLocalRateLimitPolicy resource.
    HttpLocalRateLimitPolicy: HttpLocalRateLimitPolicySpec,
    "policy.linkerd.io", "v1alpha1", "HTTPLocalRateLimitPolicy", "httplocalratelimitpolicies"
}

message! {
    /// The spec of an HTTPLocalRateLimitPolicy.
    HttpLocalRateLimitPolicySpec {
        /// The Server, in the policy's own namespace.
        target_ref: PolicyTarget = "targetRef",
        /// The limit of all clients together.
        total: Option<PerSecond> = "total",
        /// The limit of each client.
        identity: Option<PerSecond> = "identity",
        /// The limits of some clients, in place of `identity`.
        overrides: Vec<Override> = "overrides",
    }
}

message! {
    /// The target of a policy.
    PolicyTarget {
        /// The API group.
        group: String = "group",
        /// The kind.
        kind: String = "kind",
        /// The name.
        name: String = "name",
    }
}

message! {
    /// A limit.
    PerSecond {
        /// The number of requests.
        requests_per_second: u32 = "requestsPerSecond",
    }
}

message! {
    /// The limit of some clients, which they have together.
    Override {
        /// The number of requests.
        requests_per_second: u32 = "requestsPerSecond",
        /// The clients.
        client_refs: Vec<ClientRef> = "clientRefs",
    }
}

message! {
    /// A client.
    ClientRef {
        /// The API group.
        group: String = "group",
        /// The kind: ServiceAccount.
        kind: String = "kind",
        /// The namespace; that of the policy without it.
        namespace: String = "namespace",
        /// The name.
        name: String = "name",
    }
}

impl ServerSpec {
    /// Returns the labels of the pods; `None`: it selects none, or in a way that has no effect.
    pub fn labels(&self) -> Option<BTreeMap<String, String>> {
        let selector = self.pod_selector.as_ref().filter(|of| of.match_expressions.is_empty())?;
        Some(selector.match_labels.clone())
    }

    /// Returns the number of the port.
    pub fn port_number(&self) -> Option<u16> {
        match self.port {
            ServerPort::Number(number) => Some(number),
            ServerPort::Unset | ServerPort::Name(_) => None,
        }
    }
}

impl Server {
    /// Returns what is wrong with the object, at most 100 problems. It is refused if one of them is an error.
    pub fn validate(&self) -> Vec<Problem> {
        let mut check = Check::of(&self.unread);
        let spec = &self.spec;
        if spec.pod_selector.as_ref().is_some_and(|of| !of.match_expressions.is_empty()) {
            check.warn_of(
                "podSelector.matchExpressions",
                "has no effect, so that the Server selects no pod; write matchLabels",
            );
        }
        if spec.external_workload_selector.is_some() {
            check.warn_of("externalWorkloadSelector", "has no effect: only pods are selected; write podSelector");
        }
        if let ServerPort::Name(_) = spec.port {
            check.warn_of(
                "port",
                "is a name, so that limits on the Server have no effect; write the number of the port",
            );
        }
        if !spec.access_policy.is_empty() {
            check.warn_of(
                "accessPolicy",
                "has no effect; write an AuthorizationPolicy (security.istio.io) for the workload",
            );
        }
        check.into_problems()
    }
}

/// Returns a bucket as Linkerd has it: a second's requests at once, and the same number added evenly.
fn bucket(requests: u32) -> Bucket {
    Bucket { max_tokens: requests, tokens_per_fill: requests, fill_interval: Duration::from_secs(1) }
}

impl HttpLocalRateLimitPolicySpec {
    /// Returns the limits of a policy of a namespace on a port.
    pub fn limits(&self, namespace: &str, port: u16) -> Limits {
        let of_port = || Condition::any("destination.port", vec![port.to_string()]);
        let all = |bucket| Limit::Local {
            bucket: Some(bucket),
            descriptors: Vec::new(),
            bucket_of_others: false,
            per_connection: false,
        };
        let by_client = |bucket| Limit::Local {
            bucket: None,
            descriptors: vec![DescriptorLimit { entries: vec![("source_identity".to_owned(), None)], bucket }],
            bucket_of_others: false,
            per_connection: false,
        };
        let identity = || {
            let action = Action { key: String::new(), skip_if_absent: false, value: ActionValue::Identity };
            vec![Descriptor { actions: vec![action], stage: 0 }]
        };
        let mut rules = Vec::new();
        if let Some(total) = &self.total {
            let rule = LimitRule::of(all(bucket(total.requests_per_second)));
            rules.push(LimitRule { matches: vec![vec![of_port()]], ..rule });
        }
        // Of a client that several overrides name, the last one has effect.
        for of in self.overrides.iter().rev() {
            let account = |of: &ClientRef| {
                format!("{}/{}", if of.namespace.is_empty() { namespace } else { of.namespace.as_str() }, of.name)
            };
            let accounts = Condition::any("source.serviceAccount", of.client_refs.iter().map(account).collect());
            rules.push(LimitRule {
                matches: vec![vec![of_port(), accounts]],
                alternative: 1,
                ..LimitRule::of(all(bucket(of.requests_per_second)))
            });
        }
        if let Some(of) = &self.identity {
            rules.push(LimitRule {
                matches: vec![vec![of_port()]],
                alternative: 1,
                descriptors: identity(),
                ..LimitRule::of(by_client(bucket(of.requests_per_second)))
            });
        }
        for rule in &mut rules {
            rule.resource_exhausted = true;
        }
        Limits { rules, route_descriptors: Vec::new() }
    }
}

impl HttpLocalRateLimitPolicy {
    /// Returns what is wrong with the object, at most 100 problems. It is refused if one of them is an error.
    pub fn validate(&self) -> Vec<Problem> {
        let mut check = Check::of(&self.unread);
        let spec = &self.spec;
        check.at(format_args!(".targetRef"), |check| {
            if (&*spec.target_ref.group, &*spec.target_ref.kind) != (POLICY_GROUP, "Server")
                || spec.target_ref.name.is_empty()
            {
                check.error("must be a Server of group policy.linkerd.io, with its name");
            }
        });
        let rate = |of: &PerSecond, check: &mut Check| per_second(of.requests_per_second, check);
        check.some("total", &spec.total, rate);
        check.some("identity", &spec.identity, rate);
        if spec.total.is_none() && spec.identity.is_none() && spec.overrides.is_empty() {
            check.error_of("total", "is missing; write total, identity or overrides");
        }
        if spec.overrides.len() > MAX_CLIENTS {
            check.error_of(
                "overrides",
                format!("has {} items; a policy has at most {MAX_CLIENTS}", spec.overrides.len()),
            );
        }
        check.each("overrides", &spec.overrides, |of, check| {
            per_second(of.requests_per_second, check);
            if !(1..=MAX_CLIENTS).contains(&of.client_refs.len()) {
                check.error_of(
                    "clientRefs",
                    format!("has {} items, but must have 1 to {MAX_CLIENTS}", of.client_refs.len()),
                );
            }
            check.each("clientRefs", &of.client_refs, |of, check| {
                if !matches!(&*of.group, "" | "core") || of.kind != "ServiceAccount" || of.name.is_empty() {
                    check.error("must be a ServiceAccount, with its name");
                }
                if of.name.contains('/') || of.namespace.contains('/') {
                    check.error("is not the name of a ServiceAccount");
                }
            });
        });
        check.into_problems()
    }
}

fn per_second(requests: u32, check: &mut Check) {
    if let Err(why) = bucket(requests).check() {
        check.error_of("requestsPerSecond", why);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::validate;
    use super::*;

    fn policy(spec: Value) -> Value {
        json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec})
    }

    /// The policy of Linkerd's documentation.
    fn documented() -> Value {
        json!({
            "targetRef": {"group": "policy.linkerd.io", "kind": "Server", "name": "web-http"},
            "total": {"requestsPerSecond": 100},
            "identity": {"requestsPerSecond": 20},
            "overrides": [{"requestsPerSecond": 25, "clientRefs": [{"kind": "ServiceAccount", "namespace": "emojivoto", "name": "special-client"}]}],
        })
    }

    #[test]
    fn the_limits_are_those_of_all_of_some_and_of_each_other_client() {
        let object = policy(documented());
        assert_eq!(validate(POLICY_GROUP, "HTTPLocalRateLimitPolicy", &object), Vec::new());
        let limits = HttpLocalRateLimitPolicy::from_value(&object).spec.limits("shop", 80);
        let [total, special, each] = limits.rules.as_slice() else { panic!("{limits:?}") };
        assert!(matches!(total.limit, Limit::Local { bucket: Some(of), .. } if of == bucket(100)));
        assert_eq!(total.alternative, 0);
        assert_eq!(special.matches[0][1].any_of, ["emojivoto/special-client"]);
        assert_eq!((special.alternative, each.alternative), (1, 1));
        assert!(matches!(&each.limit, Limit::Local { descriptors, .. } if descriptors[0].bucket == bucket(20)));
    }

    #[test]
    fn what_linkerd_refuses_is_refused() {
        let target = json!({"group": "policy.linkerd.io", "kind": "Server", "name": "web"});
        let client = |of: Value| json!([{"requestsPerSecond": 1, "clientRefs": [of]}]);
        for (spec, field) in [
            (
                json!({"targetRef": {"kind": "Service", "name": "a"}, "total": {"requestsPerSecond": 1}}),
                "spec.targetRef",
            ),
            (json!({"targetRef": target, "total": {"requestsPerSecond": 0}}), "spec.total.requestsPerSecond"),
            (json!({"targetRef": target}), "spec.total"),
            (
                json!({"targetRef": target, "overrides": client(json!({"kind": "Service", "name": "a"}))}),
                "spec.overrides[0].clientRefs[0]",
            ),
            (json!({"targetRef": target, "overrides": [{"requestsPerSecond": 1}]}), "spec.overrides[0].clientRefs"),
        ] {
            let found = validate(POLICY_GROUP, "HTTPLocalRateLimitPolicy", &policy(spec));
            assert!(found.iter().any(|of| of.is_error() && of.field == field), "{field}: {found:?}");
        }
        let server =
            policy(json!({"podSelector": {"matchLabels": {"app": "web"}}, "port": "http", "accessPolicy": "deny"}));
        let found = validate(POLICY_GROUP, "Server", &server);
        assert_eq!(found.iter().map(|of| &*of.field).collect::<Vec<_>>(), ["spec.port", "spec.accessPolicy"]);
    }
}
