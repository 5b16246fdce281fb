//! The floors: the smallest processes on the same libraries that do a proxy's minimum work. The cost of a proxy beyond its
//! floor is the price of its features.

pub mod copy;
pub mod gateway;
pub mod pair;
