//! The whole tree of a store, drawn and built here.
//!
//! ```text
//! PATH/
//!   entrepot.json                  marker: this is a store, and of which format
//!   lock                           held by the one process that serves the store
//!   index.sqlite  -wal  -shm       the index (see `metadata`)
//!   names                          the names of what was pushed, readable without the index
//!   acme/account.json  order.json  certificate.pem   what ACME gave us and what it takes to get more; mode 0600
//!   blobs/sha256/ab/abcdef…        committed blobs and manifests: immutable, named by what they hold
//!   blobs/sha512/ab/abcdef…
//!   quarantine/MS-sha256-abcdef…   bytes found not to be the blob they were named as, and when (Unix milliseconds)
//!   staging/fills/sha256-abcdef…   fills in progress; what a restart finds here is continued when asked for again
//!   staging/fills/….front          how far that fill has come without a gap, while it is written in several places
//!   staging/uploads/UUID           upload sessions; those without a row in the index are removed at start
//!   staging/puts/UUID              small blobs on their way in; removed at start
//!   staging/naming/sha256-abcdef…  empty; that blob is getting its name, and is removed at start unless the index has it
//! ```
//! One level of 256 folders below the algorithm: they are made with the store, so that a commit has to make no folder
//! durable but the one it renames into, and folders never grow the store's size by more than a few MiB.

use std::path::{Path, PathBuf};

use crate::oci::{Algorithm, Digest, UploadId};

/// The folders of a new store, parents first.
pub(super) fn folders(root: &Path) -> Vec<PathBuf> {
    let mut folders = vec![root.join("blobs"), root.join("staging"), quarantine(root)];
    folders.extend(["fills", "uploads", "puts", "naming"].map(|name| root.join("staging").join(name)));
    for algorithm in Algorithm::ALL {
        let of_algorithm = root.join("blobs").join(algorithm.as_str());
        folders.push(of_algorithm.clone());
        folders.extend((0..=u8::MAX).map(|byte| of_algorithm.join(format!("{byte:02x}"))));
    }
    folders
}

pub(super) fn marker(root: &Path) -> PathBuf {
    root.join("entrepot.json")
}

pub(super) fn lock(root: &Path) -> PathBuf {
    root.join("lock")
}

pub(super) fn index(root: &Path) -> PathBuf {
    root.join("index.sqlite")
}

/// The index and what lies beside it.
pub(super) fn index_files(folder: &Path) -> [PathBuf; 3] {
    ["index.sqlite", "index.sqlite-wal", "index.sqlite-shm"].map(|name| folder.join(name))
}

/// The record of names.
pub(super) fn names(root: &Path) -> PathBuf {
    root.join("names")
}

/// What was issued to us, if anything is.
pub(super) fn issuance(root: &Path) -> PathBuf {
    root.join("acme")
}

/// The folder of the blobs whose digest begins with this byte.
pub(super) fn blob_folder(root: &Path, algorithm: Algorithm, first: u8) -> PathBuf {
    root.join("blobs").join(algorithm.as_str()).join(format!("{first:02x}"))
}

pub(super) fn blob(root: &Path, digest: &Digest) -> PathBuf {
    let hex = digest.hex();
    root.join("blobs").join(digest.algorithm().as_str()).join(&hex[..2]).join(hex)
}

pub(super) fn fill(root: &Path, digest: &Digest) -> PathBuf {
    root.join("staging/fills").join(file_name(digest))
}

/// Where it is noted that a blob is getting its name.
pub(super) fn naming(root: &Path, digest: &Digest) -> PathBuf {
    naming_folder(root).join(file_name(digest))
}

pub(super) fn naming_folder(root: &Path) -> PathBuf {
    root.join("staging/naming")
}

/// A digest without a colon, which some file systems do not like in a name.
fn file_name(digest: &Digest) -> String {
    format!("{}-{}", digest.algorithm().as_str(), digest.hex())
}

/// Where it is recorded how much of a staged file has no gap.
pub(super) fn front(staged: &Path) -> PathBuf {
    staged.with_added_extension("front")
}

/// The staged file whose front a file records.
pub(super) fn of_front(path: &Path) -> Option<PathBuf> {
    path.extension().is_some_and(|extension| extension == "front").then(|| path.with_extension(""))
}

/// The digest that a file name in `staging/` is of.
pub(super) fn parse_digest(name: &str) -> Option<Digest> {
    name.replacen('-', ":", 1).parse().ok()
}

/// Where bytes lie that are not the blob they were named as.
pub(super) fn quarantine(root: &Path) -> PathBuf {
    root.join("quarantine")
}

pub(super) fn quarantined(root: &Path, digest: &Digest, found_ms: i64) -> PathBuf {
    let name = format!("{}-{}-{}", found_ms.max(0), digest.algorithm().as_str(), digest.hex());
    quarantine(root).join(name)
}

/// When the bytes under this name in `quarantine` were found to be wrong, and what they should have been.
pub(super) fn parse_quarantined(name: &str) -> Option<(i64, Digest)> {
    let (found_ms, digest) = name.split_once('-')?;
    Some((found_ms.parse().ok()?, parse_digest(digest)?))
}

pub(super) fn upload(root: &Path, id: &UploadId) -> PathBuf {
    root.join("staging/uploads").join(id.to_string())
}

/// Small blobs are staged under a random name: two writers of one digest never meet in one file.
pub(super) fn put(root: &Path) -> PathBuf {
    root.join("staging/puts").join(UploadId::random().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fills_name_leads_back_to_its_digest() {
        let digest = Digest::of(Algorithm::Sha512, b"x");
        let path = fill(Path::new("/s"), &digest);
        assert_eq!(parse_digest(path.file_name().unwrap().to_str().unwrap()), Some(digest));
        assert_eq!(parse_digest("sha256-zz"), None);
        assert_eq!(of_front(&front(&path)), Some(path.clone()));
        assert_eq!(of_front(&path), None);
        let path = quarantined(Path::new("/s"), &digest, 7);
        assert_eq!(parse_quarantined(path.file_name().unwrap().to_str().unwrap()), Some((7, digest)));
        assert_eq!(parse_quarantined("7-sha256-zz"), None);
    }

    #[test]
    fn every_blob_lies_in_a_folder_that_is_made_with_the_store() {
        let root = Path::new("/s");
        let folders = folders(root);
        for text in [b"a", b"b", b"c"] {
            for algorithm in Algorithm::ALL {
                let path = blob(root, &Digest::of(algorithm, text));
                assert!(folders.contains(&path.parent().unwrap().to_path_buf()));
            }
        }
        assert!(
            folders.iter().all(
                |folder| folder.parent() == Some(root) || folders.contains(&folder.parent().unwrap().to_path_buf())
            )
        );
    }
}
