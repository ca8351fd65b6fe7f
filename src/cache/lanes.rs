//! The way to one upstream: turns and pace for those who wait for them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::live::Priority;
use super::pace::Pace;
use super::turns::{Ticket, Turns, Who};
use crate::metrics::Metrics;
use crate::oci::Host;

/// How many transfers from one upstream may run at once, and how fast they may be together.
#[derive(Clone, Copy, Debug)]
pub struct LaneLimits {
    /// Transfers of blobs.
    pub connections_max: usize,
    /// Bytes per second; `None` for as fast as they come.
    pub bytes_per_second_max: Option<u64>,
}

/// Hands out numbers to tell transfers of one blob from those of another.
static NEXT_WHO: AtomicU64 = AtomicU64::new(0);

/// A number nobody else has.
pub(super) fn new_who() -> Who {
    NEXT_WHO.fetch_add(1, Ordering::Relaxed)
}

/// Those who wait, by their tickets. An answer that nobody takes is taken back by who would have got it.
struct Line<Q> {
    queue: Q,
    heard: HashMap<Ticket, oneshot::Sender<()>>,
}

impl<Q> Line<Q> {
    fn new(queue: Q) -> Mutex<Self> {
        Mutex::new(Self { queue, heard: HashMap::new() })
    }

    fn wait(&mut self, ticket: Ticket) -> oneshot::Receiver<()> {
        let (tell, told) = oneshot::channel();
        self.heard.insert(ticket, tell);
        told
    }

    fn tell(&mut self, ticket: Ticket) {
        if let Some(heard) = self.heard.remove(&ticket) {
            let _ = heard.send(());
        }
    }
}

/// The way to one upstream.
pub(super) struct Lanes {
    host: Host,
    metrics: Metrics,
    turns: Mutex<Line<Turns>>,
    pace: Option<Mutex<Line<Pace>>>,
    since: Instant,
}

impl Lanes {
    pub fn new(host: Host, limits: LaneLimits, metrics: Metrics) -> Arc<Self> {
        let turns = Line::new(Turns::new(limits.connections_max.max(1)));
        let pace = limits.bytes_per_second_max.map(|rate| Line::new(Pace::new(rate)));
        let upstream = host.as_str();
        metrics.upstream_limit(upstream, "connections_max", limits.connections_max as u64);
        limits
            .bytes_per_second_max
            .into_iter()
            .for_each(|rate| metrics.upstream_limit(upstream, "bandwidth_max", rate));
        Arc::new(Self { host, metrics, turns, pace, since: Instant::now() })
    }

    /// Waits for a turn. It is in line when this returns, before it is awaited.
    pub fn turn(self: &Arc<Self>, who: Who, priority: Priority) -> impl Future<Output = Turn> + use<> {
        let started = Instant::now();
        let (place, told) = {
            let mut line = self.turns();
            let ticket = line.queue.ask(who, priority);
            let told = line.wait(ticket);
            (Place { lanes: Arc::clone(self), ticket, who, taken: false }, told)
        };
        self.grant();
        async move {
            // The sender is in the line until it is used.
            let _ = told.await;
            place.lanes.metrics.transfer_waited(place.lanes.host.as_str(), priority.as_str(), started.elapsed());
            place.take()
        }
    }

    /// Waits for a turn at most so long, and then goes without.
    pub async fn turn_within(self: &Arc<Self>, who: Who, priority: Priority, patience: Duration) -> Turn {
        if let Ok(turn) = tokio::time::timeout(patience, self.turn(who, priority)).await {
            return turn;
        }
        let mut line = self.turns();
        line.queue.insist(who);
        self.report(&line);
        drop(line);
        Turn { lanes: Arc::clone(self), who }
    }

    /// A client waits for it from now on.
    pub fn raise(&self, who: Who) {
        self.turns().queue.raise(who);
    }

    /// Waits until bytes that came may be taken.
    pub async fn pass(&self, who: Who, priority: Priority, bytes: u64) {
        let Some(pace) = &self.pace else { return };
        let (line, started) = (|| pace.lock().unwrap_or_else(PoisonError::into_inner), Instant::now());
        let mut has_waited = false;
        let (ticket, mut told) = {
            let mut line = line();
            let ticket = line.queue.ask(who, priority, bytes);
            (ticket, line.wait(ticket))
        };
        let _left = scopeguard(|| {
            let mut line = line();
            line.queue.withdraw(ticket);
            line.heard.remove(&ticket);
        });
        loop {
            // Whoever is here lets through whose time has come, be it itself or another.
            let wait = {
                let mut line = line();
                loop {
                    match line.queue.next(self.since.elapsed()) {
                        Some(Ok(ticket)) => line.tell(ticket),
                        Some(Err(wait)) => break wait,
                        None => break Duration::MAX,
                    }
                }
            };
            if told.try_recv().is_ok() || tokio::time::timeout(wait, &mut told).await.is_ok() {
                if has_waited {
                    self.metrics.bandwidth_waited(self.host.as_str(), priority.as_str(), started.elapsed());
                }
                return;
            }
            has_waited = true;
        }
    }

