//! Blobs for the tests of this room: files of known bytes, pins that tell when they are dropped, fills under control.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use crate::registry::{BlobReader, Growth};

/// Longer than anything here may take; only a failing test waits for it.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// `len` bytes in which no run of a few bytes repeats at another offset.
pub fn bytes(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&state.rotate_left(29).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// An unnamed file with these bytes.
pub fn file(bytes: &[u8]) -> Arc<File> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    Arc::new(file)
}

/// A committed blob with these bytes.
pub fn blob(bytes: &[u8]) -> BlobReader {
    BlobReader::whole(file(bytes), bytes.len() as u64)
}

/// `blob` with a pin, and what resolves (with an error) once the last clone of the pin is gone.
pub fn pinned(blob: BlobReader) -> (BlobReader, oneshot::Receiver<()>) {
    let (held, dropped) = oneshot::channel::<()>();
    let standing = blob.standing.clone();
    (blob.pinned(Arc::new(held), standing), dropped)
}

/// Waits until the pin of [`pinned`] is gone.
pub async fn unpinned(dropped: oneshot::Receiver<()>) {
    tokio::time::timeout(PATIENCE, dropped).await.expect("the pin was never dropped").unwrap_err();
}

/// The writer's side of a fill.
pub struct Fill {
    file: Arc<File>,
    growth: watch::Sender<Growth>,
}

/// A fill that has nothing yet, and its reader.
pub fn fill(size_bytes: Option<u64>) -> (Fill, BlobReader) {
    let file = file(b"");
    let (growth, follower) = watch::channel(Growth::Filling { servable_bytes: 0 });
    (Fill { file: Arc::clone(&file), growth }, BlobReader::growing(file, size_bytes, follower))
}

impl Fill {
    /// Writes `bytes` at `offset` without publishing them.
    pub fn write(&self, bytes: &[u8], offset: usize) {
        self.file.write_all_at(bytes, offset as u64).unwrap();
    }

    pub fn publish(&self, servable: usize) {
        self.growth.send_replace(Growth::Filling { servable_bytes: servable as u64 });
    }

    pub fn verify(&self, size: usize) {
        self.growth.send_replace(Growth::Verified { size_bytes: size as u64 });
    }

    pub fn fail(&self, reason: &str) {
        self.growth.send_replace(Growth::Failed(reason.into()));
    }
}
