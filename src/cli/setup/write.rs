//! The files of a guide on a disk, below a folder, and never over a file that is there.
#![expect(clippy::disallowed_methods, reason = "this command writes the files it was told to write")]

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::SetupFile;

/// Why files were not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Somebody's settings are there.
    #[error("{} exists already, and nothing was written: merge into it what this command prints without --write", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("cannot read or write {}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Writes each file at its own path below `folder` (`/` for in place). Returns where they are.
pub fn write(folder: &Path, files: &[SetupFile]) -> Result<Vec<PathBuf>, WriteError> {
    let paths: Vec<PathBuf> = files.iter().map(|file| folder.join(file.path.trim_start_matches('/'))).collect();
    if let Some(path) = paths.iter().find(|path| path.exists()) {
        return Err(WriteError::Exists { path: path.clone() });
    }
    for (path, file) in paths.iter().zip(files) {
        write_new(path, &file.content, FOR_ALL)?;
    }
    Ok(paths)
}

/// Who may read a file: everybody.
pub const FOR_ALL: u32 = 0o644;
/// Who may read a file: its owner.
pub const FOR_OWNER: u32 = 0o600;

/// Writes a file where none is, never for a moment with other rights than `mode`, and the folders on the way.
pub fn write_new(path: &Path, content: &str, mode: u32) -> Result<(), WriteError> {
    let failed = |source| WriteError::Io { path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    let mut options = OpenOptions::new();
    let mut opened = options.write(true).create_new(true).mode(mode).open(path).map_err(failed)?;
    opened.write_all(content.as_bytes()).map_err(failed)
}

/// What is in a file, if it is there.
pub fn read(path: &Path) -> Result<Option<String>, WriteError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(WriteError::Io { path: path.to_owned(), source }),
    }
}
