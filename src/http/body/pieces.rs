//! The pieces of a blob's range, one after the other, each only when it is servable and in memory.
//!
//! ```text
//! next ─ wait until byte n is servable ─┬─ sendfile: map ─ resident? ─ no: read on a blocking thread ─┬─ piece
//!                                       └─ copy: preadv2(RWF_NOWAIT) ─ not cached: pread there ───────┘
//! ```
//!
//! A thread of the runtime never waits for a disk. Once a piece was found cold, the one after it is read ahead while
//! the client takes the first; when that finds everything in memory again, the blob counts as warm.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::ops::{ControlFlow, Range};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::{Advice, fadvise};
use tokio::task::{JoinHandle, spawn_blocking};

use super::{BodyError, Transport};
use crate::http::sendfile::{self, Mapping, Mappings};
use crate::registry::{BlobReader, Growth, Progress};

/// What hyper gets at a time on the `sendfile` way: large, because it costs no memory.
const MAPPED_PIECE_BYTES: u64 = 4 * 1024 * 1024;

/// What hyper gets at a time on the copying way, and the memory a slow client holds. What fits in one such piece is
/// copied on either way: the system calls around `sendfile` cost more than the copy (120 against 45 µs of CPU for 256
/// KiB).
const COPIED_PIECE_BYTES: u64 = 256 * 1024;

/// The same while the blob is still being filled: hundreds of clients may wait at its front, each with a piece.
const FOLLOWED_PIECE_BYTES: u64 = 64 * 1024;

/// The unit of reading ahead.
const SCRATCH_BYTES: usize = 128 * 1024;

#[derive(Debug)]
pub(super) struct Pieces {
    blob: BlobReader,
    transport: Transport,
    next_byte: u64,
    /// Exclusive; `None` while the size is not known.
    end_byte: Option<u64>,
    ahead: Option<Ahead>,
}

/// A range being brought into memory on a blocking thread. Dropped, it runs to its end, which is one piece away.
#[derive(Debug)]
struct Ahead {
    range: Range<u64>,
    task: JoinHandle<io::Result<Temperature>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Temperature {
    Warm,
    Cold,
}

impl Pieces {
    pub(super) fn new(blob: BlobReader, start_byte: u64, end_byte: Option<u64>, transport: Transport) -> Self {
        Self { blob, transport, next_byte: start_byte, end_byte, ahead: None }
    }

    /// The next piece, `None` at the end of the range. An error is final.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        let Some(servable) = self.servable().await? else { return Ok(None) };
        let (at_byte, until_byte) = (self.next_byte, servable.end);
        let piece = match &self.transport {
            Transport::Sendfile(mappings) if servable.end - servable.start > COPIED_PIECE_BYTES => {
                let mappings = Arc::clone(mappings);
                self.mapped(servable, &mappings).await
            }
            _ => self.copied(servable).await,
        };
        let piece = piece.map_err(|source| BodyError::Read { at_byte, source })?;
        // Asked after the reading: what was found meanwhile counts for this piece too.
        if self.blob.standing.is_condemned() {
            return Err(BodyError::Condemned);
        }
        if piece.is_empty() {
            return Err(BodyError::Short { at_byte });
        }
        self.next_byte += piece.len() as u64;
        if let Transport::Sendfile(mappings) = &self.transport {
            mappings.announce(self.next_byte < until_byte);
        }
        Ok(Some(piece))
    }

    /// Waits until there is something to send and returns all that may be sent by now; `None` at the end of the range.
    async fn servable(&mut self) -> Result<Option<Range<u64>>, BodyError> {
        loop {
            match self.reach()? {
                ControlFlow::Break(None) => return Ok(None),
                ControlFlow::Break(Some(until)) => return Ok(Some(self.next_byte..until)),
                ControlFlow::Continue(()) => {}
            }
            let Progress::Growing(growth) = &mut self.blob.progress else { continue };
            growth.changed().await.map_err(|_| BodyError::FillAbandoned)?;
        }
    }

    /// Where sending may go on to by now, nowhere at the end, or that one must wait.
    fn reach(&mut self) -> Result<ControlFlow<Option<u64>>, BodyError> {
        if self.end_byte == Some(self.next_byte) {
            return Ok(ControlFlow::Break(None));
        }
        let growth = match &mut self.blob.progress {
            Progress::Whole => Growth::Verified { size_bytes: self.blob.size_bytes.unwrap_or(self.next_byte) },
            Progress::Growing(growth) => growth.borrow_and_update().clone(),
        };
        match growth {
            Growth::Filling { servable_bytes } => {
                let until = self.end_byte.map_or(servable_bytes, |end| end.min(servable_bytes));
                Ok(if until > self.next_byte { ControlFlow::Break(Some(until)) } else { ControlFlow::Continue(()) })
            }
            Growth::Verified { size_bytes } => {
                let end = *self.end_byte.get_or_insert(size_bytes);
                if end > size_bytes {
                    return Err(BodyError::Short { at_byte: size_bytes });
                }
                Ok(ControlFlow::Break((end > self.next_byte).then_some(end)))
            }
            Growth::Failed(reason) => Err(BodyError::FillFailed { reason }),
        }
    }

