//! Answers over HTTP/2 of which the client takes nothing.
//!
//! The connection's own limit sees a socket that takes no byte. With HTTP/2 the socket may take pings and other answers
//! while the window of one stream stays shut for good; that stream would hold its body, its file and its pin.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::Instant;

/// It is us who are waited for.
const OURS: u64 = u64::MAX;

/// The answers of one connection.
#[derive(Clone, Debug)]
pub struct Stalls(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limit: Duration,
    began: Instant,
    running: Mutex<Vec<Weak<Turn>>>,
}

/// Whose turn it is: since when the client could have taken what there is, in milliseconds of the connection's life, or
/// [`OURS`].
#[derive(Debug)]
struct Turn(AtomicU64);

/// A body that notes when it is asked for more.
#[derive(Debug)]
pub struct Watched {
    body: Body,
    turn: Arc<Turn>,
    stalls: Stalls,
}

impl Stalls {
    /// None yet; `limit` is how long a client may take nothing.
    pub fn new(limit: Duration) -> Self {
        Self(Arc::new(Inner { limit, began: Instant::now(), running: Mutex::default() }))
    }

    /// The body of an answer that is about to leave.
    pub fn watch(&self, body: Body) -> Watched {
        let turn = Arc::new(Turn(AtomicU64::new(self.now_ms())));
        let mut running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|turn| turn.strong_count() > 0);
        running.push(Arc::downgrade(&turn));
        Watched { body, turn, stalls: self.clone() }
    }

    /// Waits until a client has taken nothing of an answer for the limit; for ever if that never happens.
    pub async fn found(&self) {
        while !self.is_any(self.now_ms()) {
            tokio::time::sleep(self.0.limit / 4).await;
        }
    }

    fn is_any(&self, now_ms: u64) -> bool {
        let limit_ms = u64::try_from(self.0.limit.as_millis()).unwrap_or(u64::MAX);
        let mut running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|turn| turn.strong_count() > 0);
        let since = running.iter().filter_map(Weak::upgrade).map(|turn| turn.0.load(Ordering::Relaxed));
        since.filter(|since| *since != OURS).any(|since_ms| now_ms.saturating_sub(since_ms) > limit_ms)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.0.began.elapsed().as_millis()).unwrap_or(OURS - 1)
    }
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.turn.0.store(OURS, Ordering::Relaxed);
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if polled.is_ready() {
            self.turn.0.store(self.stalls.now_ms(), Ordering::Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[test]
    fn an_answer_that_nobody_takes_is_found_after_the_limit() {
        let stalls = Stalls::new(LIMIT);
        let _body = stalls.watch(Body::from("bytes"));
        assert!(!stalls.is_any(5_000));
        assert!(stalls.is_any(stalls.now_ms() + 10_001));
    }

    #[tokio::test]
    async fn what_waits_for_us_and_what_has_ended_is_not() {
        let stalls = Stalls::new(LIMIT);
        let mut waiting = stalls.watch(Body::from_stream(futures::stream::pending::<Result<Bytes, axum::Error>>()));
        assert!(futures::poll!(std::pin::pin!(waiting.frame())).is_pending());
        drop(stalls.watch(Body::from("bytes")));
        assert!(!stalls.is_any(u64::MAX - 1));
    }

    #[tokio::test]
    async fn what_was_taken_of_an_answer_starts_the_time_anew() {
        let stalls = Stalls::new(Duration::ZERO);
        let mut body = stalls.watch(Body::from("bytes"));
        body.frame().await.unwrap().unwrap();
        let since_ms = body.turn.0.load(Ordering::Relaxed);
        assert!(!stalls.is_any(since_ms));
        assert!(stalls.is_any(since_ms + 1));
    }
}
