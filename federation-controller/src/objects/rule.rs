//! `networking.istio.io` VirtualService and DestinationRule: the rules of routing.

use std::fmt;
use std::sync::Arc;

use api::networking::{self, DestinationRuleSpec, VirtualServiceSpec};
use kube::core::ObjectMeta;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::intern::Strings;
use super::{Kind, Object, Record, Text, Watched, fields};

/// A VirtualService.
pub type VirtualService = Rule<VirtualServiceSpec>;

/// A DestinationRule.
pub type DestinationRule = Rule<DestinationRuleSpec>;

/// An object with rules of routing.
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
    type Source: kube::Resource<DynamicType = ()> + Clone + fmt::Debug + DeserializeOwned + Send + 'static;
    /// The kind.
    const KIND: Kind;
    /// The kind's name in Kubernetes.
    const NAME: &'static str;

    /// Returns the metadata and spec of an object, and what is wrong with it.
    fn of(object: Self::Source) -> (ObjectMeta, Self, Vec<networking::Problem>);

    /// Returns the number of parts, for [`Record::size`].
    fn parts(&self) -> usize;
}

impl RuleSpec for VirtualServiceSpec {
    type Source = networking::VirtualService;
    const KIND: Kind = Kind::VirtualService;
    const NAME: &'static str = "VirtualService";

    fn of(object: Self::Source) -> (ObjectMeta, Self, Vec<networking::Problem>) {
        let problems = object.validate();
        (object.metadata, object.spec, problems)
    }

    fn parts(&self) -> usize {
        let http: usize = self.http.iter().map(|route| 1 + route.matches.len() + route.route.len()).sum();
        self.hosts.len() + http + self.tls.len() + self.tcp.len()
    }
}

impl RuleSpec for DestinationRuleSpec {
    type Source = networking::DestinationRule;
    const KIND: Kind = Kind::DestinationRule;
    const NAME: &'static str = "DestinationRule";

    fn of(object: Self::Source) -> (ObjectMeta, Self, Vec<networking::Problem>) {
        let problems = object.validate();
        (object.metadata, object.spec, problems)
    }

    fn parts(&self) -> usize {
        1 + self.subsets.len()
    }
}

impl<S: RuleSpec> Rule<S> {
    /// Returns whether the present version is refused.
    pub fn refused(&self) -> bool {
        self.problems.iter().any(|problem| problem.error)
    }

    /// Returns the version with the spec of the last valid one, if this one is refused.
    pub fn or_last_valid(mut self, last: Option<&Self>) -> Self {
        if self.spec.is_none() {
            self.spec = last.and_then(|last| last.spec.clone());
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
    const WATCHED: Watched = Watched::Primary;
    const OPTIONAL: bool = true;
    const LIMIT: usize = 100_000;

    fn extract(object: Self::Source) -> Option<Self> {
        let (metadata, spec, mut problems) = S::of(object);
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
            problems: problems.iter().take(MAX_PROBLEMS).map(problem).collect(),
        })
    }

    fn namespace(&self) -> Option<&Text> {
        Some(&self.namespace)
    }

    fn name(&self) -> &Text {
        &self.name
    }

    fn intern(&mut self, strings: &mut Strings) {
        strings.text(&mut self.namespace);
        strings.text(&mut self.name);
        // Of the pipeline's own memory, as all records.
        self.spec = self.spec.as_ref().map(|spec| Arc::new(S::clone(spec)));
    }

    fn size(&self) -> usize {
        let spec = self.spec.as_ref().map_or(0, |spec| spec.parts() * PART);
        let problems: usize = self.problems.iter().map(|problem| fields::size(&problem.text)).sum();
        size_of::<Self>() + fields::size(&self.name) + spec + problems
    }
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