    /// Gives every turn there is.
    fn grant(&self) {
        let mut line = self.turns();
        while let Some(ticket) = line.queue.grant() {
            line.tell(ticket);
        }
        self.report(&line);
    }

    /// With the line in hand: of two that report at once, the one that counted later has the last word.
    fn report(&self, line: &Line<Turns>) {
        self.metrics.transfers(self.host.as_str(), line.queue.n_running(), line.queue.n_waiting());
    }

    fn turns(&self) -> MutexGuard<'_, Line<Turns>> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Lanes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lanes({})", self.host)
    }
}

/// Runs at the end of a scope, however that is left.
fn scopeguard<F: FnMut()>(end: F) -> impl Drop {
    struct End<F: FnMut()>(F);
    impl<F: FnMut()> Drop for End<F> {
        fn drop(&mut self) {
            (self.0)();
        }
    }
    End(end)
}

/// A place in the line, left by whoever stops waiting.
struct Place {
    lanes: Arc<Lanes>,
    ticket: Ticket,
    who: Who,
    taken: bool,
}

impl Place {
    /// Its turn has come.
    fn take(mut self) -> Turn {
        self.taken = true;
        Turn { lanes: Arc::clone(&self.lanes), who: self.who }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.taken {
            return;
        }
        let mut line = self.lanes.turns();
        line.heard.remove(&self.ticket);
        if !line.queue.withdraw(self.ticket) {
            // Its turn had come in this very moment.
            line.queue.release(self.who);
        }
        drop(line);
        self.lanes.grant();
    }
}

/// The right to one transfer. Dropped, the next one has it.
#[derive(Debug)]
pub(super) struct Turn {
    lanes: Arc<Lanes>,
    who: Who,
}

impl Turn {
    /// Should a long transfer give its turn back for a while?
    pub fn is_wanted(&self, priority: Priority) -> bool {
        self.lanes.turns().queue.is_wanted(self.who, priority)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.lanes.turns().queue.release(self.who);
        self.lanes.grant();
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, poll};

    use super::*;
    use Priority::{Client, Prefetch};

    fn lanes(connections_max: usize, bytes_per_second_max: Option<u64>) -> Arc<Lanes> {
        let limits = LaneLimits { connections_max, bytes_per_second_max };
        Lanes::new("hub.example".parse().unwrap(), limits, Metrics::new())
    }

    #[tokio::test]
    async fn a_turn_given_back_goes_to_the_next_in_line_and_who_left_is_not_in_it() {
        let lanes = lanes(1, None);
        let first = lanes.turn(1, Client).await;
        let mut prefetch = Box::pin(lanes.turn(2, Prefetch));
        let mut gone = Box::pin(lanes.turn(3, Client));
        let mut client = Box::pin(lanes.turn(4, Client));
        assert!(poll!(&mut prefetch).is_pending() && poll!(&mut gone).is_pending() && poll!(&mut client).is_pending());
        assert!(first.is_wanted(Client));
        drop(gone);
        drop(first);
        let second = client.now_or_never().expect("it is its turn");
        assert!(poll!(&mut prefetch).is_pending());
        drop(second);
        prefetch.await;
        assert_eq!(lanes.turns().queue.n_running(), 0);
    }

    #[tokio::test]
    async fn a_turn_granted_to_who_leaves_is_granted_again() {
        let lanes = lanes(1, None);
        let first = lanes.turn(1, Client).await;
        let mut gone = Box::pin(lanes.turn(2, Client));
        assert!(poll!(&mut gone).is_pending());
        drop(first);
        drop(gone);
        assert!(lanes.turn(3, Client).now_or_never().is_some());
    }

    #[tokio::test]
    async fn who_has_asked_is_in_line_before_it_waits() {
        let lanes = lanes(1, None);
        let _first = lanes.turn(1, Client).await;
        let second = lanes.turn(2, Client);
        assert_eq!(lanes.turns().queue.n_waiting(), 1);
        drop(second);
        assert_eq!(lanes.turns().queue.n_waiting(), 0);
    }

    #[tokio::test]
    async fn who_cannot_wait_goes_over_the_limit_and_is_counted() {
        let lanes = lanes(1, None);
        let _first = lanes.turn(1, Client).await;
        let second = lanes.turn_within(2, Client, Duration::ZERO).await;
        assert_eq!(lanes.turns().queue.n_running(), 2);
        drop(second);
        assert_eq!(lanes.turns().queue.n_running(), 1);
    }

    #[tokio::test]
    async fn everybody_passes_in_time_and_nobody_before_it() {
        let lanes = lanes(1, Some(1_000_000));
        let started = Instant::now();
        let passing = (0..10).map(|who| lanes.pass(who, Client, 10_000));
        futures::future::join_all(passing).await;
        assert!(started.elapsed() >= Duration::from_millis(90), "{:?}", started.elapsed());
        assert!(lanes.pace.as_ref().unwrap().lock().unwrap().heard.is_empty());
    }
}
