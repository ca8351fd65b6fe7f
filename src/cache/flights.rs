//! Single flight: however many ask the same question at once, it is put once, and the answer outlives whoever asked first.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use tokio::sync::oneshot;

type Answer<V> = Shared<BoxFuture<'static, Option<V>>>;

/// Runs what must not stop half-way to its end, also when the client for whom it was begun leaves. `None` only if it panicked.
pub async fn to_the_end<T: Send + 'static>(job: impl Future<Output = T> + Send + 'static) -> Option<T> {
    #[expect(clippy::disallowed_methods, reason = "a change of the store belongs to the server once it has begun")]
    tokio::spawn(job).await.ok()
}

/// The questions under way. Each runs on a task of its own, so that no client's leaving ends it.
pub struct Flights<K, V> {
    under_way: Arc<Mutex<HashMap<K, Answer<V>>>>,
}

/// Whether this caller's question was put, or joined one under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The question was put for this caller.
    Led,
    /// Somebody else's was under way.
    Followed,
}

impl<K, V> Default for Flights<K, V> {
    /// None under way.
    fn default() -> Self {
        Self { under_way: Arc::default() }
    }
}

impl<K: Hash + Eq + Clone + Send + 'static, V: Clone + Send + Sync + 'static> Flights<K, V> {
    /// The answer to `key`, from a question under way or from `ask`. `None` only if answering panicked.
    pub async fn run<F>(&self, key: K, ask: impl FnOnce() -> F) -> (Option<V>, Role)
    where
        F: Future<Output = V> + Send + 'static,
    {
        let (answer, role) = self.join(key, ask);
        (answer.await, role)
    }

    /// Puts the question without waiting for the answer, unless it is under way.
    pub fn begin<F>(&self, key: K, ask: impl FnOnce() -> F)
    where
        F: Future<Output = V> + Send + 'static,
    {
        drop(self.join(key, ask));
    }

    fn join<F>(&self, key: K, ask: impl FnOnce() -> F) -> (Answer<V>, Role)
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = under_way.get(&key) {
            return (answer.clone(), Role::Followed);
        }
        let (sender, receiver) = oneshot::channel();
        let answer: Answer<V> = receiver.map(Result::ok).boxed().shared();
        under_way.insert(key.clone(), answer.clone());
        drop(under_way);
        let landing = Landing { under_way: Arc::clone(&self.under_way), key };
        let question = ask();
        #[expect(clippy::disallowed_methods, reason = "the answer must outlive the client that asked first")]
        tokio::spawn(async move {
            let value = question.await;
            // Whoever asks from here on asks anew; those who asked before get this answer.
            drop(landing);
            let _ = sender.send(value);
        });
        (answer, Role::Led)
    }
}

/// Takes the question off the table, also when answering it panicked.
struct Landing<K: Hash + Eq, V: Clone> {
    under_way: Arc<Mutex<HashMap<K, Answer<V>>>>,
    key: K,
}

impl<K: Hash + Eq, V: Clone> Drop for Landing<K, V> {
    fn drop(&mut self) {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn a_thousand_askers_put_one_question() {
        let flights = Flights::default();
        let (asked, gate) = (Arc::new(AtomicU32::new(0)), Arc::new(Semaphore::new(0)));
        let askers = (0..1000).map(|_| {
            flights.run("tag", || {
                let (asked, gate) = (Arc::clone(&asked), Arc::clone(&gate));
                async move {
                    asked.fetch_add(1, Ordering::Relaxed);
                    let _passed = gate.acquire().await;
                    42
                }
            })
        });
        let all = futures::future::join_all(askers);
        let open = async { gate.add_permits(1) };
        let (answers, ()) = futures::join!(all, open);
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        assert!(answers.iter().all(|(answer, _)| *answer == Some(42)));
        assert_eq!(answers.iter().filter(|(_, role)| *role == Role::Led).count(), 1);
    }

    #[tokio::test]
    async fn the_answer_outlives_the_asker_who_left() {
        let flights = Flights::default();
        let gate = Arc::new(Semaphore::new(0));
        let question = || {
            let gate = Arc::clone(&gate);
            async move {
                let _passed = gate.acquire().await;
                7
            }
        };
        {
            let mut first = std::pin::pin!(flights.run(1, question));
            assert!(futures::poll!(&mut first).is_pending());
        }
        gate.add_permits(1);
        assert_eq!(flights.run(1, || async { 8 }).await, (Some(7), Role::Followed));
    }

    #[tokio::test]
    async fn a_panic_answers_nobody_and_blocks_nobody() {
        let flights: Flights<u8, u8> = Flights::default();
        assert_eq!(flights.run(1, || async { panic!("on purpose") }).await.0, None);
        assert_eq!(flights.run(1, || async { 2 }).await.0, Some(2));
    }
}
