//! One binary for all tests of behaviour: a module for each, and what they share in `support`.

#![expect(clippy::disallowed_methods, reason = "tests set the stage with files and tasks of their own")]

mod support;
mod upstream_client; // the client of an upstream against every fault a registry was seen to have
