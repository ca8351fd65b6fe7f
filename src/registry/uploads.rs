//! Upload sessions (distribution-spec, "Pushing blobs"): started, appended to, finished, cancelled, mounted away.
//!
//! A session is a row (whose it is) and a file (how far it has come), made before the row and gone before it. The digest is
//! carried from chunk to chunk in memory; after a restart it is computed from the file, whose length is the offset to go on
//! at, whatever was lost.

use std::collections::HashMap;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use tracing::{info, warn};

use super::error::Error;
use super::routing::Target;
use super::sessions::{Max, Opened, Session};
use super::{Caller, Registry};
use crate::blobs::{self, BlobWriter, Committed, Lease, PourError};
use crate::cache::space::{Class, Holding};
use crate::cache::{self, Reservation, Room, to_the_end};
use crate::fault;
use crate::metadata::{Link, UploadRow};
use crate::oci::{Algorithm, ContentRange, Digest, RepositoryName, UploadId};
use crate::report::Chain;

/// Space reserved at a time for a body of unknown length.
const STEP_BYTES: u64 = 8 << 20;

/// The body of a chunk, and what its headers say of it.
pub struct Chunk<S> {
    /// `Content-Range`, if there was one.
    pub range: Option<ContentRange>,
    /// `Content-Length`, if there was one.
    pub length_bytes: Option<u64>,
    /// The bytes. An error is the client's: its connection broke.
    pub body: S,
}

/// What came of asking for a mount.
#[derive(Debug)]
pub enum Mounted {
    /// The blob is in the repository now.
    Yes(RepositoryName),
    /// It could not be mounted: upload it.
    Started(RepositoryName, UploadId),
}

impl Registry {
    /// Takes over the sessions that an earlier process left, and removes the files of those that had ended.
    pub async fn restore_uploads(&self) -> Result<(), Error> {
        let depot = self.depot();
        let mut files: HashMap<UploadId, u64> =
            depot.blobs.store().list_upload_files().map_err(blobs::Error::Storage)?.into_iter().collect();
        depot.blobs.store().clear_puts().map_err(blobs::Error::Storage)?;
        for row in depot.metadata.list_uploads_before(i64::MAX).await? {
            // A session that has no bytes yet has no file yet.
            let taken_bytes = files.remove(&row.id).unwrap_or(0);
            let reservation = depot.room.adopt(Class::Pushed, taken_bytes).charged_to(&row.repo);
            self.uploads.hold(Session::new(row, reservation, None), Max::NONE)?;
        }
        for id in files.into_keys() {
            depot.blobs.remove_upload(id).await?;
        }
        Ok(())
    }

    /// Opens a session. `algorithm` is what the client says its digest will be of.
    pub async fn start_upload(
        &self,
        target: &Target,
        algorithm: Option<Algorithm>,
    ) -> Result<(RepositoryName, UploadId), Error> {
        let owner = target.caller.identity.clone();
        let opened = self.open_session(self.home(target)?, owner, Class::Pushed, algorithm).await?;
        self.depot().metadata.insert_upload(&opened.session.row).await?;
        fault::point("session: opened");
        let session = opened.named();
        Ok((session.row.repo.clone(), session.row.id))
    }

    /// Makes a whole body the blob `digest`. Nobody learns the name of its session, so nothing stays of it but the blob.
    pub async fn push_blob<S, E>(
        self: &Arc<Self>,
        target: &Target,
        digest: &Digest,
        chunk: Chunk<S>,
    ) -> Result<(), Error>
    where
        S: Stream<Item = Result<Bytes, E>> + Send,
        E: Send,
    {
        self.take_blob(self.home(target)?, target.caller.identity.clone(), Class::Pushed, digest, chunk).await
    }

    /// Makes a whole body the blob `digest` of a repository, pushed or cached.
    pub(super) async fn take_blob<S, E>(
        self: &Arc<Self>,
        repo: RepositoryName,
        owner: Option<Arc<str>>,
        class: Class,
        digest: &Digest,
        chunk: Chunk<S>,
    ) -> Result<(), Error>
    where
        S: Stream<Item = Result<Bytes, E>> + Send,
        E: Send,
    {
        let opened = self.open_session(repo, owner, class, Some(digest.algorithm())).await?;
        let taken = self.finish_session(&opened.session, digest, chunk).await;
        if taken.is_err() {
            // It may be gone already; what cannot be removed now expires.
            let _ = self.drop_session(&opened.session).await;
        }
        taken.map(drop)
    }

