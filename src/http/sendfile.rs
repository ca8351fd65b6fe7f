//! Bytes of a file that look like memory to hyper and leave through `sendfile(2)`.
//!
//! ```text
//! FileBody ── Mapping::of(blob, range) ──► Bytes ──► hyper ──► IoSlice ── Mappings::lead ──► Extent::send ──► socket
//!                  │ registers its address range             (the address is looked up, the memory is not read)
//!                  └─► Mappings, one table per connection
//! ```
//!
//! Invariants:
//! * A range of addresses is in the table exactly as long as it is mapped, so an address found there names file bytes.
//! * No page of a mapping is touched by this process. Should a future version of hyper copy a frame, the bytes sent
//!   are still right, because the mapping is of the file; only the price goes up. A test counts what `sendfile`
//!   carried to notice that.
//!
//! This is the one module that may use `unsafe`: to map, to unmap, to ask which pages are in memory, and to read into
//! memory that is not yet initialised.
#![expect(unsafe_code, reason = "mmap, munmap, mincore, cachestat and reading into spare capacity have no safe form")]

use std::ffi::c_void;
use std::fs::File;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use rustix::mm::{MapFlags, ProtFlags};

use crate::registry::{BlobPin, BlobReader, Standing};

/// The mappings that bodies of one connection have handed to hyper and that are not yet sent.
///
/// Shared by the connection's IO type and by the bodies of its requests, which come with it (`request::Arrived`).
#[derive(Debug, Default)]
pub struct Mappings {
    /// A handful of entries at most: hyper holds one body of a connection at a time and few of its frames.
    live: Mutex<Vec<Registered>>,
    carried_bytes: AtomicU64,
    /// Whether the body can hand over its next piece without having to wait for a fill.
    more_follows: AtomicBool,
}

#[derive(Debug)]
struct Registered {
    addresses: Range<usize>,
    file: Arc<File>,
    /// Offset in the file of the first address.
    offset_bytes: u64,
    standing: Standing,
}

/// What stands at the front of a vectored write.
#[derive(Debug)]
pub enum Lead {
    /// The first `count` slices are ordinary memory; `file_follows` tells whether a mapped slice comes right after
    /// them.
    Memory { count: usize, file_follows: bool },
    /// The first slice that is not empty lies in a mapping.
    File(Extent),
}

/// A run of bytes of a file.
#[derive(Clone, Debug)]
pub struct Extent {
    pub file: Arc<File>,
    pub offset_bytes: u64,
    pub len: usize,
    standing: Standing,
}

impl Mappings {
    /// Tells what `slices` begin with, by address only.
    pub fn lead(&self, slices: &[IoSlice<'_>]) -> Lead {
        let live = self.lock();
        if live.is_empty() {
            return Lead::Memory { count: slices.len(), file_follows: false };
        }
        let first_mapped = slices.iter().enumerate().find_map(|(i, slice)| Some((i, find(&live, slice)?)));
        match first_mapped {
            None => Lead::Memory { count: slices.len(), file_follows: false },
            Some((before, extent)) if slices[..before].iter().all(|s| s.is_empty()) => Lead::File(extent),
            Some((before, _)) => Lead::Memory { count: before, file_follows: true },
        }
    }

    /// Tells the connection whether the body's next piece comes right after the last one, so that a short segment
    /// between the two need not leave by itself.
    pub fn announce(&self, more_follows: bool) {
        self.more_follows.store(more_follows, Ordering::Relaxed);
    }

    /// What the last [`announce`](Self::announce) said.
    pub fn more_follows(&self) -> bool {
        self.more_follows.load(Ordering::Relaxed)
    }

    /// Bytes that left this connection by `sendfile(2)`.
    pub fn carried_bytes(&self) -> u64 {
        self.carried_bytes.load(Ordering::Relaxed)
    }

    /// Mappings that are alive now.
    pub fn live(&self) -> usize {
        self.lock().len()
    }

    /// Sends the front of `extent` into `socket`, which must not block, and returns how many bytes it took.
    ///
    /// Fails with `UnexpectedEof` when the file ends before the extent does, and with `InvalidData` when the blob was found to
    /// be damaged since its body gave this piece away.
    pub fn send(&self, socket: impl AsFd, extent: &Extent) -> io::Result<usize> {
        if extent.standing.is_condemned() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the blob was found to be damaged"));
        }
        let mut offset = extent.offset_bytes;
        match rustix::fs::sendfile(socket, &extent.file, Some(&mut offset), extent.len)? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "file is shorter than the blob")),
            sent => {
                self.carried_bytes.fetch_add(sent as u64, Ordering::Relaxed);
                Ok(sent)
            }
        }
    }

    /// No panic can happen while the lock is held, so a poisoned table is still a sound one.
    fn lock(&self) -> MutexGuard<'_, Vec<Registered>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn find(live: &[Registered], slice: &[u8]) -> Option<Extent> {
    let address = slice.as_ptr().addr();
    let entry = live.iter().find(|entry| entry.addresses.contains(&address))?;
    let skipped = address - entry.addresses.start;
    Some(Extent {
        file: Arc::clone(&entry.file),
        offset_bytes: entry.offset_bytes + skipped as u64,
        len: slice.len().min(entry.addresses.end - address),
        standing: entry.standing.clone(),
    })
    .filter(|extent| extent.len > 0)
}

