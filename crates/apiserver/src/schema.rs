//! The schemas of built-in kinds: fields, their types, and how lists and maps merge.

pub(crate) mod definitions;
pub(crate) mod merge_keys;
pub(crate) mod merge_rules;
pub(crate) mod types;