    /// How many bytes a session has.
    pub async fn upload_offset(&self, target: &Target, id: &UploadId) -> Result<u64, Error> {
        let session = self.session(target, id)?;
        let _lease = self.lease(&session).await?;
        Ok(self.depot().blobs.stage_upload(*id).await?.length_bytes())
    }

    /// Appends a chunk. Returns the offset reached.
    pub async fn append_upload<S, E>(&self, target: &Target, id: &UploadId, chunk: Chunk<S>) -> Result<u64, Error>
    where
        S: Stream<Item = Result<Bytes, E>> + Send,
        E: Send,
    {
        let session = self.session(target, id)?;
        let lease = self.lease(&session).await?;
        let writer = self.write_chunk(&session, lease, chunk).await?;
        let offset_bytes = writer.length_bytes();
        session.suspend(writer.suspend().await?);
        fault::point("session: appended");
        self.record_touch(&session).await?;
        Ok(offset_bytes)
    }

    /// Appends the last chunk, if there is one, and makes the session's bytes the blob `digest`. Durable when it returns.
    /// If the digest does not match, the session and its bytes are gone.
    pub async fn finish_upload<S, E>(
        self: &Arc<Self>,
        target: &Target,
        id: &UploadId,
        digest: &Digest,
        chunk: Chunk<S>,
    ) -> Result<RepositoryName, Error>
    where
        S: Stream<Item = Result<Bytes, E>> + Send,
        E: Send,
    {
        let session = self.session(target, id)?;
        self.finish_session(&session, digest, chunk).await
    }

    async fn finish_session<S, E>(
        self: &Arc<Self>,
        session: &Arc<Session>,
        digest: &Digest,
        chunk: Chunk<S>,
    ) -> Result<RepositoryName, Error>
    where
        S: Stream<Item = Result<Bytes, E>> + Send,
        E: Send,
    {
        let lease = self.lease(session).await?;
        let writer = self.write_chunk(session, Arc::clone(&lease), chunk).await?;
        let (this, digest, ending) = (Arc::clone(self), *digest, Arc::clone(session));
        let committed = to_the_end(async move {
            let committed = this.commit_upload(&ending, writer, &digest).await;
            // Its bytes became a blob, or they go: either way there is nothing left to go on with.
            let removed = match &committed {
                Ok(()) => Ok(()),
                Err(_) => this.depot().blobs.remove_upload(ending.row.id).await.map_err(Error::from),
            };
            let ended = match removed {
                Ok(()) => this.end_session(&ending).await,
                Err(error) => Err(error),
            };
            if let Err(error) = ended {
                warn!(upload = %ending.row.id, error = %Chain(&error), "an upload could not be ended and will expire");
                ending.abandon();
            }
            drop(lease);
            committed
        });
        let name = session.row.repo.clone();
        committed.await.unwrap_or(Err(Error::cache(&name)(cache::Error::Stopped)))?;
        Ok(name)
    }

    /// Ends a session and removes its bytes.
    pub async fn cancel_upload(&self, target: &Target, id: &UploadId) -> Result<(), Error> {
        let session = self.session(target, id)?;
        self.drop_session(&session).await
    }

    /// Ends the sessions that nobody has written to for so long. Returns how many.
    pub async fn expire_uploads(&self, untouched_for: Duration) -> Result<usize, Error> {
        let oldest_ms = self.depot().clock.now_ms() - i64::try_from(untouched_for.as_millis()).unwrap_or(i64::MAX);
        let sessions: Vec<Arc<Session>> = self.uploads.sessions().values().cloned().collect();
        let mut expired = 0;
        for session in sessions {
            if !session.is_idle_since(oldest_ms) {
                continue;
            }
            match self.drop_session(&session).await {
                Ok(()) => expired += 1,
                // Its client came back in this very moment, or ended it.
                Err(Error::UploadBusy { .. } | Error::UploadUnknown { .. }) => continue,
                Err(error) => warn!(upload = %session.row.id, error = %Chain(&error), "removing an upload failed"),
            }
            info!(upload = %session.row.id, repository = %session.row.repo, "an upload nobody continued was removed");
        }
        Ok(expired)
    }

