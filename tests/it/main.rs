//! One binary for all tests of behaviour: a module for each, and what they share in `support`.
#![expect(clippy::disallowed_methods, reason = "tests own their tasks, their files and their processes")]

mod access; // who may do what: rules, passwords, tokens, robots, every route against every caller
mod acme; // certificates that are issued to us, and renewed
mod admin; // what operators see of the inside, and who may
mod artifacts; // what is kept beside images
mod bounds;
mod chain; // one registry over another
mod closed_world; // nobody but the configured upstreams is contacted
mod config_cli; // the command line and its configuration
mod consistency; // what a check of a store finds
mod crash; // the real binary killed and stopped at every moment
#[cfg(debug_assertions)]
mod crash_drill; // fifty lives and deaths under load
mod deletes; // tags, manifests and blobs taken away
#[cfg(debug_assertions)]
mod disk_faults; // every system call and every change of the index failing once
mod errors; // malformed requests: the error of the specification, nothing stored
mod eviction; // the bound of the cache
mod export; // images on their way out, as a layout
mod failing_disk; // a disk that is full, and one that is unmounted
mod fault_table; // every fault of an upstream in every situation
mod fills; // the fills under way, as they are shown
mod freshness; // when a tag is asked for again
mod freshness_ahead; // when it is confirmed early, on demand, or not at all
mod heal; // damaged bytes: set aside, fetched again or reported
mod health; // what orchestrators and Prometheus ask
mod import; // and in again, whoever made the layout
mod keeping; // what operators pin, list and remove
mod limits; // what one client may take
mod lists; // tags and repositories, a page at a time
mod manifests; // of upstreams, as clients ask for them
mod manifests_pushed; // kept byte for byte, refused with a reason
mod mounts; // blobs from one repository into another
mod names; // every way to name a repository
mod passthrough; // what is for those whom the upstream lets in
mod prefetch; // layers before they are asked for
mod private; // pushed names beside mirrored ones
mod pull_cold; // the transfer that belongs to the server
mod pull_concurrent; // many clients at once
mod pull_faults; // what upstreams do wrong
mod pull_pieces; // large blobs by several requests at a time
mod pull_range; // parts of blobs, and HEAD
mod pull_warm; // what is here already
mod push; // whole pushes as each client sends them
mod quotas; // bounds on parts of what is kept
mod rebuild; // an index lost, damaged, put back
mod referrers; // what is attached to a manifest
mod referrers_mirrored; // the same of an upstream's
mod retention; // what stays of what was pushed
mod scrub; // every stored blob compared with its digest, again and again
mod setup; // what clients are told to paste
mod sources; // several places for one upstream, and what each may be told
mod support;
mod sweep; // garbage collection beside the requests
mod tags; // lists
mod tidy; // the rules of the house against its source tree
mod tls; // both versions of HTTP, certificates that change, clients that show some
mod uploads; // sessions: chunks, ends, resuming, limits
mod upstream_client; // the client of an upstream against every fault a registry was seen to have
mod warm;
mod web_pages; // what pages in an operator's browser cannot do
mod webhooks; // receivers that are told what happened
mod why; // what is told of a reference, held against the pull
mod wire; // what real clients do on the wire
