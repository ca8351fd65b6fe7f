//! What a check of a store finds.

use std::fmt;
use std::path::PathBuf;

use crate::metadata::{Drift, Flaw};
use crate::oci::{Digest, UploadId};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What was acknowledged or is served is not there, or is not what it should be.
    Damage,
    /// Nothing is lost, but a count or a row is not what it should be.
    Disorder,
    /// What a crash may leave: it takes space until the next start, the next fill or a scrub has it.
    Leftover,
}

impl Kind {
    /// The word in lists and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Damage => "damage",
            Self::Disorder => "disorder",
            Self::Leftover => "leftover",
        }
    }
}

/// A difference between index, files and sums.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The index says that a blob is here; its file is not.
    Missing {
        /// Which.
        digest: Digest,
        /// It was pushed, so nobody can fetch it again.
        pushed: bool,
    },
    /// Its file has another length.
    Length {
        /// Which.
        digest: Digest,
        /// It was pushed, so nobody can fetch it again.
        pushed: bool,
        /// What the index says.
        expected_bytes: u64,
        /// What is there.
        actual_bytes: u64,
    },
    /// Its bytes are others.
    Damaged {
        /// Which.
        digest: Digest,
        /// It was pushed, so nobody can fetch it again.
        pushed: bool,
        /// What they are.
        actual: Digest,
    },
    /// Its file takes another space on the disk than is counted.
    Space {
        /// Which.
        digest: Digest,
        /// What is counted.
        counted_bytes: u64,
        /// What it takes.
        actual_bytes: u64,
    },
    /// Its removal was begun and not ended.
    Deleting {
        /// Which.
        digest: Digest,
    },
    /// A file that the index does not know: a crash between its name and its row, or between the row's end and the disk's.
    Unrecorded {
        /// Which.
        digest: Digest,
        /// What it takes.
        stored_bytes: u64,
    },
    /// The file of an upload session that has no row.
    Upload {
        /// Which.
        id: UploadId,
    },
    /// A small blob that was on its way in.
    Put {
        /// Its file.
        path: PathBuf,
    },
    /// A record of how far a fill has come, although it is not written any more.
    Front {
        /// Its file.
        path: PathBuf,
    },
    /// A file that nobody here has put there.
    Foreign {
        /// Which.
        path: PathBuf,
    },
    /// A row that should not be.
    Flaw(Flaw),
    /// A running sum of the index that its rows do not make.
    Drift(Drift),
    /// A sum of the ledger that index or disk do not make.
    Ledger {
        /// Which.
        sum: &'static str,
        /// What the ledger says.
        kept_bytes: u64,
        /// What is there.
        counted_bytes: u64,
    },
}

impl Finding {
    /// How bad it is.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Missing { .. } | Self::Length { .. } | Self::Damaged { .. } | Self::Flaw(_) => Kind::Damage,
            Self::Space { .. } | Self::Drift(_) | Self::Ledger { .. } => Kind::Disorder,
            Self::Deleting { .. }
            | Self::Unrecorded { .. }
            | Self::Upload { .. }
            | Self::Put { .. }
            | Self::Front { .. }
            | Self::Foreign { .. } => Kind::Leftover,
        }
    }
}

const fn whose(pushed: bool) -> &'static str {
    if pushed { "pushed" } else { "cached" }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { digest, pushed } => write!(f, "the file of the {} blob {digest} is gone", whose(*pushed)),
            Self::Length { digest, pushed, expected_bytes, actual_bytes } => {
                let whose = whose(*pushed);
                write!(f, "the {whose} blob {digest} has {actual_bytes} bytes on disk, the index says {expected_bytes}")
            }
            Self::Damaged { digest, pushed, actual } => {
                write!(f, "the bytes of the {} blob {digest} have digest {actual}", whose(*pushed))
            }
            Self::Space { digest, counted_bytes, actual_bytes } => {
                write!(f, "blob {digest} takes {actual_bytes} bytes of disk, {counted_bytes} are counted")
            }
            Self::Deleting { digest } => write!(f, "the removal of blob {digest} was begun and not ended"),
            Self::Unrecorded { digest, stored_bytes } => {
                write!(f, "the index does not know the file of blob {digest}, which takes {stored_bytes} bytes")
            }
            Self::Upload { id } => write!(f, "upload {id} has a file and no session"),
            Self::Put { path } => write!(f, "{} was on its way in", path.display()),
            Self::Front { path } => write!(f, "{} tells of a fill that nobody writes", path.display()),
            Self::Foreign { path } => write!(f, "{} is none of ours", path.display()),
            Self::Flaw(Flaw { rule, subject }) => write!(f, "{rule}: {subject}"),
            Self::Drift(Drift { sum, kept, counted }) => {
                write!(f, "the index keeps {kept} as its sum of {sum}, its rows make {counted}")
            }
            Self::Ledger { sum, kept_bytes, counted_bytes } => {
                write!(f, "the ledger has {kept_bytes} bytes {sum}, there are {counted_bytes}")
            }
        }
    }
}
