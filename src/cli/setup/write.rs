//! The files of a guide on a disk, below a folder, and never over a file that is there.
#![expect(clippy::disallowed_methods, reason = "this command writes the files it was told to write")]

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
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
    #[error("cannot write {}", path.display())]
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
        let failed = |source| WriteError::Io { path: path.clone(), source };
        fs::create_dir_all(path.parent().unwrap_or(folder)).map_err(failed)?;
        let mut opened = OpenOptions::new().write(true).create_new(true).open(path).map_err(failed)?;
        opened.write_all(file.content.as_bytes()).map_err(failed)?;
    }
    Ok(paths)
}
