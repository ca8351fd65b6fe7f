//! One binary for all tests of behaviour: a module for each, and what they share in `support`.

mod pull_warm; // what is here already
mod support;
mod tidy; // the rules of the house against its source tree
mod uploads; // sessions: chunks, ends, resuming, limits
mod upstream_client; // the client of an upstream against every fault a registry was seen to have
