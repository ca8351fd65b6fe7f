//! The marker of a store: what tells a store from a foreign folder and from an empty mount point.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Error, fs, keys};

/// The format this version reads and writes. Raised when an older version could no longer use the store.
const FORMAT: u64 = 1;

#[derive(Serialize, Deserialize)]
struct Marker {
    store: String,
    format: u64,
}

/// What is at the place of a store.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing, an empty folder, or one in which making a store was interrupted.
    Empty,
    /// A store of this format.
    Ours,
}

pub(super) fn read(root: &Path) -> Result<State, Error> {
    let path = keys::marker(root);
    let Some(bytes) = fs::read(&path)? else {
        return if is_vacant(root)? { Ok(State::Empty) } else { Err(Error::Foreign { path: root.to_owned() }) };
    };
    let marker: Marker = serde_json::from_slice(&bytes)
        .map_err(|error| Error::Marker { path: path.clone(), reason: error.to_string() })?;
    if marker.store != "entrepot" {
        return Err(Error::Marker { path, reason: format!("it belongs to \"{}\"", marker.store) });
    }
    if marker.format != FORMAT {
        return Err(Error::Format { path: root.to_owned(), found: marker.format, known: FORMAT });
    }
    Ok(State::Ours)
}

pub(super) fn write(root: &Path) -> Result<(), Error> {
    let path = keys::marker(root);
    let marker = Marker { store: "entrepot".to_owned(), format: FORMAT };
    let bytes = serde_json::to_vec_pretty(&marker).expect("a marker is plain JSON");
    fs::write_durably(&path, &bytes)
}

/// Only what we make ourselves before the marker, or what a fresh file system has.
fn is_vacant(root: &Path) -> Result<bool, Error> {
    const EXPECTED: [&str; 10] = [
        "lost+found",
        "lock",
        "blobs",
        "staging",
        "quarantine",
        "names",
        "index.sqlite",
        "index.sqlite-wal",
        "index.sqlite-shm",
        "entrepot.new",
    ];
    let names = fs::list(root)?;
    // A crash while the store was made leaves `lock` and then the rest; without it these names are somebody else's.
    let interrupted = names.iter().any(|path| path.ends_with("lock"));
    Ok(names.iter().all(|path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name == "lost+found" || name == ".gitkeep" || (interrupted && EXPECTED.contains(&name))
    }))
}
