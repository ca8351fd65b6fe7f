//! What the tests of behaviour share.

pub mod upstream;