    /// Puts a blob that another repository of this registry has into this one, or opens a session to upload it.
    /// Without `from`, any repository will do.
    pub async fn mount_blob(
        self: &Arc<Self>,
        target: &Target,
        digest: &Digest,
        from: Option<&RepositoryName>,
    ) -> Result<Mounted, Error> {
        let name = self.home(target)?;
        let (metadata, sight) = (&self.depot().metadata, &target.caller.sight);
        let is_allowed = match from {
            None => !self.readable(&metadata.find_mountable(digest).await?, sight).is_empty(),
            Some(from) => {
                let from = Target { name: from.clone(), ns: None, host: None, caller: Caller::default() };
                let located = self.names.locate(&from).ok();
                let names = located.map(|located| self.readable(&located.route.private, sight)).unwrap_or_default();
                let mut is_linked = false;
                for name in &names {
                    is_linked |=
                        matches!(metadata.find_link(name, digest).await?, Link::Linked(row) if row.is_present());
                }
                is_linked
            }
        };
        if is_allowed {
            let (this, home, wanted) = (Arc::clone(self), name.clone(), *digest);
            let claimed = to_the_end(async move {
                let claimed = this.claim_readable(&home, &wanted).await?;
                this.memory.forget_repository(&home);
                fault::point("mount: linked");
                Ok::<_, Error>(claimed)
            });
            if claimed.await.unwrap_or(Err(Error::cache(&name)(cache::Error::Stopped)))? {
                return Ok(Mounted::Yes(name));
            }
        }
        let (name, id) = self.start_upload(target, Some(digest.algorithm())).await?;
        Ok(Mounted::Started(name, id))
    }

    /// A session with a file and without a row: a crash now leaves a file that the next start removes.
    async fn open_session(
        &self,
        repo: RepositoryName,
        owner: Option<Arc<str>>,
        class: Class,
        algorithm: Option<Algorithm>,
    ) -> Result<Opened, Error> {
        let (id, now_ms) = (UploadId::random(), self.depot().clock.now_ms());
        let row = UploadRow { id, repo, algorithm, started_ms: now_ms, touched_ms: now_ms };
        let reservation = Reservation::none(&self.depot().room, class).charged_to(&row.repo);
        let suspended = BlobWriter::suspended_start(algorithm.unwrap_or(Algorithm::Sha256));
        let session = Session::new(row, reservation, Some(suspended)).of(owner);
        let max = Max { sessions: self.options.sessions_max, of_one: self.options.sessions_per_identity_max };
        let held = self.uploads.hold(session, max).inspect_err(|error| match error {
            Error::TooManyUploadsOfOne { .. } => self.depot().metrics.refused("push.sessions_per_identity_max"),
            _ => self.depot().metrics.refused("push.sessions_max"),
        });
        let opened = Opened::new(held?);
        self.depot().blobs.stage_upload(id).await?;
        fault::point("session: file made");
        Ok(opened)
    }

    fn session(&self, target: &Target, id: &UploadId) -> Result<Arc<Session>, Error> {
        let name = self.home(target)?;
        let session = self.uploads.sessions().get(id).filter(|session| session.row.repo == name).cloned();
        let session = session.ok_or(Error::UploadUnknown { id: *id })?;
        session.touch(self.depot().clock.now_ms());
        Ok(session)
    }

    /// Now and then the index learns that a session is in use, so that a restart does not take it for idle.
    async fn record_touch(&self, session: &Session) -> Result<(), Error> {
        if let Some(touched_ms) = session.unrecorded_touch() {
            self.depot().metadata.touch_upload(&session.row.id, touched_ms).await?;
        }
        Ok(())
    }

    /// The right to write to a session that has not ended while we waited for it.
    async fn lease(&self, session: &Session) -> Result<Lease, Error> {
        let lease = session.lease().await?;
        let id = session.row.id;
        if self.uploads.sessions().contains_key(&id) { Ok(lease) } else { Err(Error::UploadUnknown { id }) }
    }

