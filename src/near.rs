//! What keeps cores from waiting for each other when they read what all of them share.
//!
//! Whoever reads a shared map writes to it all the same: a lock, and the count of who holds what was found. For a small answer
//! from memory a good quarter of our own code's time was waiting for that. With [`Near`] each thread has a few entries
//! of its own in front of the map, which hold for as long as the moment they are from is the current one; with [`Held`] a
//! thread or a connection counts the holders of a shared thing for itself.

use std::cell::RefCell;
use std::fmt;
use std::hash::{BuildHasher as _, Hash};
use std::ops::Deref;
use std::sync::Arc;

use quick_cache::{DefaultHashBuilder, Equivalent};
use thread_local::ThreadLocal;

/// The moment of what never changes.
pub const ALWAYS: u64 = 0;

/// For each thread a table in which an entry has one shelf; of three that belong there the one put down first is lost.
pub struct Near<K: Send, V: Send> {
    hasher: DefaultHashBuilder,
    shelves: usize,
    of_threads: ThreadLocal<RefCell<Table<K, V>>>,
}

/// Shelves, each with the newer entry first.
type Table<K, V> = Box<[[Option<Entry<K, V>>; 2]]>;

struct Entry<K, V> {
    key: K,
    value: V,
    since: u64,
}

impl<K: Eq + Hash + Send, V: Clone + Send> Near<K, V> {
    /// So many entries at most for as many threads as there are cores, in pairs; fewer than a pair for each are none.
    pub fn new(entries_max: usize) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self::of_each(entries_max / threads)
    }

    /// So many entries at most for each thread.
    pub fn of_each(entries_max: usize) -> Self {
        Self { hasher: DefaultHashBuilder::default(), shelves: entries_max / 2, of_threads: ThreadLocal::new() }
    }

    /// What this thread put here at the same moment.
    pub fn get<Q>(&self, key: &Q, moment: u64) -> Option<V>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        let table = self.of_threads.get()?.borrow();
        let mut entries = table[self.shelf_of(key)?].iter().flatten();
        let entry = entries.find(|entry| entry.since == moment && key.equivalent(&entry.key))?;
        Some(entry.value.clone())
    }

    /// For this thread alone; `moment` is from before the value was read, and `value` should share no count that its readers move.
    pub fn put(&self, key: K, value: V, moment: u64) {
        let Some(shelf) = self.shelf_of(&key) else { return };
        let table = self.of_threads.get_or(|| RefCell::new((0..self.shelves).map(|_| [None, None]).collect()));
        let [newer, older] = &mut table.borrow_mut()[shelf];
        // What is of the past, or the same under an older value, makes place before anything else does.
        if newer.as_ref().is_some_and(|newer| newer.since == moment && newer.key != key) {
            std::mem::swap(newer, older);
        }
        *newer = Some(Entry { key, value, since: moment });
    }

    fn shelf_of<Q: Hash + ?Sized>(&self, key: &Q) -> Option<usize> {
        let shelf = self.hasher.hash_one(key).checked_rem(self.shelves as u64)?;
        usize::try_from(shelf).ok()
    }
}

impl<K: Send, V: Send> fmt::Debug for Near<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Near").field("shelves", &self.shelves).finish_non_exhaustive()
    }
}

/// Something shared, held by a count that not everybody counts at.
///
/// A clone counts where its original does; [`Held::apart`] begins a new count, for a thread or a connection.
#[derive(Debug)]
pub struct Held<T>(Arc<Shared<T>>);

#[derive(Debug)]
struct Shared<T>(Arc<T>);

impl<T> Held<T> {
    /// The first count of all.
    pub fn new(value: T) -> Self {
        Self::of(Arc::new(value))
    }

    /// The first count of whoever looks after this.
    pub fn of(shared: Arc<T>) -> Self {
        Self(Arc::new(Shared(shared)))
    }

    /// The same, with a count of its own.
    #[must_use]
    pub fn apart(&self) -> Self {
        Self::of(Arc::clone(&self.0.0))
    }
}

impl<T> Clone for Held<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Deref for Held<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_from_another_moment_is_not_there() {
        let near = Near::of_each(8);
        near.put("a", 1, 7);
        assert_eq!(near.get("a", 7), Some(1));
        assert_eq!(near.get("a", 8), None);
        near.put("a", 2, 8);
        assert_eq!(near.get("a", 8), Some(2));
        assert_eq!(near.get("a", 7), None);
    }

    #[test]
    fn one_shelf_holds_the_last_two_that_came_and_answers_for_nothing_else() {
        let near = Near::of_each(2);
        let held = |moment| ["a", "b", "c"].map(|key| near.get(key, moment));
        near.put("a", 1, 0);
        assert_eq!(held(0), [Some(1), None, None]);
        near.put("b", 2, 0);
        assert_eq!(held(0), [Some(1), Some(2), None]);
        near.put("c", 3, 0);
        assert_eq!(held(0), [None, Some(2), Some(3)]);
        near.put("b", 4, 0);
        near.put("b", 5, 0);
        assert_eq!(held(0)[1], Some(5), "of two values the newer one counts");
        near.put("a", 6, 1);
        assert_eq!(held(1), [Some(6), None, None]);
    }

    #[test]
    fn where_there_is_no_room_nothing_is_kept() {
        let near = Near::of_each(1);
        near.put("a", 1, 0);
        assert_eq!(near.get("a", 0), None);
    }

    #[test]
    fn threads_see_what_they_put_here_and_nothing_of_others() {
        let near = Near::of_each(8);
        near.put("a", 1, 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                assert_eq!(near.get("a", 0), None);
                near.put("a", 2, 0);
                assert_eq!(near.get("a", 0), Some(2));
            });
        });
        assert_eq!(near.get("a", 0), Some(1));
    }
}
