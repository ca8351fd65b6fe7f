//! What the tests of behaviour share.

pub mod acme;
pub mod client;
pub mod consistency;
pub mod disk;
pub mod drill;
pub mod front;
pub mod harm;
pub mod issuer;
pub mod layout;
pub mod process;
pub mod push;
pub mod raw;
pub mod receiver;
pub mod registry;
pub mod signer;
pub mod upstream;

/// Bytes that differ from their neighbours, so that a shifted part is a wrong part; other seeds give other bytes.
pub fn content(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from((at * 31 + at / 251 + seed * 97 + at / 7919 * seed) % 256).unwrap()).collect()
}
