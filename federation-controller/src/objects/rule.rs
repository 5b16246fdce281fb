//! Objects with rules: VirtualService and DestinationRule, the rules of routing, and the security policies.
//!
//! Of each object the last valid version is in force, and what is wrong with the present one is kept beside it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use api::networking::service_entry;
use api::networking::{self, DestinationRuleSpec, ProxyConfigSpec, SidecarSpec, Validated as _, VirtualServiceSpec};
use api::security::{self, AuthorizationPolicySpec, PeerAuthenticationSpec, RequestAuthenticationSpec};
use kube::core::ObjectMeta;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::intern::Strings;
use super::{Kind, Labels, Object, Record, Selector, Text, Watched, fields};

mod kinds;

/// A VirtualService.
pub type VirtualService = Rule<VirtualServiceSpec>;

/// A DestinationRule.
pub type DestinationRule = Rule<DestinationRuleSpec>;

/// An AuthorizationPolicy.
pub type AuthorizationPolicy = Rule<AuthorizationPolicySpec>;

/// A PeerAuthentication.
pub type PeerAuthentication = Rule<PeerAuthenticationSpec>;

/// A RequestAuthentication.
pub type RequestAuthentication = Rule<RequestAuthenticationSpec>;

/// A Sidecar.
pub type Sidecar = Rule<SidecarSpec>;

/// A ProxyConfig.
pub type ProxyConfig = Rule<ProxyConfigSpec>;

/// An object with rules.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Rule<S> {
    /// The namespace.
    pub namespace: Text,
    /// The name.
    pub name: Text,
    /// `metadata.creationTimestamp`, seconds since 1970.
    pub created: i64,
    /// `metadata.generation`.
    #[serde(default)]
    pub generation: i64,
    /// The spec in force: of the last version that is valid. `None`: no version was.
    pub spec: Option<Arc<S>>,
    /// The labels of the pods that the version in force selects; `None`: it selects none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<Labels>,
    /// Whether the version in force only reports what it would decide.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// Whether no address is allocated for the hosts of the version in force, a ServiceEntry.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unallocated: bool,
    /// What is wrong with the present version, the worst first.
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<RuleProblem>,
}

/// Something that is wrong with an object.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct RuleProblem {
    /// Whether the version is refused for it.
    pub error: bool,
    /// The code, as `istioctl analyze` prints it.
    pub code: Text,
    /// What is wrong and where.
    pub text: Text,
}

/// The number of problems that are kept of one object.
const MAX_PROBLEMS: usize = 10;

/// About how many bytes one part of a spec takes.
const PART: usize = 512;

/// The spec of an object with rules.
pub trait RuleSpec: Clone + PartialEq + fmt::Debug + Send + Sync + 'static {
    /// The object as an API server sends it.
    type Source: networking::Validated<Spec = Self>
        + kube::Resource<DynamicType = ()>
        + Clone
        + fmt::Debug
        + DeserializeOwned
        + Send
        + 'static;
    /// The kind.
    const KIND: Kind;
    /// The kind's name in Kubernetes.
    const NAME: &'static str;
    /// The clusters in which the kind is watched.
    const WATCHED: Watched = Watched::Primary;
    /// Whether each object is compiled into a resource of its own.
    const OWN_RESOURCE: bool = false;
    /// Whether the collection has an index by namespace.
    const BY_NAMESPACE: bool = false;
    /// The number of objects that are kept of one remote cluster.
    const LIMIT: usize = 100_000;

    /// Returns the number of parts, for [`Record::size`].
    fn parts(&self) -> usize;

    /// Returns the labels of the pods that the object selects; `None`: it selects none.
    fn selects(&self) -> Option<BTreeMap<String, String>> {
        None
    }
}

impl<S: RuleSpec> Rule<S> {
    /// Returns whether the present version is refused.
    pub fn refused(&self) -> bool {
        self.problems.iter().any(|problem| problem.error)
    }

    /// Returns the version with the spec of the last valid one, if this one is refused.
    pub fn or_last_valid(mut self, last: Option<&Self>) -> Self {
        if let (None, Some(last)) = (&self.spec, last) {
            self.spec.clone_from(&last.spec);
            self.selector.clone_from(&last.selector);
            (self.dry_run, self.unallocated) = (last.dry_run, last.unallocated);
        }
        self
    }

    /// Returns the place in the order of age, in which the first one takes precedence, as in Istio.
    pub fn age(&self) -> (i64, &Text, &Text) {
        (self.created, &self.name, &self.namespace)
    }
}

