//! The SNI router between networks.
