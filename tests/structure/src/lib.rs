//! The structure of the workspace: which module and which crate uses which.
//!
//! [`source`] reads a crate's modules from its files, [`resolve`] finds the module that defines what a path names, and [`graph`] makes a
//! graph with layers and cycles of it. [`workspace`] reads the crates and their dependencies from `cargo metadata`. [`rules`] holds the
//! tables of what may use what, [`check`] compares a workspace with them, and [`print`](mod@print) writes graphs as text, Graphviz, JSON and Markdown.
//!
//! A module uses another one where its source names something of it: in a `use` declaration, or in a path such as `crate::a::b`. A name
//! that a module re-exports counts as its definer's. A method called on a value whose type is not named is invisible here. Test code
//! (`#[cfg(test)]`) is left out.

pub mod check;
pub mod graph;
pub mod print;
pub mod resolve;
pub mod rules;
mod scan;
pub mod source;
pub mod workspace;
