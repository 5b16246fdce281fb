//! The mesh's own resource.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{
    ALL, Action, ActionValue, Bucket, Condition, Descriptor, DescriptorLimit, Global, Limit, LimitRule, Limits,
};
use crate::networking::Problem;
use crate::networking::destination_rule::WorkloadSelector;
use crate::networking::json::{message, object, shown, words};
use crate::networking::validate::destination_rule::selector as check_selector;
use crate::networking::validate::{Check, names};
use crate::security::values;

/// The number of rules of an object.
pub const MAX_RULES: usize = 100;
/// The number of matches of a rule, of keys, and of the values of a field.
pub const MAX_ITEMS: usize = 64;
/// The time limit of a service without one of its own, as in Envoy.
const TIMEOUT: Duration = Duration::from_millis(20);
/// The longest one.
const MAX_TIMEOUT: Duration = Duration::from_secs(60);

object! {
    /// The mesh's RateLimit resource.
    RateLimit: RateLimitSpec, "federation.isthmus.dev", "v1alpha1", "RateLimit", "ratelimits"
}

message! {
    /// The spec of a RateLimit.
    RateLimitSpec {
        /// The workloads whose requests are limited; unset: all of its namespace, or of the mesh if that is the root namespace.
        selector: Option<WorkloadSelector> = "selector",
        /// The rules. A request has to be within all of those that it matches.
        rules: Vec<LimitRuleSpec> = "rules",
        /// The service that counts requests; unset: each proxy counts for itself.
        global: Option<GlobalSpec> = "global",
        /// Whether requests that exceed a limit are answered, or only reported.
        mode: Mode = "mode",
        /// Whether responses have `x-ratelimit-limit`, `-remaining` and `-reset`, and answers `retry-after`.
        headers: bool = "headers",
    }
}

message! {
    /// A rule.
    LimitRuleSpec {
        /// The name, which a service receives as `generic_key`.
        name: String = "name",
        /// The requests: any of these; empty: all.
        matches: Vec<MatchSpec> = "match",
        /// What each value of has a limit of its own; empty: all requests have one together.
        key: Vec<KeySpec> = "key",
        /// The number of requests in each unit. Not with `global`, whose service knows the limits.
        requests: u32 = "requests",
        /// The unit.
        unit: Unit = "unit",
        /// The number of requests at once; 0: as `requests`.
        burst: u32 = "burst",
    }
}

message! {
    /// Requests: all fields have to match, by one of their values each. Values are as those of an AuthorizationPolicy.
    MatchSpec {
        /// The paths, without the query.
        paths: Vec<String> = "paths",
        /// The methods.
        methods: Vec<String> = "methods",
        /// The hosts.
        hosts: Vec<String> = "hosts",
        /// The headers, and their values.
        headers: BTreeMap<String, Vec<String>> = "headers",
        /// The identities of clients, without `spiffe://`.
        principals: Vec<String> = "principals",
        /// The namespaces of clients.
        namespaces: Vec<String> = "namespaces",
        /// The clusters of clients.
        clusters: Vec<String> = "clusters",
        /// The addresses of clients, as proxies on the way report them.
        ip_blocks: Vec<String> = "ipBlocks",
        /// The ports of the application.
        ports: Vec<String> = "ports",
    }
}

message! {
    /// A part of a request. One field is set.
    KeySpec {
        /// The value of a header. A request without it is not limited by the rule.
        header: String = "header",
        /// The value of a parameter of the query.
        query_parameter: String = "queryParameter",
        /// What else.
        source: KeySource = "source",
    }
}

words! {
    /// A part of a request that has no name.
    KeySource {
        /// None of these.
        #[default] None = "NONE",
        /// The path, without the query.
        Path = "PATH",
        /// The method.
        Method = "METHOD",
        /// The client's identity.
        Identity = "IDENTITY",
        /// The client's address, as proxies on the way report it.
        Address = "ADDRESS",
    }
}

words! {
    /// The unit of a limit.
    Unit {
        /// A second.
        #[default] Second = "SECOND",
        /// A minute.
        Minute = "MINUTE",
        /// An hour.
        Hour = "HOUR",
        /// A day.
        Day = "DAY",
    }
}

words! {
    /// What becomes of requests that exceed a limit.
    Mode {
        /// They are answered.
        #[default] Enforce = "ENFORCE",
        /// They are carried, and counted.
        Shadow = "SHADOW",
    }
}

