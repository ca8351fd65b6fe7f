//! Blobs of incompressible bytes, their digests, and a manifest that names them.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{Context, SHA256, digest};
use serde_json::json;

use crate::Result;

/// A blob in a file.
#[derive(Clone)]
pub struct Blob {
    pub path: PathBuf,
    pub digest: String,
    pub size_bytes: u64,
}

impl Blob {
    /// Writes `size_bytes` pseudo-random bytes that differ for every seed.
    pub fn create(path: PathBuf, size_bytes: u64, seed: u64) -> Result<Self> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut file = File::create(&path)?;
        let mut piece = vec![0; 1 << 20];
        let mut left = size_bytes;
        while left > 0 {
            for word in piece.chunks_exact_mut(8) {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                word.copy_from_slice(&state.to_le_bytes());
            }
            let n = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
            file.write_all(&piece[..n])?;
            left -= n as u64;
        }
        file.sync_all()?;
        Self::of(path)
    }

    /// A file as it is.
    pub fn of(path: PathBuf) -> Result<Self> {
        let (digest, _) = hash(&path)?;
        let size_bytes = path.metadata()?.len();
        Ok(Self { path, digest, size_bytes })
    }

    /// Turns the file into another blob of the same size, by its first bytes; returns how long hashing it took.
    pub fn change(&mut self, seed: u64) -> Result<Duration> {
        let file = File::options().write(true).open(&self.path)?;
        file.write_all_at(&seed.to_le_bytes(), 0)?;
        file.sync_all()?;
        let (digest, elapsed) = hash(&self.path)?;
        self.digest = digest;
        Ok(elapsed)
    }
}

/// How long it takes to write a file's bytes to a new file, and how long until they are on the disk: what storing costs at
/// least, whoever does it. The copy is removed again.
pub fn store(blob: &Blob, copy: &Path) -> Result<(Duration, Duration)> {
    let mut from = File::open(&blob.path)?;
    let mut piece = vec![0; 1 << 20];
    let started = Instant::now();
    let mut to = File::create(copy)?;
    loop {
        let read = from.read(&mut piece)?;
        if read == 0 {
            break;
        }
        to.write_all(&piece[..read])?;
    }
    let written = started.elapsed();
    to.sync_all()?;
    let synced = started.elapsed();
    std::fs::remove_file(copy)?;
    Ok((written, synced))
}

/// The digest of a file, and how long it took with the fastest library at hand and the file in the page cache.
pub fn hash(path: &Path) -> Result<(String, Duration)> {
    let mut file = File::open(path)?;
    let mut piece = vec![0; 256 << 10];
    let mut context = Context::new(&SHA256);
    let started = Instant::now();
    loop {
        let n = file.read(&mut piece)?;
        if n == 0 {
            break;
        }
        context.update(&piece[..n]);
    }
    let digest = context.finish();
    Ok((render(digest.as_ref()), started.elapsed()))
}

pub fn digest_of(bytes: &[u8]) -> String {
    render(digest(&SHA256, bytes).as_ref())
}

fn render(digest: &[u8]) -> String {
    digest.iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

pub const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// An image manifest whose layers are the blobs.
pub fn manifest(blobs: &[Blob], config: &[u8]) -> Vec<u8> {
    let layers: Vec<_> = blobs
        .iter()
        .map(|blob| {
            json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": blob.digest,
                "size": blob.size_bytes,
            })
        })
        .collect();
    json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {
            "mediaType": if config == EMPTY_CONFIG { EMPTY_TYPE } else { CONFIG_TYPE },
            "digest": digest_of(config),
            "size": config.len(),
        },
        "layers": layers,
    })
    .to_string()
    .into_bytes()
}

const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
pub const EMPTY_CONFIG: &[u8] = b"{}";
