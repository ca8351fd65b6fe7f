//! Log lines on their way out: gathered in memory, written by a thread of their own, many in one write.
//!
//! A system call a line costs a busy server a fifth of its processor time. The writer therefore lets lines gather for
//! [`GATHERING`] after the first; a crash loses what came within that time, a regular end loses nothing.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// How late a line may be written, so that others can go with it.
const GATHERING: Duration = Duration::from_millis(10);
/// Memory kept for gathering between two writes; what a burst took beyond it is given back.
const KEPT_BYTES: usize = 256 * 1024;

/// Takes whole lines from any thread.
#[derive(Clone, Debug)]
pub struct Lines(Arc<Shared>);

/// Ends the writer when dropped, after it has written what it has.
#[derive(Debug)]
pub struct Guard {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    gathered: Mutex<Gathered>,
    wake: Condvar,
    bytes_max: usize,
    tell: fn(u64) -> String,
    /// Dropped since the start.
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Gathered {
    bytes: Vec<u8>,
    /// Dropped since the last write, to be told in its place.
    dropped: u64,
    closing: bool,
}

impl Lines {
    /// Begins to write to `out`. More than `bytes_max` are never kept for it; `tell` makes the line that stands in the
    /// place of so many dropped ones.
    pub fn start(out: impl Write + Send + 'static, bytes_max: usize, tell: fn(u64) -> String) -> (Self, Guard) {
        let (gathered, wake, dropped) = (Mutex::default(), Condvar::new(), AtomicU64::new(0));
        let shared = Arc::new(Shared { gathered, wake, bytes_max, tell, dropped });
        let of_writer = Arc::clone(&shared);
        let writer = std::thread::Builder::new().name("log".to_owned()).spawn(move || of_writer.write_to(out));
        (Self(Arc::clone(&shared)), Guard { shared, writer: writer.ok() })
    }

    /// How many lines were dropped, because their reader left too many unread.
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }
}

impl Shared {
    /// A thread that panicked while it added a line has at worst left half of it.
    fn lock(&self) -> MutexGuard<'_, Gathered> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, line: &[u8]) {
        let mut gathered = self.lock();
        if gathered.bytes.len() + line.len() > self.bytes_max {
            gathered.dropped += 1;
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let was_empty = gathered.bytes.is_empty();
        gathered.bytes.extend_from_slice(line);
        drop(gathered);
        if was_empty {
            self.wake.notify_one();
        }
    }

    fn write_to(&self, mut out: impl Write) {
        let mut taken = Vec::new();
        loop {
            let idle = |gathered: &mut Gathered| gathered.bytes.is_empty() && !gathered.closing;
            let gathered = self.wake.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
            let closing = |gathered: &mut Gathered| !gathered.closing;
            let waited = self.wake.wait_timeout_while(gathered, GATHERING, closing);
            let (mut gathered, _) = waited.unwrap_or_else(PoisonError::into_inner);
            std::mem::swap(&mut gathered.bytes, &mut taken);
            let (dropped, closing) = (std::mem::take(&mut gathered.dropped), gathered.closing);
            drop(gathered);
            if dropped > 0 {
                taken.extend_from_slice((self.tell)(dropped).as_bytes());
            }
            // There is nowhere to tell that the log cannot be written.
            let _ = out.write_all(&taken).and_then(|()| out.flush());
            taken.clear();
            taken.shrink_to(KEPT_BYTES);
            if closing {
                return;
            }
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.wake.notify_one();
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.add(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = &'a Lines;

    fn make_writer(&'a self) -> &'a Lines {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A reader that takes nothing before it is told to.
    struct Stalled {
        begun: mpsc::Sender<()>,
        go_on: mpsc::Receiver<()>,
        taken: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Stalled {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Both ends go when the test is over.
            let _ = self.begun.send(());
            let _ = self.go_on.recv();
            self.taken.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stalled_reader_stalls_nobody_and_learns_what_it_missed() {
        let (begun, has_begun) = mpsc::channel();
        let (go_on, goes_on) = mpsc::channel();
        let taken = Arc::new(Mutex::new(Vec::new()));
        let out = Stalled { begun, go_on: goes_on, taken: Arc::clone(&taken) };
        let (lines, guard) = Lines::start(out, 12, |dropped| format!("{dropped} lost\n"));
        (&lines).write_all(b"first\n").unwrap();
        has_begun.recv().unwrap();
        for line in [b"12345\n", b"67890\n", b"12345\n", b"67890\n"] {
            (&lines).write_all(line).unwrap();
        }
        drop(go_on);
        drop(guard);
        assert_eq!(String::from_utf8_lossy(&taken.lock().unwrap()), "first\n12345\n67890\n2 lost\n");
        assert_eq!(lines.dropped(), 2);
    }

    #[test]
    fn lines_of_many_threads_come_out_whole_and_before_the_end() {
        let taken = Arc::new(Mutex::new(Vec::new()));
        let (begun, _has_begun) = mpsc::channel();
        let out = Stalled { begun, go_on: mpsc::channel().1, taken: Arc::clone(&taken) };
        let (lines, guard) = Lines::start(out, 1 << 20, |_| unreachable!("there is room for all"));
        std::thread::scope(|scope| {
            for letter in ["a", "b", "c"] {
                let (mut lines, line) = (&lines, letter.repeat(50) + "\n");
                scope.spawn(move || (0..100).for_each(|_| lines.write_all(line.as_bytes()).unwrap()));
            }
        });
        drop(guard);
        let text = String::from_utf8(taken.lock().unwrap().clone()).unwrap();
        let whole = |line: &str| line.len() == 50 && line.bytes().all(|byte| byte == line.as_bytes()[0]);
        assert_eq!(text.lines().filter(|line| whole(line)).count(), 300);
    }
}