message! {
    /// A service that counts requests, by Envoy's protocol.
    GlobalSpec {
        /// The full hostname of the service.
        host: String = "host",
        /// Its port.
        port: u32 = "port",
        /// The domain of the limits.
        domain: String = "domain",
        /// The time within which it has to answer; 20ms without it.
        timeout: Option<Duration> = "timeout",
        /// Whether requests about which it cannot be asked are refused.
        fail_closed: bool = "failClosed",
    }
}

impl Unit {
    fn interval(self) -> Duration {
        Duration::from_secs(match self {
            Unit::Second => 1,
            Unit::Minute => 60,
            Unit::Hour => 3600,
            Unit::Day => 24 * 3600,
        })
    }
}

impl RateLimitSpec {
    /// Returns the limits.
    pub fn limits(&self) -> Limits {
        let rule = |rule: &LimitRuleSpec| LimitRule {
            matches: rule.matches.iter().map(MatchSpec::conditions).collect(),
            enforced: if self.mode == Mode::Enforce { ALL } else { 0 },
            descriptors: rule.descriptor(self.global.is_some()).into_iter().collect(),
            quota_headers: self.headers,
            retry_after: self.headers,
            ..LimitRule::of(self.global.as_ref().map_or_else(|| rule.local(), GlobalSpec::limit))
        };
        Limits { rules: self.rules.iter().map(rule).collect(), route_descriptors: Vec::new() }
    }
}

impl GlobalSpec {
    fn limit(&self) -> Limit {
        Limit::Global(Global {
            hostname: self.host.clone(),
            port: u16::try_from(self.port).unwrap_or_default(),
            domain: self.domain.clone(),
            timeout: self.timeout.unwrap_or(TIMEOUT),
            fail_closed: self.fail_closed,
            status_on_error: 0,
            without_marker: false,
        })
    }
}

impl LimitRuleSpec {
    fn bucket(&self) -> Bucket {
        let max_tokens = if self.burst == 0 { self.requests } else { self.burst };
        Bucket { max_tokens, tokens_per_fill: self.requests, fill_interval: self.unit.interval() }
    }

    fn local(&self) -> Limit {
        let bucket = self.bucket();
        let (all, descriptors) = match self.key.is_empty() {
            true => (Some(bucket), Vec::new()),
            false => {
                let entries = self.key.iter().map(|key| (key.name(), None)).collect();
                (None, vec![DescriptorLimit { entries, bucket }])
            }
        };
        Limit::Local { bucket: all, descriptors, bucket_of_others: false, per_connection: false }
    }

    fn descriptor(&self, global: bool) -> Option<Descriptor> {
        let action = |key: String, value| Action { key, skip_if_absent: false, value };
        let name = global && !self.name.is_empty();
        let named = name.then(|| action(String::new(), ActionValue::Constant(self.name.clone())));
        let keys = self.key.iter().map(|key| action(key.name(), key.value()));
        let actions: Vec<Action> = named.into_iter().chain(keys).collect();
        (!actions.is_empty()).then_some(Descriptor { actions, stage: 0 })
    }
}

impl KeySpec {
    fn name(&self) -> String {
        match (&*self.header, &*self.query_parameter, self.source) {
            ("", "", KeySource::Path) => "path".to_owned(),
            ("", "", KeySource::Method) => "method".to_owned(),
            ("", "", KeySource::Identity) => "source_identity".to_owned(),
            ("", "", _) => "remote_address".to_owned(),
            ("", parameter, _) => parameter.to_owned(),
            (header, ..) => header.to_ascii_lowercase(),
        }
    }

    fn value(&self) -> ActionValue {
        match (&*self.header, &*self.query_parameter, self.source) {
            ("", "", KeySource::Path) => ActionValue::Path,
            ("", "", KeySource::Method) => ActionValue::Header(":method".to_owned()),
            ("", "", KeySource::Identity) => ActionValue::Identity,
            ("", "", _) => ActionValue::RemoteAddress(0, 0),
            ("", parameter, _) => ActionValue::Query(parameter.to_owned()),
            (header, ..) => ActionValue::Header(header.to_ascii_lowercase()),
        }
    }

