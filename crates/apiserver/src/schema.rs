//! The built-in kinds' schemas: their fields, the types of the fields, and how lists and maps merge.

pub(crate) mod definitions;
pub(crate) mod merge_keys;
pub(crate) mod merge_rules;
pub(crate) mod shapes;
