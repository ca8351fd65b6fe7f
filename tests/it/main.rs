//! One binary for all tests of behaviour: a module for each, and what they share in `support`.

mod eviction; // the bound of the cache
mod freshness; // when a tag is asked for again
mod manifests; // of upstreams, as clients ask for them
mod names; // every way to name a repository
mod private; // pushed names beside mirrored ones
mod pull_cold; // the transfer that belongs to the server
mod pull_concurrent; // many clients at once
mod pull_faults; // what upstreams do wrong
mod pull_range; // parts of blobs, and HEAD
mod pull_warm; // what is here already
mod support;
mod tags; // lists
mod upstream_client; // the client of an upstream against every fault a registry was seen to have
