//! Visibility: the namespaces that a service or a rule is exported to.

use std::collections::BTreeSet;

use crate::objects::Text;

/// The number of namespaces in one `exportTo`.
const MAX_NAMESPACES: usize = 256;

/// The namespaces that a service or a rule is exported to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::compile) enum Visibility {
    /// All.
    Public,
    /// These.
    Namespaces(BTreeSet<Text>),
}

impl Visibility {
    /// Returns the visibility of an object of a namespace. `.` is the namespace, `*` all of them, `~` none.
    pub(in crate::compile) fn of<T: AsRef<str>>(export_to: &[T], default: &[Text], namespace: &Text) -> Self {
        let names: Vec<&str> = match export_to.is_empty() {
            true => default.iter().map(|name| &**name).collect(),
            false => export_to.iter().map(AsRef::as_ref).collect(),
        };
        if names.is_empty() || names.contains(&"*") {
            return Visibility::Public;
        }
        let named = names.into_iter().filter(|name| *name != "~").take(MAX_NAMESPACES);
        Visibility::Namespaces(named.map(|name| if name == "." { namespace.clone() } else { name.into() }).collect())
    }

    /// Returns whether the rule is visible in a namespace.
    pub(in crate::compile) fn includes(&self, namespace: &Text) -> bool {
        match self {
            Visibility::Public => true,
            Visibility::Namespaces(namespaces) => namespaces.contains(namespace),
        }
    }
}
