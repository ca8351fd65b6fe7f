//! Harm done to the files of a store behind its back.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use entrepot::oci::Digest;

use super::registry::TestRegistry;

/// What a disk, a controller or somebody's hand does to a file.
#[derive(Clone, Copy, Debug)]
pub enum Harm {
    Flip,
    Cut,
    Grow,
    Remove,
    Swap,
}

pub const HARMS: [Harm; 5] = [Harm::Flip, Harm::Cut, Harm::Grow, Harm::Remove, Harm::Swap];

/// Where a stored blob lies.
pub fn file_of(registry: &TestRegistry, digest: &Digest) -> PathBuf {
    registry.registry().depot().blobs.store().blob_path(digest)
}

/// Does it to a stored blob.
pub fn harm(registry: &TestRegistry, digest: &Digest, harm: Harm) {
    let path = file_of(registry, digest);
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let length = file.metadata().unwrap().len();
    match harm {
        Harm::Flip => {
            let mut byte = [0];
            file.read_exact_at(&mut byte, length / 2).unwrap();
            file.write_all_at(&[byte[0] ^ 4], length / 2).unwrap();
        }
        Harm::Cut => file.set_len(length - 1).unwrap(),
        Harm::Grow => file.write_all_at(b"x", length).unwrap(),
        Harm::Remove => fs::remove_file(&path).unwrap(),
        Harm::Swap => {
            let other = path.with_extension("other");
            fs::write(&other, vec![b' '; usize::try_from(length).unwrap()]).unwrap();
            fs::rename(other, &path).unwrap();
        }
    }
}
