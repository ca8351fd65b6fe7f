//! Streaming a blob past the store, for one client: when there is no room to keep it, or when a part is wanted that the
//! fill will not reach soon.
//!
//! A whole blob is digested on the way and its last piece is sent only when the digest is proven; a part cannot be.

use bytes::{Bytes, BytesMut};
use futures::{Stream, stream};

use super::Source;
use super::error::{Error, Wrong};
use super::fill::TURN_WAIT;
use super::lanes::{Turn, new_who};
use super::live::Priority;
use super::turns::Who;
use crate::oci::{ByteRange, Digest, Digester};
use crate::upstream::{BlobStream, Fetch};

/// Bytes kept back until the digest is proven.
const LAST_PIECE_BYTES: usize = 4096;

/// A blob, or a part of one, coming straight from an upstream.
pub struct Bypass {
    source: Source,
    digest: Digest,
    stream: BlobStream,
    who: Who,
    /// Given back when it ends.
    _turn: Turn,
    /// Bytes at the front that were not asked for: an upstream that ignores ranges.
    skip: u64,
    /// Bytes still to be given; `None` when nobody knows.
    left: Option<u64>,
    digester: Option<Digester>,
    held: BytesMut,
}

impl Bypass {
    /// Starts a transfer of the whole blob, or of `range`.
    pub async fn open(source: &Source, digest: Digest, range: Option<ByteRange>) -> Result<Self, Error> {
        let fetch = match range {
            None => Fetch::Whole,
            Some(range) => Fetch::Between { first: range.start, last: range.end - 1 },
        };
        let mirror = &source.mirror;
        let who = new_who();
        // Its client waits, and a cache that cannot keep a blob fails no pull: who has waited long enough goes over the limit.
        let turn = mirror.lanes().turn_within(who, Priority::Client, TURN_WAIT).await;
        let stream = mirror.ask("fetch_blob", source.upstream().fetch_blob(&source.remote, &digest, fetch)).await?;
        let (skip, left) = match range {
            None => (0, stream.total_bytes),
            Some(range) => (range.start.saturating_sub(stream.start), Some(range.length_bytes())),
        };
        let digester = range.is_none().then(|| Digester::new(digest.algorithm()));
        let bypass = Self {
            source: source.clone(),
            digest,
            stream,
            who,
            _turn: turn,
            skip,
            left,
            digester,
            held: BytesMut::new(),
        };
        Wrong::announced(left, &digest).map_or(Ok(()), |wrong| Err(bypass.wrong(wrong)))?;
        Ok(bypass)
    }

    /// Bytes that will be given; `None` when the upstream did not say.
    pub fn length_bytes(&self) -> Option<u64> {
        self.left
    }

    /// The bytes. An error ends the stream: the body it feeds must not be completed.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, Error>> + Send {
        stream::try_unfold(Some(self), |state| async move {
            let Some(mut bypass) = state else { return Ok(None) };
            match bypass.next().await? {
                Some(chunk) => Ok(Some((chunk, Some(bypass)))),
                None => Ok(bypass.finish()?.map(|last| (last, None))),
            }
        })
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        while self.left != Some(0) {
            let received = self.stream.next().await;
            let host = || self.source.mirror.host().clone();
            let Some(mut chunk) = received.map_err(|source| Error::Upstream { host: host(), source })? else { break };
            self.source.mirror.lanes().pass(self.who, Priority::Client, chunk.len() as u64).await;
            let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(chunk.len());
            self.skip -= skipped as u64;
            bytes::Buf::advance(&mut chunk, skipped);
            if let Some(left) = &mut self.left {
                chunk.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= chunk.len() as u64;
            }
            if let Some(ready) = self.pass(chunk) {
                return Ok(Some(ready));
            }
        }
        Ok(None)
    }

    /// What of a chunk may be given now.
    fn pass(&mut self, chunk: Bytes) -> Option<Bytes> {
        let Some(digester) = &mut self.digester else { return (!chunk.is_empty()).then_some(chunk) };
        digester.update(&chunk);
        self.held.extend_from_slice(&chunk);
        let ready = self.held.len().saturating_sub(LAST_PIECE_BYTES);
        (ready > 0).then(|| self.held.split_to(ready).freeze())
    }

    /// The held-back piece, if the digest is right.
    fn finish(mut self) -> Result<Option<Bytes>, Error> {
        if let Some(announced_bytes) = self.left.filter(|left| *left > 0) {
            return Err(self.wrong(Wrong::TooShort { announced_bytes }));
        }
        if let Some(digester) = self.digester.take() {
            let actual = digester.finish();
            if actual != self.digest {
                self.stream.origin().sent_wrong();
                return Err(self.wrong(Wrong::Digest { actual }));
            }
        }
        Ok((!self.held.is_empty()).then(|| self.held.freeze()))
    }

    fn wrong(&self, how: Wrong) -> Error {
        Error::Wrong {
            host: self.source.mirror.host().clone(),
            asked: format!("blob {} of {}", self.digest, self.source.remote),
            source: std::sync::Arc::new(how),
        }
    }
}

impl std::fmt::Debug for Bypass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bypass({} of {})", self.digest, self.source.canonical)
    }
}
