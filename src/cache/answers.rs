//! What an upstream answered last, for people who ask why.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Answers that are kept of each upstream.
const ANSWERS_MAX: usize = 10;

/// One answer, or what came instead of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastAnswer {
    /// When it was complete, Unix milliseconds.
    pub at_ms: i64,
    /// What was asked, as the metrics call it.
    pub operation: &'static str,
    /// `ok`, or the kind of the error.
    pub result: &'static str,
    /// How long it took.
    pub took: Duration,
}

/// The last answers of one upstream.
#[derive(Debug, Default)]
pub(super) struct LastAnswers(Mutex<VecDeque<LastAnswer>>);

impl LastAnswers {
    /// Keeps an answer, and forgets the oldest if there are many.
    pub fn note(&self, answer: LastAnswer) {
        let mut answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        answers.truncate(ANSWERS_MAX - 1);
        answers.push_front(answer);
    }

    /// All that are kept, the newest first.
    pub fn list(&self) -> Vec<LastAnswer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_are_kept() {
        let answers = LastAnswers::default();
        for at_ms in 0..25 {
            answers.note(LastAnswer { at_ms, operation: "head_manifest", result: "ok", took: Duration::ZERO });
        }
        let kept: Vec<i64> = answers.list().iter().map(|answer| answer.at_ms).collect();
        assert_eq!(kept, (15..25).rev().collect::<Vec<i64>>());
    }
}
