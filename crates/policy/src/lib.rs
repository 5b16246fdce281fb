//! Deciding: peer authentication and authorization. No IO.
