//! Manifests that clients push: kept byte for byte, refused with a reason, tagged and tagged again.

mod accepted;
mod refused;
mod tags;
