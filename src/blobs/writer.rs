//! The one verified door into the store: bytes are written, digested in step, and committed under the digest they have.
//!
//! ```text
//! source ─ queue ─► write (blocking job) ─ unhashed ─► digest (blocking job)
//!                        └ announces how far readers may read
//! ```
//! Reading, writing and digesting overlap, each bounded, none on an async thread; readers are told of bytes as soon as they
//! are in the file, digested or not, except for the last piece, which waits for the proof.

use std::any::Any;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::staging::{self, Staging};
use super::{Error, Growth, blocking};
use crate::oci::{Digest, Digester};

/// Bytes waiting for the write in progress beyond which the source has to wait.
const QUEUE_BYTES_MAX: u64 = 256 << 10;
/// Bytes written but not digested beyond which the source has to wait: the digest may lag, memory may not grow.
const UNHASHED_BYTES_MAX: u64 = 768 << 10;
/// Bytes at the end of a blob that no reader gets before the digest is proven: without them nothing looks complete.
const LAST_PIECE_BYTES: u64 = 4096;

/// Something that must stay held while a write is under way, even when the writer itself was dropped.
pub type Lease = Arc<dyn Any + Send + Sync>;

/// Why pouring a source into a writer ended early.
#[derive(Debug)]
pub enum PourError<E> {
    /// The source failed; what came before is in the writer.
    Source(E),
    /// Writing failed.
    Write(Error),
}

/// What a commit made.
#[derive(Clone, Copy, Debug)]
pub struct Committed {
    /// Length of the blob.
    pub size_bytes: u64,
    /// Disk space it takes.
    pub stored_bytes: u64,
}

/// A digest in progress, kept between the requests of an upload session.
#[derive(Clone, Debug)]
pub struct Suspended(Digester);

#[derive(Default)]
struct Batch {
    chunks: Vec<Bytes>,
    bytes: u64,
}

impl Batch {
    fn push(&mut self, chunk: Bytes) {
        self.bytes += chunk.len() as u64;
        self.chunks.push(chunk);
    }

    fn append(&mut self, mut other: Self) {
        self.bytes += other.bytes;
        self.chunks.append(&mut other.chunks);
    }
}

/// Tells readers how far the file has come.
struct Announcer {
    growth: watch::Sender<Growth>,
    size_bytes: Option<u64>,
}

impl Announcer {
    fn written(&self, written_bytes: u64) {
        let end = self.size_bytes.unwrap_or(written_bytes);
        let servable_bytes = written_bytes.min(end.saturating_sub(LAST_PIECE_BYTES));
        self.growth.send_replace(Growth::Filling { servable_bytes });
    }
}

/// A blob being written. Dropping it leaves the staging file for a later writer; nothing becomes visible.
pub struct BlobWriter {
    staging: Staging,
    lease: Lease,
    announcer: Option<Arc<Announcer>>,
    queue: Batch,
    writing: Option<JoinHandle<Result<Batch, Error>>>,
    written_bytes: u64,
    unhashed: Batch,
    hashing: Option<JoinHandle<Digester>>,
    hashing_bytes: u64,
    /// `None` while a job has it, or when the digest will be computed from the file at the end.
    digester: Option<Digester>,
    /// Whether bytes are digested as they pass.
    in_step: bool,
}

impl BlobWriter {
    /// A writer that appends to a staging file. With `suspended` covering all that is in the file, digesting goes on in step;
    /// otherwise it is done from the file at commit. `lease` is held until no write is under way any more.
    pub fn resume(staging: Staging, suspended: Option<Suspended>, lease: Lease) -> Self {
        let digester = suspended.map(|s| s.0).filter(|digester| digester.length_bytes() == staging.length_bytes);
        Self {
            written_bytes: staging.length_bytes,
            in_step: digester.is_some(),
            digester,
            staging,
            lease,
            announcer: None,
            queue: Batch::default(),
            writing: None,
            unhashed: Batch::default(),
            hashing: None,
            hashing_bytes: 0,
        }
    }

    /// A writer for the blob `expected`, digesting in step; what the file holds already is read through first.
    pub async fn continue_from(staging: Staging, expected: &Digest, lease: Lease) -> Result<Self, Error> {
        let digester = staging.digest(expected.algorithm()).await?;
        Ok(Self::resume(staging, Some(Suspended(digester)), lease))
    }

    /// A fresh digest, for a session that starts.
    pub fn suspended_start(algorithm: crate::oci::Algorithm) -> Suspended {
        Suspended(Digester::new(algorithm))
    }

    /// Lets readers follow: `growth` hears of every write from now on.
    pub fn announce(&mut self, growth: watch::Sender<Growth>, size_bytes: Option<u64>) {
        let announcer = Announcer { growth, size_bytes };
        announcer.written(self.written_bytes);
        self.announcer = Some(Arc::new(announcer));
    }

    /// Bytes taken in so far, written or about to be.
    pub fn length_bytes(&self) -> u64 {
        self.staging.length_bytes
    }

    /// Takes everything a source gives. Returns when the source ended and every byte is in the file.
    pub async fn pour<S, E>(&mut self, mut source: Pin<&mut S>) -> Result<(), PourError<E>>
    where
        S: Stream<Item = Result<Bytes, E>> + ?Sized,
    {
        loop {
            self.start_jobs();
            let has_room =
                self.queue.bytes < QUEUE_BYTES_MAX && self.unhashed.bytes + self.hashing_bytes < UNHASHED_BYTES_MAX;
            tokio::select! {
                chunk = source.next(), if has_room => match chunk {
                    Some(Ok(chunk)) => self.take(chunk),
                    Some(Err(error)) => {
                        self.settle().await.map_err(PourError::Write)?;
                        return Err(PourError::Source(error));
                    }
                    None => return self.settle().await.map_err(PourError::Write),
                },
                written = joined(&mut self.writing) => self.after_write(written).map_err(PourError::Write)?,
                hashed = joined(&mut self.hashing) => self.after_hash(hashed).map_err(PourError::Write)?,
            }
        }
    }