/// A range of a blob's file mapped for reading, registered with a connection until dropped.
#[derive(Debug)]
pub struct Mapping {
    /// Start of the mapping, on a page boundary.
    base: NonNull<c_void>,
    mapped_len: usize,
    /// Where the range begins in the mapping: less than a page.
    skip: usize,
    file: Arc<File>,
    range: Range<u64>,
    mappings: Arc<Mappings>,
    /// The bytes may wait in hyper after the body is gone; the blob must not be evicted before they are sent.
    _pin: Option<BlobPin>,
}

// SAFETY: the mapping is owned by this value alone, is only ever read through `&[u8]`, and may be unmapped by any
// thread.
unsafe impl Send for Mapping {}
// SAFETY: see above; all shared access is reading.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `range` of `blob`, which must not be empty and must be servable: those bytes are in the file and final.
    pub fn of(blob: &BlobReader, range: Range<u64>, mappings: &Arc<Mappings>) -> io::Result<Self> {
        if range.is_empty() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let page = rustix::param::page_size() as u64;
        let base_offset = range.start / page * page;
        let skip = usize::try_from(range.start - base_offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mapped_len = usize::try_from(range.end - base_offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: a new mapping at an address of the kernel's choice aliases nothing we own. It is released only in
        // `drop`.
        let base = unsafe {
            rustix::mm::mmap(ptr::null_mut(), mapped_len, ProtFlags::READ, MapFlags::SHARED, &blob.file, base_offset)?
        };
        let base = NonNull::new(base).ok_or(io::ErrorKind::OutOfMemory)?;
        mappings.lock().push(Registered {
            addresses: base.addr().get()..base.addr().get() + mapped_len,
            file: Arc::clone(&blob.file),
            offset_bytes: base_offset,
            standing: blob.standing.clone(),
        });
        Ok(Self {
            base,
            mapped_len,
            skip,
            file: Arc::clone(&blob.file),
            range,
            mappings: Arc::clone(mappings),
            _pin: blob.pin.clone(),
        })
    }

    /// Whether every page of the range is in memory, so that sending it waits for no disk.
    ///
    /// An answer of the moment: the kernel may evict a page right after. `false` when in doubt.
    pub fn resident(&self) -> bool {
        cached(&self.file, &self.range) || self.in_core()
    }

    /// Asks page by page: 20 ms for a GiB, and right also where [`cached`] is blind (overlayfs, kernels before 6.5).
    fn in_core(&self) -> bool {
        const PAGES: usize = 1024;
        let page = rustix::param::page_size();
        let mut states = [0_u8; PAGES];
        (0..self.mapped_len).step_by(PAGES * page).all(|at| {
            let len = (self.mapped_len - at).min(PAGES * page);
            // SAFETY: `at..at + len` lies in our live mapping, `at` is a multiple of the page size, and `states` has
            // room for one byte a page of `len`.
            let rc = unsafe { libc::mincore(self.base.as_ptr().byte_add(at), len, states.as_mut_ptr()) };
            rc == 0 && states[..len.div_ceil(page)].iter().all(|state| state & 1 == 1)
        })
    }

    /// The range as a frame for hyper. It stays mapped and registered until the last slice of it is dropped.
    pub fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: `skip..mapped_len` lies in our live, readable mapping, and `self` outlives the slice. The memory
        // does not change under the slice: it is a servable range of a blob, whose bytes are final (see
        // `blobs::reader`). If an operator breaks the file from outside, nothing here reads the memory; `sendfile`
        // then reports a short file.
        unsafe {
            std::slice::from_raw_parts(self.base.as_ptr().cast::<u8>().add(self.skip), self.mapped_len - self.skip)
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // First out of the table: once unmapped, the kernel may give the same addresses to something else.
        let start = self.base.addr().get();
        let mut live = self.mappings.lock();
        if let Some(index) = live.iter().position(|entry| entry.addresses.start == start) {
            live.swap_remove(index);
        }
        drop(live);
        // SAFETY: exactly what `of` mapped; no slice of it is left, since slices borrow from or own this value.
        if let Err(error) = unsafe { rustix::mm::munmap(self.base.as_ptr(), self.mapped_len) } {
            tracing::error!(%error, "munmap of a blob's range failed, its addresses are lost");
        }
    }
}

/// Whether the page cache holds all of `range`, from `cachestat(2)`: 1 ms for a GiB in large folios. `false` when in
/// doubt.
///
/// A page that is just being read counts as cached there, so the last byte is also read without waiting.
pub fn cached(file: &File, range: &Range<u64>) -> bool {
    #[repr(C)]
    struct CachestatRange {
        offset: u64,
        len: u64,
    }
    /// Pages: cached, dirty, under writeback, evicted, recently evicted.
    type Counts = [u64; 5];

    if range.is_empty() {
        return true;
    }
    let page = rustix::param::page_size() as u64;
    let pages = range.end.div_ceil(page) - range.start / page;
    let asked = CachestatRange { offset: range.start, len: range.end - range.start };
    let mut counts: Counts = [0; 5];
    // SAFETY: the kernel reads one `CachestatRange` and writes five `u64`; both live until the call returns.
    let rc = unsafe { libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), &raw const asked, &raw mut counts, 0) };
    rc == 0 && counts[0] >= pages && read_cached(file, range.end - 1, 1).is_ok_and(|byte| !byte.is_empty())
}

/// The same number on every architecture but alpha.
const SYS_CACHESTAT: libc::c_long = 451;

/// Reads up to `len` bytes at `offset_bytes` as far as they are in the page cache.
///
/// Fails with `WouldBlock` when the first of them is not, with `Unsupported` on file systems that cannot tell. Empty
/// at the end of the file.
pub fn read_cached(file: &File, offset_bytes: u64, len: usize) -> io::Result<Bytes> {
    let offset = libc::off_t::try_from(offset_bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut buffer = BytesMut::with_capacity(len);
    let spare = buffer.spare_capacity_mut();
    let target = libc::iovec { iov_base: spare.as_mut_ptr().cast(), iov_len: len.min(spare.len()) };
    // SAFETY: `target` describes spare capacity that `buffer` owns for the length of the call.
    let read = unsafe { libc::preadv2(file.as_raw_fd(), &raw const target, 1, offset, libc::RWF_NOWAIT) };
    let read = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: the kernel has written the first `read` bytes of the spare capacity.
    unsafe { buffer.set_len(read) };
    Ok(buffer.freeze())
}

#[cfg(test)]
mod tests;
