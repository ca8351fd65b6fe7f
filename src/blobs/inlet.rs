//! One stream of bytes on its way into a file, written in place from an offset on.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::landing::{Batch, Landing};
use super::{Error, blocking};

/// Bytes waiting for the write in progress beyond which the source has to wait.
const QUEUE_BYTES_MAX: u64 = 256 << 10;

/// Why pouring a source into a file ended early.
#[derive(Debug)]
pub enum PourError<E> {
    /// The source failed; what came before is in the file.
    Source(E),
    /// Writing failed.
    Write(Error),
}

/// Makes inlets into one file. Whoever drives them also has to drive the digest, see `BlobWriter::along`.
#[derive(Clone)]
pub struct Intake(pub(super) Arc<Landing>);

impl Intake {
    /// An inlet that writes from `start` on.
    pub fn inlet(&self, start: u64) -> Inlet {
        Inlet { landing: Arc::clone(&self.0), end: start, queue: Batch::default(), writing: None }
    }

    /// Every byte before this offset is in the file.
    pub fn front_bytes(&self) -> u64 {
        self.0.front_bytes()
    }

    /// Bytes before the front that are not digested yet.
    pub fn lag_bytes(&self) -> u64 {
        self.0.lag_bytes()
    }

    /// Hears of every step of the digest: how many bytes it has behind it.
    pub fn watch_digest(&self) -> watch::Receiver<u64> {
        self.0.watch_digest()
    }

    /// To be called before an inlet is made that does not start at the front: records beside the file how much of it may be
    /// trusted after a crash.
    pub async fn begin_ahead(&self) -> Result<(), Error> {
        let landing = Arc::clone(&self.0);
        blocking("recording how far a blob has come", move || landing.begin_ahead()).await
    }
}

/// A stream of bytes into a file. Dropped, what it has handed over is still written.
pub struct Inlet {
    landing: Arc<Landing>,
    /// Offset after the last byte taken in, written or about to be.
    end: u64,
    queue: Batch,
    writing: Option<JoinHandle<Result<(), Error>>>,
}

impl Inlet {
    /// Offset after the last byte taken in.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Takes everything a source gives. Returns when the source ended or failed and every byte is in the file.
    pub async fn pour<S, E>(&mut self, mut source: Pin<&mut S>) -> Result<(), PourError<E>>
    where
        S: Stream<Item = Result<Bytes, E>> + ?Sized,
    {
        let mut digest = self.landing.watch_digest();
        loop {
            self.start_write();
            let keeps_up = self.landing.keeps_up();
            tokio::select! {
                chunk = source.next(), if keeps_up && self.queue.bytes < QUEUE_BYTES_MAX => match chunk {
                    Some(Ok(chunk)) => self.take(chunk),
                    Some(Err(error)) => {
                        self.settle().await.map_err(PourError::Write)?;
                        return Err(PourError::Source(error));
                    }
                    None => return self.settle().await.map_err(PourError::Write),
                },
                written = joined(&mut self.writing) => after_write(written).map_err(PourError::Write)?,
                _ = digest.changed(), if !keeps_up => {}
            }
        }
    }

    /// Waits until every byte taken in is in the file; digesting may still lag.
    async fn settle(&mut self) -> Result<(), Error> {
        while self.writing.is_some() || self.queue.bytes > 0 {
            self.start_write();
            after_write(joined(&mut self.writing).await)?;
        }
        Ok(())
    }

    fn take(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.end += chunk.len() as u64;
            self.queue.push(chunk);
        }
    }

    fn start_write(&mut self) {
        if self.writing.is_none() && self.queue.bytes > 0 {
            let batch = std::mem::take(&mut self.queue);
            let (landing, start) = (Arc::clone(&self.landing), self.end - batch.bytes);
            self.writing = Some(tokio::task::spawn_blocking(move || landing.land(start, batch)));
        }
    }
}

fn after_write(written: Option<Result<(), Error>>) -> Result<(), Error> {
    written.unwrap_or(Err(Error::Stopped { during: "writing a blob" }))
}

/// Waits for a job, for ever if there is none. `None` says that the job was stopped.
pub(super) async fn joined<T>(job: &mut Option<JoinHandle<T>>) -> Option<T> {
    match job {
        Some(handle) => {
            let result = handle.await.ok();
            *job = None;
            result
        }
        None => std::future::pending().await,
    }
}