    /// Waits until every byte taken in is in the file; digesting may still lag.
    pub async fn settle(&mut self) -> Result<(), Error> {
        while self.writing.is_some() || self.queue.bytes > 0 {
            self.start_jobs();
            let written = joined(&mut self.writing).await;
            self.after_write(written)?;
        }
        Ok(())
    }

    /// Ends this writer but keeps the digest for the session's next request.
    pub async fn suspend(mut self) -> Result<Option<Suspended>, Error> {
        self.settle().await?;
        self.settle_digest().await?;
        Ok(self.digester.take().map(Suspended))
    }

    /// Proves that the bytes are the blob `expected`, lets readers that follow have the last piece, and makes the bytes
    /// durable under their staging name. On a mismatch, and when the disk refuses them, the staging file is removed:
    /// bytes that a failed sync left in the page cache must not be taken for durable by a second one.
    pub async fn prove(mut self, expected: Digest) -> Result<Proven, Error> {
        self.settle().await?;
        self.settle_digest().await?;
        let in_step = self.digester.take().filter(|digester| digester.algorithm() == expected.algorithm());
        let digester = match in_step {
            Some(digester) => digester,
            None => self.staging.digest(expected.algorithm()).await?,
        };
        let actual = digester.finish();
        let staging = self.staging.clone();
        if actual != expected {
            staging.remove().await?;
            return Err(Error::Mismatch { expected, actual });
        }
        if let Some(announcer) = &self.announcer {
            announcer.growth.send_replace(Growth::Verified { size_bytes: staging.length_bytes });
        }
        let lease = Arc::clone(&self.lease);
        let synced = staging.clone();
        let result = blocking("making a blob durable", move || {
            let _held = lease;
            synced.store.sync(&synced.file, &synced.path).map_err(Error::Storage)
        })
        .await;
        if let Err(error) = result {
            staging.remove().await?;
            return Err(error);
        }
        Ok(Proven { staging, digest: expected, lease: self.lease })
    }

    /// [`BlobWriter::prove`] and [`Proven::name`] in one.
    pub async fn commit(self, expected: Digest) -> Result<Committed, Error> {
        self.prove(expected).await?.name().await
    }

    fn take(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.staging.length_bytes += chunk.len() as u64;
            self.queue.push(chunk);
        }
    }

    fn start_jobs(&mut self) {
        if self.writing.is_none() && self.queue.bytes > 0 {
            let batch = std::mem::take(&mut self.queue);
            self.writing = Some(self.start_write(batch));
        }
        if self.unhashed.bytes > 0
            && let Some(mut digester) = self.digester.take()
        {
            let batch = std::mem::take(&mut self.unhashed);
            self.hashing_bytes = batch.bytes;
            self.hashing = Some(tokio::task::spawn_blocking(move || {
                batch.chunks.iter().for_each(|chunk| digester.update(chunk));
                digester
            }));
        }
    }

    fn start_write(&self, batch: Batch) -> JoinHandle<Result<Batch, Error>> {
        let (file, path) = (Arc::clone(&self.staging.file), self.staging.path.clone());
        let (lease, announcer) = (Arc::clone(&self.lease), self.announcer.clone());
        let start = self.written_bytes;
        tokio::task::spawn_blocking(move || {
            let _held = lease;
            staging::write_at(&file, &path, start, &batch.chunks)?;
            if let Some(announcer) = announcer {
                announcer.written(start + batch.bytes);
            }
            Ok(batch)
        })
    }

    fn after_write(&mut self, written: Option<Result<Batch, Error>>) -> Result<(), Error> {
        let batch = written.unwrap_or(Err(Error::Stopped { during: "writing a blob" }))?;
        self.written_bytes += batch.bytes;
        if self.in_step {
            self.unhashed.append(batch);
        }
        Ok(())
    }

    fn after_hash(&mut self, hashed: Option<Digester>) -> Result<(), Error> {
        self.hashing_bytes = 0;
        self.digester = Some(hashed.ok_or(Error::Stopped { during: "digesting a blob" })?);
        Ok(())
    }

    async fn settle_digest(&mut self) -> Result<(), Error> {
        while self.hashing.is_some() || self.unhashed.bytes > 0 {
            self.start_jobs();
            let hashed = joined(&mut self.hashing).await;
            self.after_hash(hashed)?;
        }
        Ok(())
    }
}

/// Durable bytes that are what they were announced as, and only lack their name.
pub struct Proven {
    staging: Staging,
    digest: Digest,
    lease: Lease,
}

impl Proven {
    /// Gives the bytes the name of their digest: from now on they are a blob. Durable when it returns.
    pub async fn name(self) -> Result<Committed, Error> {
        let Self { staging, digest, lease } = self;
        blocking("committing a blob", move || {
            let _held = lease;
            let Staging { store, path, file, length_bytes: size_bytes } = staging;
            let stored_bytes = store.name(&file, &path, &digest).map_err(Error::Storage)?;
            Ok(Committed { size_bytes, stored_bytes })
        })
        .await
    }
}

/// Waits for a job, for ever if there is none. `None` says that the job was stopped.
async fn joined<T>(job: &mut Option<JoinHandle<T>>) -> Option<T> {
    match job {
        Some(handle) => {
            let result = handle.await.ok();
            *job = None;
            result
        }
        None => std::future::pending().await,
    }
}
