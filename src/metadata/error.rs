//! What can go wrong with the index.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sqlx::migrate::MigrateError;

use crate::oci::Tag;

/// A failure of the index. None but [`Error::TagTaken`] and [`Error::TagKept`] is about what was asked: what is not there is `None` or `false`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be opened or created.
    #[error("cannot open the index {}", path.display())]
    Open {
        /// The index file.
        path: PathBuf,
        /// What the database says.
        source: sqlx::Error,
    },
    /// The file is there, but not whole.
    #[error(
        "the index {} is damaged: run `entrepot scrub --repair`, which rebuilds it from what is stored, or put a backup in its place",
        path.display()
    )]
    Damaged {
        /// The index file.
        path: PathBuf,
        /// What the database says.
        source: sqlx::Error,
    },
    /// The schema cannot be brought up to date; the file is as it was.
    #[error("cannot bring the schema of the index {} up to date", path.display())]
    Migrate {
        /// The index file.
        path: PathBuf,
        /// Which migration, and why.
        source: MigrateError,
    },
    /// A newer release has written this file.
    #[error("the index {} has schema version {found}, this release knows up to {known}: use the release that wrote it or a newer one", path.display())]
    SchemaNewer {
        /// The index file.
        path: PathBuf,
        /// The version in the file.
        found: i64,
        /// The newest version this release knows.
        known: i64,
    },
    /// An older release has written this file, and nobody may bring it up to date here.
    #[error("the index {} has schema version {found}, this release wants {known}: start `entrepot serve` once", path.display())]
    SchemaOlder {
        /// The index file.
        path: PathBuf,
        /// The version in the file.
        found: i64,
        /// The version wanted.
        known: i64,
    },
    /// A question failed.
    #[error("cannot {operation} {subject}")]
    Read {
        /// What was asked.
        operation: &'static str,
        /// Of what.
        subject: String,
        /// What the database says.
        source: sqlx::Error,
    },
    /// A change failed; none of it is in the index.
    #[error("cannot {operation} {subject}")]
    Write {
        /// What was to be done.
        operation: &'static str,
        /// To what.
        subject: String,
        /// What the database says; shared, because a failing commit fails every command of its batch.
        source: Arc<sqlx::Error>,
    },
    /// A tag that nobody moves names another manifest already; nothing is recorded.
    #[error("tag {tag} names another manifest already")]
    TagTaken {
        /// The tag.
        tag: Tag,
    },
    /// A removal would take a tag that it was to spare; nothing is removed.
    #[error("tag {tag} is not to be removed")]
    TagKept {
        /// The tag.
        tag: Tag,
    },
    /// The index was closed, or its writer has stopped. A change may or may not be in the index.
    #[error("cannot {operation} {subject}: the index is closed")]
    Closed {
        /// What was asked.
        operation: &'static str,
        /// Of what.
        subject: String,
    },
}

impl Error {
    /// Did it fail because the file system is full?
    pub fn is_no_space(&self) -> bool {
        // SQLITE_FULL
        matches!(self, Self::Write { source, .. }
            if source.as_database_error().and_then(sqlx::error::DatabaseError::code).as_deref() == Some("13"))
    }

    /// Is the index's own file damaged?
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Damaged { .. } => true,
            Self::Open { source, .. } | Self::Read { source, .. } => is_damage(source),
            Self::Write { source, .. } => is_damage(source),
            _ => false,
        }
    }

    pub(super) fn opening(path: &Path, source: sqlx::Error) -> Self {
        let path = path.to_owned();
        if is_damage(&source) { Self::Damaged { path, source } } else { Self::Open { path, source } }
    }
}

/// `SQLITE_CORRUPT` and `SQLITE_NOTADB`, whose extended codes have further bits above the first eight.
pub(super) fn is_damage(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code()?.parse::<u32>().ok());
    matches!(code.map(|code| code & 0xff), Some(11 | 26))
}
