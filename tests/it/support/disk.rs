//! A store as the file system sees it, held against what the server says of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use entrepot::cache::space::Sums;

use super::registry::files;

/// The files of a store with the space they take.
#[derive(Debug, Default)]
pub struct OnDisk {
    root: PathBuf,
    files: BTreeMap<PathBuf, u64>,
    lengths: BTreeMap<PathBuf, u64>,
}

/// What a server tells of its disk, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    blobs: u64,
    partial: u64,
    uploading: u64,
    deleting: u64,
    filling: u64,
}

impl Told {
    pub fn by(sums: Sums) -> Self {
        let Sums { partial, uploading, deleting, filling, .. } = sums;
        Self { blobs: sums.cached + sums.pushed, partial, uploading, deleting, filling }
    }

    pub fn by_metrics(metrics: &str) -> Self {
        let of = |kind: &str| {
            let label = format!("entrepot_store_bytes{{kind=\"{kind}\"}} ");
            let value = metrics.lines().find_map(|line| line.strip_prefix(&label)?.parse::<u64>().ok());
            value.unwrap_or_else(|| panic!("{kind} is in the metrics"))
        };
        Self {
            blobs: of("cached") + of("pushed"),
            partial: of("partial"),
            uploading: of("uploading"),
            deleting: of("deleting"),
            filling: of("filling"),
        }
    }
}

impl OnDisk {
    pub fn of(store: &Path) -> Self {
        let mut lengths = BTreeMap::new();
        let files: BTreeMap<PathBuf, u64> = files(store).into_iter().collect();
        for path in files.keys() {
            lengths.insert(path.clone(), std::fs::metadata(path).map_or(0, |metadata| metadata.len()));
        }
        Self { root: store.to_owned(), files, lengths }
    }

    /// Space of everything in a folder.
    fn bytes(&self, folder: &str) -> u64 {
        self.within(folder).map(|(_, bytes)| bytes).sum()
    }

    fn within<'a>(&'a self, folder: &str) -> impl Iterator<Item = (&'a Path, u64)> + use<'a> {
        let folder = self.root.join(folder);
        self.files.iter().filter(move |(path, _)| path.starts_with(&folder)).map(|(path, bytes)| (&**path, *bytes))
    }

    /// Names and lengths of the fills that wait to be continued.
    pub fn partial_fills(&self) -> impl Iterator<Item = (String, u64)> + '_ {
        let named = |path: &Path| path.file_name().expect("a file has a name").to_string_lossy().into_owned();
        self.within("staging/fills")
            .map(move |(path, _)| (named(path), self.lengths[path]))
            .filter(|(name, _)| !name.contains('.'))
    }

    /// What a server tells of its disk while nothing is under way, against the disk.
    pub fn drift(&self, told: Told) -> Vec<String> {
        let pairs = [
            ("blobs", told.blobs, self.bytes("blobs")),
            ("partial fills", told.partial, self.bytes("staging/fills")),
            ("uploads", told.uploading, self.bytes("staging/uploads")),
            ("removals", told.deleting, 0),
            ("running fills", told.filling, 0),
        ];
        // What is promised to an upload is promised before it is written.
        let differs =
            |what: &str, ledger: u64, disk: u64| if what == "uploads" { ledger < disk } else { ledger != disk };
        let drift = pairs.into_iter().filter(|(what, ledger, disk)| differs(what, *ledger, *disk));
        let drift =
            drift.map(|(what, ledger, disk)| format!("{what}: {ledger} bytes in the ledger, {disk} on the disk"));
        drift.chain(self.crumbs()).collect()
    }

    /// Files that nobody will go on with.
    pub fn crumbs(&self) -> Vec<String> {
        let folders = ["staging/puts", "staging/naming"];
        let crumbs = folders.iter().flat_map(|folder| self.within(folder));
        crumbs.map(|(path, _)| format!("{} is left", path.display())).collect()
    }
}
