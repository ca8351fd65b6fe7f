//! Written bytes that stay in memory until they are digested, so that they need not be read again: a little for each writer,
//! and no more than so much for all of them, however many there are.

use std::sync::atomic::{AtomicU64, Ordering};

use super::landing::Batch;

/// Bytes kept for one writer.
pub const FRESH_BYTES_MAX: u64 = 768 << 10;
/// Bytes kept for all writers. Whoever comes when they are used up has its bytes read from the page cache, which costs a
/// copy; memory for each of many writers would be the process's largest part.
pub const FRESH_BYTES_OF_ALL_MAX: u64 = 6 << 20;

static KEPT_BYTES: AtomicU64 = AtomicU64::new(0);

/// Bytes of one writer that lie one behind the other.
#[derive(Default)]
pub struct Fresh(Batch);

impl Fresh {
    /// How many.
    pub fn bytes(&self) -> u64 {
        self.0.bytes
    }

    /// The bytes, in their order.
    pub fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        self.0.chunks.iter().map(AsRef::as_ref)
    }

    /// Keeps what follows, if there is room.
    pub fn keep(&mut self, batch: Batch) {
        let with_these = |kept: u64| kept.checked_add(batch.bytes).filter(|sum| *sum <= FRESH_BYTES_OF_ALL_MAX);
        let has_room = self.bytes() < FRESH_BYTES_MAX
            && KEPT_BYTES.fetch_update(Ordering::Relaxed, Ordering::Relaxed, with_these).is_ok();
        if has_room {
            self.0.append(batch);
        }
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        KEPT_BYTES.fetch_sub(self.0.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn batch(bytes: u64) -> Batch {
        let mut batch = Batch::default();
        batch.push(Bytes::from(vec![0; usize::try_from(bytes).unwrap()]));
        batch
    }

    /// Other tests of this process keep bytes too, so only what never depends on them is said.
    #[test]
    fn many_writers_keep_no_more_than_their_common_bound_and_give_it_back() {
        let keep = || {
            let mut fresh = Fresh::default();
            fresh.keep(batch(FRESH_BYTES_MAX));
            fresh
        };
        let all: Vec<Fresh> = (0..100).map(|_| keep()).collect();
        let kept: u64 = all.iter().map(Fresh::bytes).sum();
        assert!(kept <= FRESH_BYTES_OF_ALL_MAX, "{kept}");
        assert!(KEPT_BYTES.load(Ordering::Relaxed) <= FRESH_BYTES_OF_ALL_MAX);
        drop(all);
        let mut one = Fresh::default();
        while one.bytes() == 0 {
            one.keep(batch(10));
        }
        assert_eq!(one.chunks().map(<[u8]>::len).sum::<usize>(), 10);
    }
}
