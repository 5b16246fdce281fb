//! Resolves paths to the modules that define what they name, through imports and re-exports.

use std::collections::BTreeSet;

use crate::source::Crate;

/// What a name resolves to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// A module of this crate.
    Module(usize),
    /// Something that a module of this crate defines.
    Item(usize),
    /// Something of another crate.
    Elsewhere,
}

/// The names that are being looked up, so that imports of each other end.
type Pending = BTreeSet<(usize, String)>;

impl Crate {
    /// The module that defines what `segments` name in module `from`, or the module itself if they name one. `None` if they name
    /// something of another crate.
    pub(crate) fn resolve(&self, from: usize, segments: &[String]) -> Option<usize> {
        match self.follow(from, segments, &mut Pending::new()) {
            Found::Module(module) | Found::Item(module) => Some(module),
            Found::Elsewhere => None,
        }
    }

    /// Returns whether the first of `segments` is `crate`, `self`, `super` or a module's name in module `from`. Another first segment
    /// is a type or such: its `use` declaration counts, or it is the module's own.
    pub(crate) fn starts_at_module(&self, from: usize, segments: &[String]) -> bool {
        segments.first().is_some_and(|first| match first.as_str() {
            "crate" | "self" | "super" => true,
            "Self" => false,
            name => matches!(self.look_up(from, name, &mut Pending::new()), Some(Found::Module(_))),
        })
    }

    fn follow(&self, from: usize, segments: &[String], pending: &mut Pending) -> Found {
        let mut current = Found::Module(from);
        for (i, segment) in segments.iter().enumerate() {
            let Found::Module(module) = current else { return current };
            current = match segment.as_str() {
                "crate" => Found::Module(0),
                "self" => current,
                "super" => Found::Module(self.modules[module].parent.unwrap_or(0)),
                name => match self.look_up(module, name, pending) {
                    // The first segment may name another crate, and further ones what a module re-exports of it.
                    None | Some(Found::Elsewhere) if i == 0 => Found::Elsewhere,
                    // What a macro defines is not listed.
                    None | Some(Found::Elsewhere) => Found::Item(module),
                    Some(found) => found,
                },
            };
        }
        current
    }

    fn look_up(&self, module: usize, name: &str, pending: &mut Pending) -> Option<Found> {
        let names = &self.modules[module];
        if let Some(child) = names.children.get(name) {
            return Some(Found::Module(*child));
        }
        if names.items.contains(name) {
            return Some(Found::Item(module));
        }
        if !pending.insert((module, name.to_owned())) {
            return None;
        }
        let named = names.imports.iter().find(|import| import.name.as_deref() == Some(name));
        if let Some(import) = named {
            return Some(self.follow(module, &import.path.segments, pending));
        }
        names.imports.iter().filter(|import| import.name.is_none()).find_map(|glob| {
            match self.follow(module, &glob.path.segments, pending) {
                Found::Module(target) if target != module => self.look_up(target, name, pending),
                _ => None,
            }
        })
    }
}
