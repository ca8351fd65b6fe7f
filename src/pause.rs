//! Long work that can wait lets others have the processor now and then.
//!
//! A thread that never waits keeps its processor until the kernel's next tick, milliseconds later, and pulls wait behind it. So
//! whoever changes many rows or removes many files on a thread of its own pauses between short stretches.

use std::time::Duration;

/// Long enough for whoever waits to begin, and short beside a stretch of work.
const PAUSE: Duration = Duration::from_micros(100);

/// Lets others run. Never on a thread that serves.
pub fn pause() {
    std::thread::sleep(PAUSE);
}
