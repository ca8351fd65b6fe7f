//! The bound on short questions in flight to one upstream. Blobs are not bounded here: whose bytes go first is decided
//! by the cache, which knows who waits for them.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::transport::Kind;

/// Who may ask now.
#[derive(Clone)]
pub struct Turns(Arc<Semaphore>);

/// The right to one request, until its answer has been read or dropped.
pub struct Turn {
    _question: Option<OwnedSemaphorePermit>,
}

impl Turns {
    /// So many questions at a time, at least one.
    pub fn new(questions_max: usize) -> Self {
        Self(Arc::new(Semaphore::new(questions_max.clamp(1, Semaphore::MAX_PERMITS))))
    }

    /// Waits for a turn; whoever asks limits the wait. `None` is never seen: nobody closes the semaphore.
    pub async fn take(&self, kind: Kind) -> Option<Turn> {
        let question = match kind {
            Kind::Metadata => Some(Arc::clone(&self.0).acquire_owned().await.ok()?),
            Kind::Blob => None,
        };
        Some(Turn { _question: question })
    }
}
