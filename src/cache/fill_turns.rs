//! How many fills may run at once, all upstreams together: the last turn is a client's, so that what nobody waits for yet
//! never takes it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::error::Error;

/// The turns of all fills.
#[derive(Debug)]
pub struct FillTurns {
    turns: Arc<Semaphore>,
    max: usize,
    /// Told whenever a turn is given back.
    given_back: Arc<Notify>,
}

/// The right to run one fill. Dropped, another has it.
#[derive(Debug)]
pub struct FillTurn {
    permit: Option<OwnedSemaphorePermit>,
    given_back: Arc<Notify>,
}

impl FillTurns {
    /// So many of them, at least one.
    pub fn new(max: usize) -> Arc<Self> {
        let max = max.max(1);
        Arc::new(Self { turns: Arc::new(Semaphore::new(max)), max, given_back: Arc::default() })
    }

    /// Waits for a client's turn; `None` if there is none within `patience`.
    pub async fn for_client(&self, patience: Duration) -> Result<Option<FillTurn>, Error> {
        match tokio::time::timeout(patience, Arc::clone(&self.turns).acquire_owned()).await {
            Ok(permit) => Ok(Some(self.turn(permit.map_err(|_| Error::Stopped)?))),
            Err(_) => Ok(None),
        }
    }

    /// A turn for what nobody waits for yet, if one is left for a client besides.
    pub fn try_ahead(&self) -> Option<FillTurn> {
        // Both at once: looking first and taking then would let two take the last two.
        let mut both = Arc::clone(&self.turns).try_acquire_many_owned(2).ok()?;
        drop(both.split(1));
        Some(self.turn(both))
    }

    /// Waits for such a turn, without a place in the line in which clients wait. Where there is one turn in all, that will do.
    pub async fn ahead(&self) -> FillTurn {
        loop {
            let given_back = self.given_back.notified();
            let turn = if self.max == 1 {
                Arc::clone(&self.turns).try_acquire_owned().ok().map(|permit| self.turn(permit))
            } else {
                self.try_ahead()
            };
            match turn {
                Some(turn) => return turn,
                None => given_back.await,
            }
        }
    }

    fn turn(&self, permit: OwnedSemaphorePermit) -> FillTurn {
        FillTurn { permit: Some(permit), given_back: Arc::clone(&self.given_back) }
    }
}

impl Drop for FillTurn {
    fn drop(&mut self) {
        self.permit = None;
        self.given_back.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, poll};

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn the_last_turn_is_a_clients() {
        let turns = FillTurns::new(3);
        let (one, two) = (turns.try_ahead().unwrap(), turns.try_ahead().unwrap());
        assert!(turns.try_ahead().is_none());
        let mut third = Box::pin(turns.ahead());
        assert!(poll!(&mut third).is_pending());
        let client = turns.for_client(SOON).now_or_never().unwrap().unwrap().expect("it was kept for a client");
        assert!(turns.for_client(Duration::ZERO).await.unwrap().is_none());
        drop(one);
        assert!(poll!(&mut third).is_pending(), "that is the last one again");
        drop(client);
        third.await;
        drop(two);
    }

    #[tokio::test]
    async fn a_client_in_line_goes_before_whoever_waits_ahead() {
        let turns = FillTurns::new(2);
        let (one, two) = (turns.for_client(SOON).await.unwrap(), turns.for_client(SOON).await.unwrap());
        let mut ahead = Box::pin(turns.ahead());
        let mut client = Box::pin(turns.for_client(SOON));
        assert!(poll!(&mut ahead).is_pending() && poll!(&mut client).is_pending());
        drop((one, two));
        assert!(poll!(&mut ahead).is_pending());
        assert!(client.await.unwrap().is_some());
        ahead.await;
    }

    #[tokio::test]
    async fn where_there_is_one_turn_it_is_lent() {
        let turns = FillTurns::new(1);
        assert!(turns.try_ahead().is_none());
        let lent = turns.ahead().now_or_never().expect("nobody has it");
        assert!(turns.for_client(Duration::ZERO).await.unwrap().is_none());
        drop(lent);
        assert!(turns.for_client(SOON).await.unwrap().is_some());
    }
}
