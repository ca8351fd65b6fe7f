//! The one verified door into the store: bytes are written, digested in step, and committed under the digest they have.
//!
//! ```text
//! source ─ inlet ─► write (blocking job) ─ landing ─► digest (blocking job), in order
//!                                            └ announces how far readers may read
//! ```
//! Reading, writing and digesting overlap, each bounded, none on an async thread; readers are told of bytes as soon as everything
//! before them is in the file, digested or not, except for the last piece, which waits for the proof. Several inlets may write
//! in several places; the digest takes from memory what it can and reads the rest of the file again.

use std::pin::{Pin, pin};
use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::inlet::{Intake, PourError, joined};
use super::landing::{Landing, Lease, Undigested};
use super::staging::Staging;
use super::{Error, Growth, blocking};
use crate::fault;
use crate::oci::{Digest, Digester};

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

/// A blob being written. Dropping it leaves the staging file for a later writer; nothing becomes visible.
pub struct BlobWriter {
    landing: Arc<Landing>,
    digesting: Option<JoinHandle<Result<Digester, Error>>>,
    /// `None` while a job has it, or when the digest will be computed from the file at the end.
    digester: Option<Digester>,
}

impl BlobWriter {
    /// A writer that appends to a staging file. With `suspended` covering all that is in the file, digesting goes on in step;
    /// otherwise it is done from the file at commit. `lease` is held until no write is under way any more.
    pub fn resume(staging: Staging, suspended: Option<Suspended>, lease: Lease) -> Self {
        let digester = suspended.map(|s| s.0).filter(|digester| digester.length_bytes() == staging.length_bytes);
        let landing = Arc::new(Landing::new(staging, lease, digester.is_some()));
        Self { landing, digesting: None, digester }
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
        self.landing.announce(growth, size_bytes);
    }

    /// Bytes in the file, without a gap.
    pub fn length_bytes(&self) -> u64 {
        self.landing.front_bytes()
    }

    /// Where inlets into the file come from.
    pub fn intake(&self) -> Intake {
        Intake(Arc::clone(&self.landing))
    }

    /// Takes everything a source gives. Returns when the source ended or failed and every byte is in the file.
    pub async fn pour<S, E>(&mut self, source: Pin<&mut S>) -> Result<(), PourError<E>>
    where
        S: Stream<Item = Result<Bytes, E>> + ?Sized,
    {
        let mut inlet = self.intake().inlet(self.length_bytes());
        self.along(inlet.pour(source)).await.map_err(PourError::Write)?
    }

    /// Digests along while `filling` makes inlets and pours into them.
    pub async fn along<T>(&mut self, filling: impl Future<Output = T>) -> Result<T, Error> {
        let mut filling = pin!(filling);
        loop {
            tokio::select! {
                filled = &mut filling => return Ok(filled),
                digested = self.digest_some() => digested?,
            }
        }
    }

    /// Ends this writer but keeps the digest for the session's next request.
    pub async fn suspend(mut self) -> Result<Option<Suspended>, Error> {
        self.digest_rest().await?;
        Ok(self.digester.take().map(Suspended))
    }

    /// Proves that the bytes are the blob `expected`, lets readers that follow have the last piece, and makes the bytes
    /// durable under their staging name. On a mismatch, and when the disk refuses them, the staging file is removed:
    /// bytes that a failed sync left in the page cache must not be taken for durable by a second one.
    pub async fn prove(mut self, expected: Digest) -> Result<Proven, Error> {
        self.digest_rest().await?;
        let staging = Staging { length_bytes: self.length_bytes(), ..self.landing.staging.clone() };
        let in_step = self.digester.take().filter(|digester| digester.algorithm() == expected.algorithm());
        let digester = match in_step {
            Some(digester) => digester,
            None => staging.digest(expected.algorithm()).await?,
        };
        let actual = digester.finish();
        if actual != expected {
            staging.remove().await?;
            return Err(Error::Mismatch { expected, actual });
        }
        self.landing.verified(staging.length_bytes);
        fault::point("blob: proven");
        let lease = Arc::clone(&self.landing.lease);
        let (synced, held) = (staging.clone(), Arc::clone(&lease));
        let result = blocking("making a blob durable", move || {
            let _held = held;
            // An upload may have taken more blocks than it came to need.
            synced.store.trim(&synced.file, &synced.path).map_err(Error::Storage)?;
            synced.store.sync(&synced.file, &synced.path).map_err(Error::Storage)?;
            // The file is whole: its length says how far it has come again.
            synced.store.forget_front(&synced.path).map_err(Error::Storage)
        })
        .await;
        if let Err(error) = result {
            staging.remove().await?;
            return Err(error);
        }
        Ok(Proven { staging, digest: expected, lease })
    }

    /// One step of the digest, as soon as there is something to digest. Cancelling loses nothing.
    async fn digest_some(&mut self) -> Result<(), Error> {
        if self.digesting.is_none() {
            let undigested = self.landing.undigested().await;
            self.start_digest(undigested);
        }
        self.after_digest().await
    }

    /// Digests everything that is in the file.
    async fn digest_rest(&mut self) -> Result<(), Error> {
        loop {
            if self.digesting.is_some() {
                self.after_digest().await?;
            }
            let Some(undigested) = self.landing.take_undigested() else { return Ok(()) };
            self.start_digest(undigested);
        }
    }

    fn start_digest(&mut self, undigested: Undigested) {
        // It is in step and no job has it, so it is here.
        let Some(mut digester) = self.digester.take() else { return };
        let landing = Arc::clone(&self.landing);
        self.digesting = Some(tokio::task::spawn_blocking(move || {
            match undigested {
                Undigested::Fresh(fresh) => fresh.chunks().for_each(|chunk| digester.update(chunk)),
                Undigested::Written(range) => landing.staging.digest_range(&mut digester, range)?,
            }
            Ok(digester)
        }));
    }

    async fn after_digest(&mut self) -> Result<(), Error> {
        let digested = joined(&mut self.digesting).await.unwrap_or(Err(Error::Stopped { during: "digesting a blob" }));
        let digester = digested?;
        self.landing.digested(digester.length_bytes());
        self.digester = Some(digester);
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
