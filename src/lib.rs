//! entrepot: a pull-through caching mirror registry for container images.
//!
//! The map, in reading order. Who may know whom is in ARCHITECTURE.md, and `tests/it/tidy.rs` holds everybody to it.
#![cfg_attr(test, expect(clippy::disallowed_methods, reason = "tests set the stage with files and tasks of their own"))]

pub mod oci;

pub mod acme;
pub mod auth;
pub mod blobs;
pub mod cache;
pub mod http;
pub mod layout;
pub mod metadata;
pub mod registry;
pub mod storage;
pub mod tasks;
pub mod upstream;
pub mod webhooks;

pub mod cli;
pub mod config;

pub mod clock;
pub mod crowd;
pub mod fault;
pub mod metrics;
pub mod near;
pub mod outbound;
mod pause;
pub mod report;
pub mod telemetry;
