//! The decision about an object of the mesh's configuration: denied if it is invalid, else admitted with warnings.

use api::{compatibility, envoy_filter, federation, linkerd, mesh, networking, rate_limit, security, smi};
use serde_json::{Value, json};
use telemetry::metrics::{Family, Registry};

use super::review::ReviewRequest;
use super::webhook::Denied;
use crate::objects::{Kind, Watched};

/// Counts objects that were admitted with a warning.
pub const WARNED: Family = Family {
    name: "isthmus_controller_warned_objects_total",
    help: "Objects of the mesh's configuration that were admitted with a warning.",
    labels: &[],
};
/// Counts objects that were denied.
pub const DENIED: Family = Family {
    name: "isthmus_controller_denied_objects_total",
    help: "Objects of the mesh's configuration that were denied because they are invalid.",
    labels: &[],
};

/// The number of problems that a denial or the warnings name. kubectl prints each on a line.
const NAMED: usize = 10;

/// The length to which a warning shows the name of a cluster.
const SHOWN: usize = 63;

/// Where an object is applied.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    /// The cluster whose API server asks.
    pub(super) asking: &'a str,
    /// The cluster of this controller.
    pub(super) own: &'a str,
    /// What clusters deny.
    pub(super) denied: &'a Denied,
}

impl Place<'_> {
    /// Returns the warning about an object that is not read where it is applied: of a kind that is read from this controller's
    /// cluster only, in another one; or of a kind that the cluster denies the controller.
    fn warning(self, group: &str, kind: &str, name: &str) -> Option<String> {
        let of = Kind::of(group, kind)?;
        let (asking, own) = (shown(self.asking), shown(self.own));
        if self.asking != self.own && of.watched() == Watched::Primary {
            return Some(format!(
                "{kind} {name} has no effect in cluster {asking}: configuration is read in its primary cluster; apply it in {own}"
            ));
        }
        (self.denied)(self.asking, of).then(|| {
            format!(
                "{kind} {name} has no effect in cluster {asking}: the controller in {own} is not permitted to read this kind here; `isthmus status` there says what to do"
            )
        })
    }
}

fn shown(cluster: &str) -> String {
    cluster.chars().take(SHOWN).collect()
}

/// Returns the response to a request about an object in a place.
pub(super) fn respond(request: &ReviewRequest, place: Place<'_>, metrics: &Registry) -> Value {
    let ReviewRequest { kind, object, .. } = request;
    let mut problems = networking::validate(&kind.group, &kind.kind, object);
    problems.extend(security::validate(&kind.group, &kind.kind, object));
    problems.extend(smi::validate(&kind.group, &kind.kind, object));
    problems.extend(linkerd::validate(&kind.group, &kind.kind, object));
    problems.extend(mesh::validate(&kind.group, &kind.kind, object));
    problems.extend(envoy_filter::validate(&kind.group, &kind.kind, object));
    problems.extend(rate_limit::validate(&kind.group, &kind.kind, object));
    problems.extend(federation::validate(&kind.group, &kind.kind, object));
    let (mut errors, others): (Vec<_>, Vec<_>) = problems.into_iter().partition(networking::Problem::is_error);
    if is_unchanged(request) {
        errors.clear();
    }
    let name = format!("{}/{}", request.namespace, request.name());
    // What has no effect anywhere is said once.
    let filter = envoy_filter::without_effect(&kind.group, &kind.kind, object);
    let mut warnings: Vec<String> = filter.map(|known| known.notice(&name)).into_iter().collect();
    if filter.is_none() {
        warnings.extend(place.warning(&kind.group, &kind.kind, &name));
    }
    warnings.extend(compatibility::warnings(&kind.group, &kind.kind, &name, object));
    let is_new = |problem: &&networking::Problem| {
        filter.is_none() || problem.code == envoy_filter::NO_EFFECT && !problem.message.contains(envoy_filter::INSTEAD)
    };
    let others = others.iter().filter(is_new);
    let lines = others.take(NAMED).map(|problem| format!("{} {name}: {problem}", kind.kind));
    for line in lines {
        // Fields without effect are in both.
        if !warnings.contains(&line) {
            warnings.push(line);
        }
    }
    let mut response = json!({"uid": request.uid, "allowed": errors.is_empty()});
    if !errors.is_empty() {
        metrics.shared().counter(&DENIED, &[]).increment();
        response["status"] = status(request, &name, &errors);
    } else if !warnings.is_empty() {
        metrics.shared().counter(&WARNED, &[]).increment();
    }
    if !warnings.is_empty() {
        response["warnings"] = json!(warnings);
    }
    response
}

/// Returns whether a request leaves the spec as it is. An object that became invalid by a new version of the controller
/// keeps its labels and finalizers changeable.
fn is_unchanged(request: &ReviewRequest) -> bool {
    request.old_object.get("spec").is_some_and(|spec| Some(spec) == request.object.get("spec"))
}

/// Returns the status of a denial. It has the form that API servers give to objects that a schema does not admit.
fn status(request: &ReviewRequest, name: &str, errors: &[networking::Problem]) -> Value {
    let kind = &request.kind;
    let mut message = format!("{} {name} is invalid:", kind.kind);
    for error in errors.iter().take(NAMED) {
        message.push_str(&format!("\n  {error}"));
    }
    if errors.len() > NAMED {
        message.push_str(&format!("\n  and {} further problems", errors.len() - NAMED));
    }
    let causes: Vec<Value> = errors
        .iter()
        .map(|error| json!({"reason": "FieldValueInvalid", "message": error.message, "field": error.field}))
        .collect();
    json!({
        "code": 422, "reason": "Invalid", "message": message,
        "details": {"name": request.name(), "group": kind.group, "kind": kind.kind, "causes": causes},
    })
}
