//! The enums of resource types, which `build.rs` generates from the message `Resource` of
//! `proto/isthmus/discovery/v1/resources.proto`.

use std::fmt;

use bytes::Bytes;
use prost::{DecodeError, Message};

use crate::discovery;

include!(concat!(env!("OUT_DIR"), "/kinds.rs"));

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_urls_name_the_message_and_map_back_to_the_type() {
        for kind in Kind::ALL {
            assert_eq!(kind.url(), format!("type.googleapis.com/isthmus.discovery.v1.{kind}"));
            assert_eq!(Kind::of_url(kind.url()), Some(kind));
        }
        assert_eq!(Kind::of_url("type.googleapis.com/isthmus.discovery.v1.Resource"), None);
        assert_eq!(Kind::of_url(""), None);
    }

    #[test]
    fn discriminants_are_indexes_of_all() {
        for (index, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, index, "{kind}");
        }
    }
}