    fn check(&self, check: &mut Check) {
        let set = [!self.header.is_empty(), !self.query_parameter.is_empty(), self.source != KeySource::None];
        if set.iter().filter(|set| **set).count() != 1 {
            check.error("needs one of header, queryParameter and source");
        }
        if !self.header.is_empty() {
            check.at(format_args!(".header"), |check| check.accept(names::header(&self.header)));
        }
    }
}

impl MatchSpec {
    fn fields(&self) -> [(&'static str, &'static str, &Vec<String>, values::Form); 8] {
        [
            ("paths", "request.path", &self.paths, values::path),
            ("methods", "request.method", &self.methods, values::pattern),
            ("hosts", "request.host", &self.hosts, values::pattern),
            ("principals", "source.principal", &self.principals, values::pattern),
            ("namespaces", "source.namespace", &self.namespaces, values::glob),
            ("clusters", "source.cluster", &self.clusters, values::pattern),
            ("ipBlocks", "remote.ip", &self.ip_blocks, values::block),
            ("ports", "destination.port", &self.ports, values::port),
        ]
    }

    fn conditions(&self) -> Vec<Condition> {
        let set = self.fields().into_iter().filter(|(.., values, _)| !values.is_empty());
        let fields = set.map(|(_, attribute, values, _)| Condition::any(attribute, values.clone()));
        let headers = self.headers.iter().map(|(name, values)| {
            let attribute = format!("request.headers[{}]", name.to_ascii_lowercase());
            // Without values, any that is not empty.
            Condition::any(attribute, if values.is_empty() { vec!["*".to_owned()] } else { values.clone() })
        });
        fields.chain(headers).collect()
    }

    fn check(&self, check: &mut Check) {
        for (field, _, texts, form) in self.fields() {
            values::all(field, texts, form, check);
            too_many(field, texts.len(), MAX_ITEMS, check);
        }
        too_many("headers", self.headers.len(), MAX_ITEMS, check);
        for (name, texts) in &self.headers {
            check.at(format_args!(".headers[{}]", shown(name)), |check| check.accept(names::header(name)));
            values::all(&format!("headers[{}]", shown(name)), texts, values::pattern, check);
        }
        if self.conditions().is_empty() {
            check.error("is empty; write what requests have to match, or remove it");
        }
    }
}

fn too_many(field: &str, count: usize, most: usize, check: &mut Check) {
    if count > most {
        check.error_of(field, format!("has {count} items, but at most {most} are possible"));
    }
}

impl RateLimit {
    /// Returns what is wrong with the object, at most 100 problems. It is refused if one of them is an error.
    pub fn validate(&self) -> Vec<Problem> {
        let mut check = Check::of(&self.unread);
        let spec = &self.spec;
        check.some("selector", &spec.selector, check_selector);
        if spec.rules.is_empty() {
            check.error_of("rules", "is empty; write at least one rule");
        }
        too_many("rules", spec.rules.len(), MAX_RULES, &mut check);
        check.some("global", &spec.global, |global, check| {
            check.at(format_args!(".host"), |check| check.accept(names::host(&global.host)));
            check.port("port", global.port);
            check.duration("timeout", global.timeout);
            if global.timeout.is_some_and(|timeout| timeout > MAX_TIMEOUT) {
                check.error_of("timeout", "is longer than a minute; write a shorter duration");
            }
            if global.domain.is_empty() {
                check.error_of("domain", "is missing; write the domain of the service's limits");
            }
        });
        check.each("rules", &spec.rules, |rule, check| rule.check(spec.global.is_some(), check));
        check.into_problems()
    }
}

impl LimitRuleSpec {
    fn check(&self, global: bool, check: &mut Check) {
        too_many("match", self.matches.len(), MAX_ITEMS, check);
        check.each("match", &self.matches, MatchSpec::check);
        too_many("key", self.key.len(), MAX_ITEMS, check);
        check.each("key", &self.key, KeySpec::check);
        if !global {
            if let Err(why) = self.bucket().check() {
                check.error_of("requests", why);
            }
            return;
        }
        if self.requests != 0 || self.burst != 0 {
            check.error_of("requests", "cannot be set beside global: its service knows the limits; remove it");
        }
        if self.name.is_empty() && self.key.is_empty() {
            check.error_of("name", "is missing; write a name or a key, by which the service counts requests");
        }
    }
}
