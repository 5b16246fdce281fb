//! End-to-end tests: real labs, driven by the real `isthmus` command.
