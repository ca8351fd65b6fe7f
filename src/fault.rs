//! Where tests end the process, or have a system call or a change of the index fail.
//!
//! Only builds with debug assertions have any of it: in a release build both functions are empty, nothing can arm them, and the
//! binary contains not even the names. A crash is armed once per process (`serve --crash-at`, a flag of debug builds only), a
//! failure per store, because tests run beside each other in one process.

use std::io;
use std::path::Path;

/// Every place where a crash is worth trying: each leaves something else behind.
#[cfg(debug_assertions)]
pub const CRASH_POINTS: &[&str] = &[
    "start: store opened",
    "start: index opened",
    "start: marker written",
    "start: marked complete",
    "start: removals finished",
    "start: ready",
    "fill: file made",
    "fill: written ahead",
    "fill: front recorded",
    "fill: left to be continued",
    "fill: recorded",
    "session: file made",
    "session: opened",
    "session: appended",
    "session: file removed",
    "session: closed",
    "push: recorded",
    "blob: proven",
    "blob: synced",
    "blob: noted",
    "blob: named",
    "blob: durable",
    "manifest: adopted",
    "manifest: stored",
    "manifest: recorded",
    "mount: linked",
    "delete: done",
    "index: before commit",
    "index: names recorded",
    "index: committed",
    "evict: marked",
    "removal: one of many gone",
    "evict: bytes gone",
    "evict: row absent",
    "sweep: manifest gone",
    "sweep: marked",
    "sweep: bytes gone",
    "sweep: row gone",
    "acme: account kept",
    "acme: order kept",
    "acme: order finalized",
    "acme: certificate kept",
    "stop: served",
    "stop: fills ended",
    "stop: index closed",
];

/// Ends the process here if a test asked for that, as `kill -9` would.
#[inline]
pub fn point(name: &'static str) {
    #[cfg(debug_assertions)]
    armed::point(name);
    #[cfg(not(debug_assertions))]
    let _ = name;
}

/// Comes before every system call and every change of the index, and fails in its place if a test asked for that. `path` is the
/// file concerned, which tells whose store it is.
#[inline]
pub fn before(operation: &'static str, path: &Path) -> io::Result<()> {
    #[cfg(debug_assertions)]
    return armed::before(operation, path);
    #[cfg(not(debug_assertions))]
    {
        let _ = (operation, path);
        Ok(())
    }
}

#[cfg(debug_assertions)]
pub use armed::{Injected, NoSuchPoint, crash_at, inject};

#[cfg(debug_assertions)]
mod armed {
    use std::io;
    use std::ops::RangeInclusive;
    use std::path::{Path, PathBuf};
    use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

    use rustix::io::Errno;
    use rustix::process::{Signal, getpid, kill_process};

    use crate::fault::CRASH_POINTS;

    /// A point that does not exist.
    #[derive(Debug, thiserror::Error)]
    #[error("there is no crash point \"{name}\": one of {}", CRASH_POINTS.join(", "))]
    pub struct NoSuchPoint {
        name: String,
    }

    struct Crash {
        name: String,
        left: AtomicU32,
    }

    static CRASH: OnceLock<Crash> = OnceLock::new();
    static INJECTIONS: Mutex<Vec<Arc<Injection>>> = Mutex::new(Vec::new());
    /// How many there are: most processes have none, and pay no lock for that.
    static N_INJECTIONS: AtomicUsize = AtomicUsize::new(0);

    struct Injection {
        root: PathBuf,
        /// Which of the calls below `root` fail, counted from 1.
        failing: RangeInclusive<usize>,
        errno: Errno,
        calls: AtomicUsize,
        failed: Mutex<Vec<String>>,
    }

    /// Ends this process when it comes to a point for the `nth` time: `NAME` or `NAME@nth`.
    pub fn crash_at(text: &str) -> Result<(), NoSuchPoint> {
        let (name, nth) = text.split_once('@').unwrap_or((text, "1"));
        let (true, Ok(nth)) = (CRASH_POINTS.contains(&name), nth.parse()) else {
            return Err(NoSuchPoint { name: text.to_owned() });
        };
        // Armed once: whoever comes later in the same process changes nothing.
        let _ = CRASH.set(Crash { name: name.to_owned(), left: AtomicU32::new(nth) });
        Ok(())
    }

    pub(super) fn point(name: &'static str) {
        debug_assert!(CRASH_POINTS.contains(&name), "the point \"{name}\" is not in the list");
        let Some(crash) = CRASH.get().filter(|crash| crash.name == name) else { return };
        if crash.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            kill_process(getpid(), Signal::KILL).expect("a process may end itself");
            // The signal may come a moment later, and nothing may happen in that moment.
            loop {
                std::hint::spin_loop();
            }
        }
    }

    /// The failures that a test asked for. Dropped, nothing fails any more.
    pub struct Injected(Arc<Injection>);

    /// Has calls on files below `root` fail with this error: those of these numbers, counted from 1.
    pub fn inject(root: &Path, failing: RangeInclusive<usize>, error: &io::Error) -> Injected {
        let errno = Errno::from_io_error(error).expect("an error of the system");
        let (calls, failed) = (AtomicUsize::new(0), Mutex::default());
        let injection = Arc::new(Injection { root: root.to_owned(), failing, errno, calls, failed });
        injections().push(Arc::clone(&injection));
        N_INJECTIONS.fetch_add(1, Ordering::SeqCst);
        Injected(injection)
    }

    impl Injected {
        /// What failed so far.
        pub fn failed(&self) -> Vec<String> {
            self.0.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
        }
    }

    impl Drop for Injected {
        fn drop(&mut self) {
            injections().retain(|other| !Arc::ptr_eq(other, &self.0));
            N_INJECTIONS.fetch_sub(1, Ordering::SeqCst);
        }
    }

    pub(super) fn before(operation: &'static str, path: &Path) -> io::Result<()> {
        if N_INJECTIONS.load(Ordering::SeqCst) == 0 {
            return Ok(());
        }
        let Some(injection) = injections().iter().find(|injection| path.starts_with(&injection.root)).cloned() else {
            return Ok(());
        };
        let call = injection.calls.fetch_add(1, Ordering::SeqCst) + 1;
        if !injection.failing.contains(&call) {
            return Ok(());
        }
        let what = format!("{operation} {}", path.strip_prefix(&injection.root).unwrap_or(path).display());
        injection.failed.lock().unwrap_or_else(PoisonError::into_inner).push(what);
        Err(injection.errno.into())
    }

    fn injections() -> MutexGuard<'static, Vec<Arc<Injection>>> {
        INJECTIONS.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
