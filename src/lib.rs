//! entrepot: a pull-through caching mirror registry for container images.
#![deny(unsafe_code)]

pub mod oci;