    async fn write_chunk<S, E>(&self, session: &Session, lease: Lease, chunk: Chunk<S>) -> Result<BlobWriter, Error>
    where
        S: Stream<Item = Result<Bytes, E>> + Send,
        E: Send,
    {
        let room = &self.depot().room;
        let staging = self.depot().blobs.stage_upload(session.row.id).await?;
        let offset_bytes = staging.length_bytes();
        check_range(session.row.id, chunk.range, chunk.length_bytes, offset_bytes)?;
        let expected_bytes = chunk.length_bytes.or(chunk.range.map(ContentRange::length_bytes));
        let end_bytes = expected_bytes.map(|expected| offset_bytes.saturating_add(expected));
        let no_room = |error| Error::cache(&session.row.repo)(error);
        session.promise(room, end_bytes.unwrap_or(offset_bytes), 0).await.map_err(no_room)?;
        if let Some(end_bytes) = end_bytes
            && staging.preallocate(end_bytes).await?
        {
            session.reservation().on_disk(u64::MAX);
        }

        let mut writer = BlobWriter::resume(staging, session.resume(), lease);
        let incoming = Incoming { body: pin!(chunk.body), position: offset_bytes, end_bytes, session, room };
        let poured = writer.pour(pin!(stream::try_unfold(incoming, Incoming::next))).await;
        let received_bytes = writer.length_bytes() - offset_bytes;
        let broken = match poured {
            Ok(()) if expected_bytes.is_none_or(|expected| expected == received_bytes) => return Ok(writer),
            Ok(()) => Broken::WrongLength,
            Err(PourError::Source(broken)) => broken,
            Err(PourError::Write(error)) => return Err(error.into()),
        };
        // What came stays: the client may ask for the offset and go on.
        session.suspend(writer.suspend().await?);
        Err(match broken {
            Broken::Client => Error::BodyBroken { received_bytes },
            Broken::WrongLength => {
                Error::SizeInvalid { range_bytes: expected_bytes.unwrap_or_default(), length_bytes: received_bytes }
            }
            Broken::NoRoom(error) => no_room(error),
        })
    }

    async fn commit_upload(&self, session: &Session, writer: BlobWriter, digest: &Digest) -> Result<(), Error> {
        let depot = self.depot();
        let repository = &session.row.repo;
        let proven = writer.prove(*digest).await?;
        let now_ms = depot.clock.now_ms();
        let naming = async {
            let Committed { size_bytes, stored_bytes } = proven.name().await?;
            let change = depot
                .metadata
                .commit_blob(repository, digest, size_bytes, stored_bytes, session.provenance(), now_ms)
                .await?;
            fault::point("push: recorded");
            let after = Holding::of_present(stored_bytes, change.after.pushed);
            let promised = session.reservation().split_off();
            promised.admit(change.before.as_ref().and_then(Holding::of), after);
            self.memory.forget_repository(repository);
            Ok::<_, Error>(())
        };
        depot.room.name(digest, naming).await
    }

    async fn drop_session(&self, session: &Session) -> Result<(), Error> {
        let _lease = self.lease(session).await?;
        self.depot().blobs.remove_upload(session.row.id).await?;
        fault::point("session: file removed");
        self.end_session(session).await
    }

    /// Forgets a session without a file: its row first, so that one that could not be forgotten is found and expires.
    async fn end_session(&self, session: &Session) -> Result<(), Error> {
        drop(session.reservation().split_off());
        self.depot().metadata.delete_upload(&session.row.id).await?;
        fault::point("session: closed");
        self.uploads.sessions().remove(&session.row.id);
        Ok(())
    }
}

/// A chunk must begin where the session is, and its two lengths must agree.
fn check_range(
    id: UploadId,
    range: Option<ContentRange>,
    length_bytes: Option<u64>,
    offset_bytes: u64,
) -> Result<(), Error> {
    let Some(range) = range else { return Ok(()) };
    if let Some(length_bytes) = length_bytes.filter(|length| *length != range.length_bytes()) {
        return Err(Error::SizeInvalid { range_bytes: range.length_bytes(), length_bytes });
    }
    if range.first == offset_bytes {
        Ok(())
    } else {
        Err(Error::ChunkOutOfOrder { id, given: range.first, offset_bytes })
    }
}

/// Why a body ended early.
enum Broken {
    Client,
    WrongLength,
    NoRoom(cache::Error),
}

/// A body on its way in: space is promised before a byte of unknown length is taken.
struct Incoming<'a, S> {
    body: Pin<&'a mut S>,
    position: u64,
    end_bytes: Option<u64>,
    session: &'a Session,
    room: &'a Arc<Room>,
}

impl<S, E> Incoming<'_, S>
where
    S: Stream<Item = Result<Bytes, E>>,
{
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, Broken> {
        let Some(chunk) = self.body.next().await else { return Ok(None) };
        let chunk = chunk.map_err(|_| Broken::Client)?;
        self.position += chunk.len() as u64;
        match self.end_bytes {
            Some(end_bytes) if self.position > end_bytes => return Err(Broken::WrongLength),
            Some(_) => {}
            None => self.session.promise(self.room, self.position, STEP_BYTES).await.map_err(Broken::NoRoom)?,
        }
        Ok(Some((chunk, self)))
    }
}
