//! What becomes of the objects of another mesh: Istio's, Linkerd's and SMI's. Decided from each object alone.
//!
//! [`judge`] has an entry for every object that concerns a mesh. It uses the validation and the tables by which API servers answer
//! when the object is applied, and a table of the kinds that only other meshes have ([`foreign`]).

mod foreign;
#[cfg(test)]
mod tests;

use serde::Serialize;
use serde_json::Value;

use crate::analyze::{Object, Origin};
use crate::compatibility::{self, GROUPS, KindWithoutEffect};
use crate::mesh::{self, MeshConfig};
use crate::networking;
use crate::{envoy_filter, federation, linkerd, rate_limit, security, smi};

/// What becomes of an object, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It works as it is.
    Works,
    /// It works, but for what the notes say.
    Differs,
    /// It has no effect. The notes say what to use instead.
    CannotWork,
    /// It is refused. The notes say why.
    Refused,
}

/// What a judgement is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Note {
    /// The path of the field; empty: the whole object.
    pub field: String,
    /// The line in the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// What is so, and what to use instead.
    pub text: String,
}

/// What becomes of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Judgement {
    /// The verdict.
    pub verdict: Verdict,
    /// The reasons.
    pub notes: Vec<Note>,
}

/// The number of notes of an object.
const MAX_NOTES: usize = 100;

/// Judges an object. Returns `None` if it does not concern a mesh.
pub fn judge(object: &Object) -> Option<Judgement> {
    let (group, kind) = (object.group(), object.kind());
    if let Some(instead) = foreign::instead(group, kind) {
        return Some(whole(Verdict::CannotWork, instead.to_owned()));
    }
    if let Some(known) = without_effect(group, kind, &object.value) {
        return Some(whole(Verdict::CannotWork, known.instead.to_owned()).of(object));
    }
    if is_settings(object) {
        let text = object.value["data"]["mesh"].as_str().unwrap_or_default();
        let (verdict, notes) = of_settings(text, "data.mesh");
        return Some(Judgement { verdict, notes }.of(object));
    }
    if GROUPS.contains(&group) {
        return Some(of_configuration(object).of(object));
    }
    let (concerns, notes) = foreign::markers(object);
    (concerns || !notes.is_empty()).then(|| {
        let verdict = if notes.is_empty() { Verdict::Works } else { Verdict::Differs };
        Judgement { verdict, notes }.of(object)
    })
}

/// Returns the kind if the object has no effect at all.
fn without_effect(group: &str, kind: &str, object: &Value) -> Option<&'static KindWithoutEffect> {
    compatibility::kinds::find(group, kind).or_else(|| envoy_filter::without_effect(group, kind, object))
}

fn whole(verdict: Verdict, text: String) -> Judgement {
    Judgement { verdict, notes: vec![Note { field: String::new(), line: None, text }] }
}

/// Judges an object of a kind that has effect.
fn of_configuration(object: &Object) -> Judgement {
    let (group, kind, value) = (object.group(), object.kind(), &object.value);
    let mut problems = networking::validate(group, kind, value);
    problems.extend(security::validate(group, kind, value));
    problems.extend(smi::validate(group, kind, value));
    problems.extend(linkerd::validate(group, kind, value));
    problems.extend(mesh::validate(group, kind, value));
    problems.extend(envoy_filter::validate(group, kind, value));
    problems.extend(rate_limit::validate(group, kind, value));
    problems.extend(federation::validate(group, kind, value));
    let note = |problem: &networking::Problem| Note {
        field: problem.field.clone(),
        line: None,
        text: problem.message.clone(),
    };
    if problems.iter().any(networking::Problem::is_error) {
        let errors = problems.iter().filter(|problem| problem.is_error());
        return Judgement { verdict: Verdict::Refused, notes: errors.map(note).collect() };
    }
    let mut notes: Vec<Note> = problems.iter().map(note).collect();
    let name = object.full_name();
    let prefix = format!("{kind} {name}: ");
    for warning in compatibility::warnings(group, kind, &name, value) {
        let text = warning.strip_prefix(&prefix).unwrap_or(&warning);
        let (field, text) = text.split_once(": ").unwrap_or(("", text));
        if notes.iter().all(|note| note.field != field) {
            notes.push(Note { field: field.to_owned(), line: None, text: text.to_owned() });
        }
    }
    let verdict = if notes.is_empty() { Verdict::Works } else { Verdict::Differs };
    Judgement { verdict, notes }
}

/// Returns whether an object is the ConfigMap with the settings of Istio.
fn is_settings(object: &Object) -> bool {
    let of_istio = object.name() == "istio" || object.name().starts_with("istio-");
    object.group().is_empty() && object.kind() == "ConfigMap" && of_istio && object.value["data"]["mesh"].is_string()
}

/// Judges the mesh settings.
fn of_settings(text: &str, field: &str) -> (Verdict, Vec<Note>) {
    let note = |name: &str, text: String| {
        let field = if name.is_empty() { field.to_owned() } else { format!("{field}.{name}") };
        Note { field, line: None, text }
    };
    match MeshConfig::parse(text) {
        Err(error) => (Verdict::Refused, vec![note("", error.to_string())]),
        Ok((_, warnings)) if warnings.is_empty() => (Verdict::Works, Vec::new()),
        Ok((_, warnings)) => {
            let notes = warnings.into_iter().map(|warning| note(&warning.field, warning.message));
            (Verdict::Differs, notes.collect())
        }
    }
}

impl Judgement {
    /// Gives the notes their lines, if the object comes from a file.
    fn of(mut self, object: &Object) -> Self {
        self.notes.truncate(MAX_NOTES);
        if let Origin::File { lines, .. } = &object.origin {
            for note in self.notes.iter_mut().filter(|note| !note.field.is_empty()) {
                note.line = Some(lines.of(&note.field));
            }
        }
        self
    }
}
