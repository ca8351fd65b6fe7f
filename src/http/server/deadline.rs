//! The deadline of a request's head, of which a connection has one after the other.
//!
//! hyper wants a timer for each head and drops it when the head is there: two changes a request to the table of timers that
//! all cores share, for something that nearly never happens. Here a connection has one alarm, which stays set: if it
//! goes off before the deadline that is current, it is set anew for that one.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};
use tokio::time::sleep_until;

type Alarm = Arc<Mutex<Option<Pin<Box<tokio::time::Sleep>>>>>;

/// The timer of one connection, for one deadline at a time.
#[derive(Clone, Debug, Default)]
pub struct Deadlines(Alarm);

/// Waits for a deadline.
#[derive(Debug)]
struct Deadline {
    at: tokio::time::Instant,
    alarm: Alarm,
}

impl Timer for Deadlines {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(Deadline { at: deadline.into(), alarm: Arc::clone(&self.0) })
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }
}

impl Sleep for Deadline {}

impl Future for Deadline {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut alarm = self.alarm.lock().unwrap_or_else(PoisonError::into_inner);
        let alarm = alarm.get_or_insert_with(|| Box::pin(sleep_until(self.at)));
        if alarm.deadline() > self.at {
            alarm.as_mut().reset(self.at);
        }
        loop {
            ready!(alarm.as_mut().poll(cx));
            if alarm.deadline() >= self.at {
                return Poll::Ready(());
            }
            alarm.as_mut().reset(self.at);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::poll;

    use super::*;

    const SOON: Duration = Duration::from_millis(5);

    #[tokio::test]
    async fn a_later_deadline_is_kept_by_the_alarm_of_an_earlier_one() {
        let deadlines = Deadlines::default();
        let begin = deadlines.now();
        let mut first = deadlines.sleep(SOON);
        assert!(poll!(first.as_mut()).is_pending());
        drop(first);
        deadlines.sleep(3 * SOON).await;
        assert!(deadlines.now() >= begin + 3 * SOON);
    }

    #[tokio::test]
    async fn an_earlier_deadline_is_kept_although_the_alarm_is_set_for_a_later_one() {
        let deadlines = Deadlines::default();
        let mut first = deadlines.sleep(Duration::from_hours(1));
        assert!(poll!(first.as_mut()).is_pending());
        for _ in 0..2 {
            tokio::time::timeout(Duration::from_mins(1), deadlines.sleep(SOON)).await.unwrap();
        }
    }
}