impl<S: RuleSpec> Record for Rule<S>
where
    Rule<S>: Into<Object>,
{
    type Source = S::Source;
    const KIND: Kind = S::KIND;
    const NAME: &'static str = S::NAME;
    const WATCHED: Watched = S::WATCHED;
    const OPTIONAL: bool = true;
    const BY_NAMESPACE: bool = S::BY_NAMESPACE;
    const OWN_RESOURCE: bool = S::OWN_RESOURCE;
    const LIMIT: usize = S::LIMIT;

    fn extract(object: Self::Source) -> Option<Self> {
        let (metadata, spec, mut problems) = object.into_validated();
        let selects = spec.selects();
        let selector = selects.clone().map(|labels| fields::labels(Some(labels)));
        if selector.as_ref().map(|labels| labels.iter().count()) != selects.map(|labels| labels.len()) {
            // Without such a label, it would select more pods.
            problems.push(networking::Problem::error("spec.selector.matchLabels", "has labels that no pod can have"));
        }
        problems.sort_by_key(|problem| !problem.is_error());
        let refused = problems.first().is_some_and(networking::Problem::is_error);
        let problem = |of: &networking::Problem| RuleProblem {
            error: of.is_error(),
            code: of.code.into(),
            text: of.to_string().into(),
        };
        Some(Rule {
            namespace: fields::namespace(&metadata)?,
            name: fields::name(&metadata)?,
            created: fields::created(&metadata),
            generation: metadata.generation.unwrap_or_default(),
            spec: (!refused).then(|| Arc::new(spec)),
            selector: selector.filter(|_| !refused),
            dry_run: !refused && is_dry_run(&metadata),
            unallocated: !refused && !service_entry::allocates(&metadata),
            problems: problems.iter().take(MAX_PROBLEMS).map(problem).collect(),
        })
    }

    fn namespace(&self) -> Option<&Text> {
        Some(&self.namespace)
    }

    fn name(&self) -> &Text {
        &self.name
    }

    fn selector(&self) -> Option<Selector<'_>> {
        Some(Selector { namespace: Some(&self.namespace), labels: self.selector.as_ref()? })
    }

    fn intern(&mut self, strings: &mut Strings) {
        strings.text(&mut self.namespace);
        strings.text(&mut self.name);
        self.selector.iter_mut().for_each(|labels| strings.labels(labels));
        // Of the pipeline's own memory, as all records.
        self.spec = self.spec.as_ref().map(|spec| Arc::new(S::clone(spec)));
    }

    fn size(&self) -> usize {
        let spec = self.spec.as_ref().map_or(0, |spec| spec.parts() * PART);
        let problems: usize = self.problems.iter().map(|problem| fields::size(&problem.text)).sum();
        size_of::<Self>() + fields::size(&self.name) + spec + problems
    }
}

fn is_dry_run(metadata: &ObjectMeta) -> bool {
    metadata.annotations.as_ref().and_then(|of| of.get(security::DRY_RUN)).is_some_and(|value| value == "true")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_from_the_snapshot_as_it_was_written() {
        let object = serde_json::json!({"metadata": {"name": "a", "namespace": "b", "generation": 3}, "spec": {
            "host": "a", "subsets": [{"name": "v1", "labels": {"version": "v1"}}], "exportTo": ["."],
            "trafficPolicy": {"connectionPool": {"tcp": {"connectTimeout": "0.25s", "tcpKeepalive": {"time": "7200s"}}},
                "retryBudget": {"percent": 12.5}, "loadBalancer": {"consistentHash": {"httpCookie": {"name": "c", "ttl": "0s"}}},
                "portLevelSettings": [{"port": {"number": 80}, "tls": {"mode": "ISTIO_MUTUAL"}}]}}});
        let record = DestinationRule::extract(serde_json::from_value(object).unwrap()).unwrap();
        assert!(!record.refused() && record.generation == 3, "{record:?}");
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<DestinationRule>(&text).unwrap(), record);

        let object = serde_json::json!({"metadata": {"name": "a", "namespace": "b"}, "spec": {"hosts": ["a"], "http": [
            {"match": [{"uri": {"prefix": "/x"}, "withoutHeaders": {"x": {}}}], "timeout": "1.5s",
             "fault": {"abort": {"httpStatus": 500, "percentage": {"value": 0.0001}}}, "route": [{"destination": {"host": "a"}}]},
            {"route": [{"destination": {"host": "a"}, "weight": -1}]}]}});
        let record = VirtualService::extract(serde_json::from_value(object.clone()).unwrap()).unwrap();
        assert!(record.refused() && record.spec.is_none() && record.problems[0].text.contains("http[1]"), "{record:?}");
        let mut valid = object;
        valid["spec"]["http"][1]["route"][0]["weight"] = 1.into();
        let valid = VirtualService::extract(serde_json::from_value(valid).unwrap()).unwrap();
        assert!(valid.spec.is_some());
        let kept = record.or_last_valid(Some(&valid));
        assert_eq!(kept.spec, valid.spec);
        let text = serde_json::to_string(&kept).unwrap();
        assert_eq!(serde_json::from_str::<VirtualService>(&text).unwrap(), kept);
    }
}
