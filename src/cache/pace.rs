//! How fast an upstream's bytes may come: a rate, shared by whoever waits, clients first and then whoever had least. Pure: the
//! time comes from outside.

use std::collections::HashMap;
use std::time::Duration;

use super::live::Priority;
use super::turns::{Ticket, Who};

/// Entries beyond which those that say nothing are dropped.
const HAD_MAX: usize = 256;

#[derive(Clone, Copy, Debug)]
struct Waiting {
    ticket: Ticket,
    who: Who,
    priority: Priority,
    bytes: u64,
}

/// The line at one upstream. Times are since a moment of the caller's choice.
#[derive(Debug)]
pub(super) struct Pace {
    bytes_per_second: u64,
    /// When everything let through so far has had its time.
    free_at: Duration,
    waiting: Vec<Waiting>,
    /// How much each had, counted from what whoever came first had then, so that a latecomer gets no credit.
    had: HashMap<Who, u64>,
    floor: u64,
    next_ticket: Ticket,
}

impl Pace {
    pub fn new(bytes_per_second: u64) -> Self {
        let bytes_per_second = bytes_per_second.max(1);
        let (waiting, had) = (Vec::new(), HashMap::new());
        Self { bytes_per_second, free_at: Duration::ZERO, waiting, had, floor: 0, next_ticket: 0 }
    }

    /// Gets in line with so many bytes.
    pub fn ask(&mut self, who: Who, priority: Priority, bytes: u64) -> Ticket {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.waiting.push(Waiting { ticket, who, priority, bytes });
        ticket
    }

    /// Leaves the line.
    pub fn withdraw(&mut self, ticket: Ticket) {
        self.waiting.retain(|waiting| waiting.ticket != ticket);
    }

    /// Lets the next one through, or says how long nobody may pass; `None` if nobody waits.
    pub fn next(&mut self, now: Duration) -> Option<Result<Ticket, Duration>> {
        let had = |waiting: &Waiting| self.had.get(&waiting.who).copied().unwrap_or(0).max(self.floor);
        let order = |waiting: &Waiting| (std::cmp::Reverse(waiting.priority), had(waiting), waiting.ticket);
        let best = self.waiting.iter().enumerate().min_by_key(|(_, waiting)| order(waiting))?.0;
        let wait = self.free_at.saturating_sub(now);
        if !wait.is_zero() {
            return Some(Err(wait));
        }
        let least = had(&self.waiting[best]);
        let Waiting { ticket, who, bytes, .. } = self.waiting.swap_remove(best);
        self.floor = self.floor.max(least);
        self.had.insert(who, least.saturating_add(bytes));
        if self.had.len() > HAD_MAX {
            self.had.retain(|_, had| *had > self.floor);
        }
        let time_us = u128::from(bytes) * 1_000_000 / u128::from(self.bytes_per_second);
        self.free_at = now + Duration::from_micros(u64::try_from(time_us).unwrap_or(u64::MAX));
        Some(Ok(ticket))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Priority::{Client, Prefetch};

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn bytes_take_their_time() {
        let mut pace = Pace::new(1000);
        assert_eq!(pace.next(Duration::ZERO), None);
        let (one, two) = (pace.ask(1, Client, 500), pace.ask(1, Client, 500));
        assert_eq!(pace.next(Duration::ZERO), Some(Ok(one)));
        assert_eq!(pace.next(Duration::ZERO), Some(Err(SECOND / 2)));
        assert_eq!(pace.next(SECOND / 2), Some(Ok(two)));
        let late = pace.ask(1, Client, 500);
        assert_eq!(pace.next(10 * SECOND), Some(Ok(late)), "idle time is not saved up");
        pace.ask(1, Client, 500);
        assert_eq!(pace.next(10 * SECOND), Some(Err(SECOND / 2)));
    }

    #[test]
    fn a_fill_with_many_pieces_gets_no_more_than_one_with_one() {
        let mut pace = Pace::new(1_000_000);
        let (mut whose, mut got, mut now) = (HashMap::new(), [0, 0], Duration::ZERO);
        for who in [0, 0, 0, 1] {
            whose.insert(pace.ask(who, Client, 100), who);
        }
        for _ in 0..100 {
            now += SECOND;
            let Some(Ok(ticket)) = pace.next(now) else { panic!("a second is enough for 100 bytes") };
            let who = whose[&ticket];
            got[usize::try_from(who).unwrap()] += 100;
            whose.insert(pace.ask(who, Client, 100), who);
        }
        assert_eq!(got, [5000, 5000]);
    }

    #[test]
    fn clients_pass_first_and_a_latecomer_gets_no_credit() {
        let mut pace = Pace::new(1000);
        pace.ask(1, Prefetch, 1);
        let client = pace.ask(2, Client, 1);
        assert_eq!(pace.next(SECOND), Some(Ok(client)));
        for at in 2..50 {
            pace.ask(2, Client, 1);
            pace.next(SECOND * at);
        }
        let mut whose = HashMap::new();
        for who in [2, 3, 3] {
            whose.insert(pace.ask(who, Client, 1), who);
        }
        let order: Vec<Who> = (50..53).map(|at| whose[&pace.next(SECOND * at).unwrap().unwrap()]).collect();
        assert_eq!(order, [3, 2, 3]);
    }
}
