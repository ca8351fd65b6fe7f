//! The ledger's decisions one by one, and against a naive model of it.

use proptest::prelude::*;

use super::*;
use crate::oci::Algorithm;

/// A file system that has room for everything.
const FREE: u64 = u64::MAX;

fn ledger(cache_max_bytes: u64, store_max_bytes: u64) -> Ledger {
    // The index's headroom lies beyond the bound that a test names.
    let store_max_bytes = store_max_bytes * 16 / 15;
    Ledger::new(Limits { cache_max_bytes, store_max_bytes, min_free_bytes: 0 }, 0, 0, 0)
}

fn digest(n: u8) -> Digest {
    Digest::of(Algorithm::Sha256, &[n])
}

#[test]
fn a_reservation_over_the_bound_names_what_has_to_go() {
    let mut ledger = ledger(100, 1000);
    assert_eq!(ledger.reserve(Class::Cached, 80, FREE), Verdict::Granted);
    ledger.release(Class::Cached, 80, 80);
    ledger.change(None, Holding::of_present(80, false));
    assert_eq!(ledger.reserve(Class::Cached, 50, FREE), Verdict::Evict { bytes: 30 });
    assert_eq!(ledger.reserve(Class::Cached, 101, FREE), Verdict::NoRoom);
    ledger.begin_delete(80);
    assert_eq!(
        ledger.reserve(Class::Cached, 50, FREE),
        Verdict::Evict { bytes: 30 },
        "bytes count until they are gone"
    );
    ledger.finish_delete(80);
    assert_eq!(ledger.reserve(Class::Cached, 50, FREE), Verdict::Granted);
}

#[test]
fn pushes_take_room_from_the_cache_but_the_cache_never_from_pushes() {
    let mut ledger = ledger(100, 100);
    ledger.change(None, Holding::of_present(60, true));
    ledger.change(None, Holding::of_present(40, false));
    assert_eq!(ledger.reserve(Class::Pushed, 40, FREE), Verdict::Evict { bytes: 40 });
    assert_eq!(ledger.reserve(Class::Pushed, 41, FREE), Verdict::NoRoom);
    assert_eq!(ledger.reserve(Class::Cached, 41, FREE), Verdict::NoRoom);
}

#[test]
fn a_cached_blob_that_is_pushed_changes_sides_once() {
    let mut ledger = ledger(100, 100);
    let cached = Holding::of_present(40, false);
    ledger.change(None, cached);
    ledger.change(Some(cached), Holding { pushed: true, ..cached });
    assert_eq!(ledger.sums(), Sums { pushed: 40, ..Sums::default() });
}

/// A removal got stuck, and the blob was fetched again meanwhile.
#[test]
fn what_was_being_removed_counts_once_when_it_is_committed_again() {
    let mut ledger = ledger(100, 1000);
    let cached = Holding::of_present(40, false);
    ledger.change(None, cached);
    ledger.begin_delete(40);
    ledger.change(Some(Holding { deleting: true, ..cached }), cached);
    assert_eq!((ledger.sums().cached, ledger.sums().deleting), (40, 0));
}

#[test]
fn the_longest_unread_go_first_and_the_pinned_never() {
    let mut ledger = ledger(100, 100);
    let candidates: Vec<Candidate> =
        (1..=4).map(|n| Candidate { digest: digest(n), stored_bytes: 10, accessed_ms: i64::from(n) }).collect();
    ledger.pin(digest(1));
    ledger.touch(digest(2), 100);
    assert_eq!(ledger.victims(&candidates, 15), [digest(3), digest(4)]);
    assert_eq!(ledger.victims(&candidates, 1000), [digest(3), digest(4), digest(2)]);
    ledger.unpin(&digest(1));
    assert_eq!(ledger.victims(&candidates, 1), [digest(1)]);
    assert!(ledger.victims(&candidates, 0).is_empty());
}

