//! entrepot: a pull-through caching mirror registry for container images.
#![deny(unsafe_code)]

pub mod blobs;
pub mod clock;
pub mod oci;
pub mod report;
pub mod storage;
