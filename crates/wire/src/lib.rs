//! What controller and proxies say to each other: messages and the delta stream's state machines.