    async fn mapped(&mut self, servable: Range<u64>, mappings: &Arc<Mappings>) -> io::Result<Bytes> {
        let range = piece_of(&servable, MAPPED_PIECE_BYTES);
        let Ok(mapping) = Mapping::of(&self.blob, range.clone(), mappings) else {
            // The process is short of mappings (`vm.max_map_count`) or the file system has none.
            return self.copied(servable).await;
        };
        let temperature = match self.ahead.take() {
            Some(ahead) if ahead.range == range => ahead.task.await??,
            _ if mapping.resident() => Temperature::Warm,
            _ => self.read_ahead(range.clone()).task.await??,
        };
        let following = piece_of(&(range.end..servable.end), MAPPED_PIECE_BYTES);
        if temperature == Temperature::Cold && !following.is_empty() {
            self.ahead = Some(self.read_ahead(following));
        }
        Ok(mapping.into_bytes())
    }

    async fn copied(&mut self, servable: Range<u64>) -> io::Result<Bytes> {
        let is_followed = matches!(self.blob.progress, Progress::Growing(_));
        let range = piece_of(&servable, if is_followed { FOLLOWED_PIECE_BYTES } else { COPIED_PIECE_BYTES });
        let len = usize::try_from(range.end - range.start).expect("a piece fits in memory");
        match sendfile::read_cached(&self.blob.file, range.start, len) {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Unsupported) => {
                let file = Arc::clone(&self.blob.file);
                spawn_blocking(move || read(&file, range.start, len)).await?
            }
            read => read,
        }
    }

    fn read_ahead(&self, range: Range<u64>) -> Ahead {
        let file = Arc::clone(&self.blob.file);
        let task = spawn_blocking({
            let range = range.clone();
            move || warm(&file, &range)
        });
        Ahead { range, task }
    }
}

/// The front of `servable` up to the next multiple of `piece_bytes`, so that later pieces begin on page boundaries.
fn piece_of(servable: &Range<u64>, piece_bytes: u64) -> Range<u64> {
    let boundary = (servable.start / piece_bytes + 1) * piece_bytes;
    servable.start..servable.end.min(boundary)
}

/// Brings `range` into the page cache and tells what it was before. Blocks.
///
/// Under memory pressure often only a few pages are gone, so only the blocks that miss some are read.
fn warm(file: &File, range: &Range<u64>) -> io::Result<Temperature> {
    let missing: Vec<_> = blocks(range.clone()).filter(|block| !sendfile::cached(file, block)).collect();
    if missing.is_empty() {
        return Ok(Temperature::Warm);
    }
    // Only a hint, which makes a few large requests of many small ones.
    let _ = fadvise(file, range.start, NonZeroU64::new(range.end - range.start), Advice::WillNeed);
    let mut scratch = vec![0; SCRATCH_BYTES];
    for block in missing {
        let len = usize::try_from(block.end - block.start).expect("a block fits in the scratch");
        file.read_exact_at(&mut scratch[..len], block.start)?;
    }
    Ok(Temperature::Cold)
}

/// `range` in blocks of at most the scratch's size.
fn blocks(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let first = piece_of(&range, SCRATCH_BYTES as u64);
    std::iter::successors(Some(first), move |block| Some(piece_of(&(block.end..range.end), SCRATCH_BYTES as u64)))
        .take_while(|block| !block.is_empty())
}

/// Reads up to `len` bytes at `offset_bytes`, fewer only at the end of the file. Blocks.
fn read(file: &File, offset_bytes: u64, len: usize) -> io::Result<Bytes> {
    let mut buffer = Vec::with_capacity(len);
    while buffer.len() < len {
        let read = rustix::io::retry_on_intr(|| {
            let at_byte = offset_bytes + buffer.len() as u64;
            rustix::io::pread(file, rustix::buffer::spare_capacity(&mut buffer), at_byte)
        })?;
        if read == 0 {
            break;
        }
    }
    Ok(buffer.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::sample;

    #[test]
    fn blocks_cover_a_range_without_gap_or_overlap() {
        let block = SCRATCH_BYTES as u64;
        for (start, end) in [(0, 0), (0, 1), (5, block), (7, block + 1), (block, 3 * block), (block - 1, 5 * block + 9)]
        {
            let mut at_byte = start;
            for next in blocks(start..end) {
                assert_eq!(next.start, at_byte);
                assert!(!next.is_empty() && next.end - next.start <= block);
                at_byte = next.end;
            }
            assert_eq!(at_byte, end);
        }
    }

    #[test]
    fn a_hole_is_cold_once_and_then_warm() {
        let file = sample::file(b"");
        file.set_len(1 << 20).unwrap();
        assert_eq!(warm(&file, &(100..1 << 20)).unwrap(), Temperature::Cold);
        assert_eq!(warm(&file, &(100..1 << 20)).unwrap(), Temperature::Warm);
    }

    #[test]
    fn warming_beyond_the_end_of_the_file_is_an_error() {
        let file = sample::file(&sample::bytes(1000));
        assert_eq!(warm(&file, &(0..1001)).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
