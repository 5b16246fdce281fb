//! The floors: the smallest processes, on the same libraries, that do what a proxy must. What a proxy costs beyond them is
//! the price of its features.

pub mod copy;
pub mod gateway;
pub mod pair;