#[test]
fn what_is_promised_and_not_written_is_kept_free_besides() {
    let limits = Limits { cache_max_bytes: 1000, store_max_bytes: 1600, min_free_bytes: 100 };
    let mut ledger = Ledger::new(limits, 0, 0, 0);
    ledger.change(None, Holding::of_present(50, false));
    assert_eq!(ledger.reserve(Class::Pushed, 300, 500), Verdict::Granted);
    assert_eq!(ledger.reserve(Class::Cached, 101, 500), Verdict::Evict { bytes: 1 }, "300 are promised, 100 stay free");
    assert_eq!(ledger.reserve(Class::Cached, 151, 500), Verdict::NoRoom, "all that could go is not enough");
    // 200 of them are written: the file system has so much less, and nobody counts them twice.
    ledger.written(200);
    assert_eq!(ledger.reserve(Class::Cached, 100, 300), Verdict::Granted);
    assert_eq!(ledger.unwritten_bytes(), 200);
    ledger.release(Class::Pushed, 300, 100);
    ledger.release(Class::Cached, 100, 100);
    assert_eq!(ledger.unwritten_bytes(), 0);
}

#[test]
fn bounds_that_cannot_hold_say_which_and_why() {
    let limits = Limits { cache_max_bytes: 100, store_max_bytes: 200, min_free_bytes: 10 };
    assert_eq!(limits.check(1 << 30, 200), Ok(()));
    let beyond = Limits { cache_max_bytes: 201, ..limits }.check(1 << 30, 0).unwrap_err();
    assert!(beyond.to_string().contains("cache.max_size") && beyond.to_string().contains("lower"), "{beyond}");
    let nothing = limits.check(10, 0).unwrap_err();
    assert!(nothing.to_string().contains("storage.min_free"), "{nothing}");
    let held = limits.check(1 << 30, 201).unwrap_err();
    assert!(held.to_string().contains("201 bytes") && held.to_string().contains("raise it"), "{held}");
}

#[test]
fn a_partial_fill_counts_until_it_is_taken() {
    let mut ledger = ledger(100, 100);
    ledger.add_partial(digest(1), 70);
    ledger.add_partial(digest(1), 60);
    assert_eq!(ledger.sums().partial, 60);
    assert_eq!(ledger.reserve(Class::Cached, 50, FREE), Verdict::Evict { bytes: 10 });
    assert_eq!(ledger.take_partial(&digest(1)), 60);
    assert_eq!(ledger.take_partial(&digest(1)), 0);
    assert_eq!(ledger.sums(), Sums::default());
}

proptest! {
    /// A naive model: a list of what was granted and committed. The bounds hold after every step.
    #[test]
    fn the_bounds_hold_whatever_is_asked(steps in prop::collection::vec((0u8..4, 0u64..60), 0..200)) {
        let mut ledger = ledger(100, 150);
        let mut granted: Vec<(Class, u64)> = Vec::new();
        let mut cached: Vec<u64> = Vec::new();
        for (step, bytes) in steps {
            match step {
                0 | 1 => {
                    let class = if step == 0 { Class::Cached } else { Class::Pushed };
                    if ledger.reserve(class, bytes, FREE) == Verdict::Granted {
                        granted.push((class, bytes));
                    }
                }
                2 => if let Some((class, bytes)) = granted.pop() {
                    ledger.release(class, bytes, bytes);
                    ledger.change(None, Holding::of_present(bytes, class == Class::Pushed));
                    if class == Class::Cached { cached.push(bytes); }
                },
                _ => if let Some(bytes) = cached.pop() {
                    ledger.begin_delete(bytes);
                    ledger.finish_delete(bytes);
                },
            }
            let filling: u64 = granted.iter().filter(|g| g.0 == Class::Cached).map(|g| g.1).sum();
            prop_assert_eq!(ledger.sums().of_cache(), filling + cached.iter().sum::<u64>());
            prop_assert!(ledger.sums().of_cache() <= 100);
            prop_assert!(ledger.sums().of_store() <= 150);
        }
    }
}
