//! What people write: resource types, defaulting and validation. No IO.
