//! What a member of an archive is, by its name and kind. Pure; nothing is ever unpacked under these names.

use tar::EntryType;

use super::{Error, INDEX, MARKER};
use crate::oci::{Algorithm, Digest};

/// Characters of a name that an error repeats.
const NAME_SHOWN_MAX: usize = 120;

/// What a member of an archive is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Member {
    /// `oci-layout`.
    Marker,
    /// `index.json`.
    Index,
    /// A blob.
    Blob(Digest),
    /// A folder, or a file that is no part of a layout, as `docker save` writes some.
    Other,
}

impl Member {
    /// Reads a member's name and kind. Refused is whatever could only be meant to be unpacked elsewhere.
    pub fn of(path: &[u8], kind: EntryType) -> Result<Self, Error> {
        let shown: String = String::from_utf8_lossy(path).chars().take(NAME_SHOWN_MAX).collect();
        let refused = |problem| Err(Error::Member { member: shown.clone(), problem });
        let Ok(text) = std::str::from_utf8(path) else { return refused("has a name that is no text") };
        if text.starts_with('/') {
            return refused("has an absolute path");
        }
        if text.split('/').any(|part| part == "..") {
            return refused("leads out of the archive");
        }
        match kind {
            EntryType::Regular | EntryType::Continuous => {}
            EntryType::Directory | EntryType::XGlobalHeader => return Ok(Self::Other),
            EntryType::Symlink | EntryType::Link => return refused("is a link"),
            _ => return refused("is neither a file nor a folder"),
        }
        let name: Vec<&str> = text.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        match name[..] {
            [MARKER] => Ok(Self::Marker),
            [INDEX] => Ok(Self::Index),
            ["blobs", algorithm, hex] if algorithm.parse::<Algorithm>().is_ok() => {
                format!("{algorithm}:{hex}").parse().map(Self::Blob).or_else(|_| refused("is not named after a digest"))
            }
            _ => Ok(Self::Other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_known_by_name_and_kind() {
        let digest = Digest::of(Algorithm::Sha512, b"x");
        let blob = format!("blobs/sha512/{}", digest.hex());
        for (path, kind, expected) in [
            ("oci-layout", EntryType::Regular, Some(Member::Marker)),
            ("./index.json", EntryType::Regular, Some(Member::Index)),
            (&blob, EntryType::Regular, Some(Member::Blob(digest))),
            ("blobs/sha256/", EntryType::Directory, Some(Member::Other)),
            ("manifest.json", EntryType::Regular, Some(Member::Other)),
            ("blobs/blake3/12", EntryType::Regular, Some(Member::Other)),
            ("sub/index.json", EntryType::Regular, Some(Member::Other)),
            ("blobs/sha256/12", EntryType::Regular, None),
            ("/etc/passwd", EntryType::Regular, None),
            ("../index.json", EntryType::Regular, None),
            ("blobs/../../x", EntryType::Directory, None),
            (&blob, EntryType::Symlink, None),
            (&blob, EntryType::Link, None),
            (&blob, EntryType::Fifo, None),
            (&blob, EntryType::GNUSparse, None),
        ] {
            assert_eq!(Member::of(path.as_bytes(), kind).ok(), expected, "{path} {kind:?}");
        }
        assert!(Member::of(b"\xff", EntryType::Regular).is_err());
    }
}
