//! Who may use an upstream next: so many transfers at a time, what clients wait for before what is only expected, the first
//! stream of every fill before further pieces of any, and among equals whoever has least. Pure: no clock, no waiting.

use std::cmp::Reverse;
use std::collections::HashMap;

use super::live::Priority;

/// What a transfer is for; all pieces of one fill have the same.
pub(super) type Who = u64;
/// A place in the queue.
pub(super) type Ticket = u64;

#[derive(Clone, Copy, Debug)]
struct Waiting {
    ticket: Ticket,
    who: Who,
    priority: Priority,
}

/// The turns at one upstream.
#[derive(Debug)]
pub(super) struct Turns {
    max: usize,
    running: HashMap<Who, usize>,
    n_running: usize,
    waiting: Vec<Waiting>,
    next_ticket: Ticket,
}

impl Turns {
    pub fn new(max: usize) -> Self {
        Self { max, running: HashMap::new(), n_running: 0, waiting: Vec::new(), next_ticket: 0 }
    }

    pub fn n_running(&self) -> usize {
        self.n_running
    }

    pub fn n_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Gets in line.
    pub fn ask(&mut self, who: Who, priority: Priority) -> Ticket {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.waiting.push(Waiting { ticket, who, priority });
        ticket
    }

    /// Leaves the line. Returns whether it was still there: if not, its turn has come.
    pub fn withdraw(&mut self, ticket: Ticket) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|waiting| waiting.ticket != ticket);
        self.waiting.len() < before
    }

    /// Gives the next turn, if there is one to give and somebody to take it.
    pub fn grant(&mut self) -> Option<Ticket> {
        if self.n_running >= self.max {
            return None;
        }
        let best = self.waiting.iter().enumerate().max_by_key(|(_, waiting)| self.rank(waiting))?.0;
        let Waiting { ticket, who, .. } = self.waiting.swap_remove(best);
        self.start(who);
        Some(ticket)
    }

    /// Takes a turn although there is none.
    pub fn insist(&mut self, who: Who) {
        self.start(who);
    }

    /// A turn ended.
    pub fn release(&mut self, who: Who) {
        if let Some(running) = self.running.get_mut(&who) {
            *running -= 1;
            self.n_running -= 1;
            if *running == 0 {
                self.running.remove(&who);
            }
        }
    }

    /// A client waits for it now.
    pub fn raise(&mut self, who: Who) {
        let its = self.waiting.iter_mut().filter(|waiting| waiting.who == who);
        its.for_each(|waiting| waiting.priority = Priority::Client);
    }

    /// If this one gave its turn back and asked again, would another go before it?
    pub fn is_wanted(&self, who: Who, priority: Priority) -> bool {
        let others = self.running.get(&who).copied().unwrap_or(0).saturating_sub(1);
        let again = (priority, others == 0, Reverse(others), Reverse(self.next_ticket));
        self.n_running >= self.max
            && self.waiting.iter().any(|waiting| waiting.who != who && self.rank(waiting) > again)
    }

    fn start(&mut self, who: Who) {
        *self.running.entry(who).or_default() += 1;
        self.n_running += 1;
    }

    fn rank(&self, waiting: &Waiting) -> (Priority, bool, Reverse<usize>, Reverse<Ticket>) {
        let running = self.running.get(&waiting.who).copied().unwrap_or(0);
        (waiting.priority, running == 0, Reverse(running), Reverse(waiting.ticket))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use Priority::{Client, Prefetch};

    fn all(turns: &mut Turns) -> Vec<Ticket> {
        std::iter::from_fn(|| turns.grant()).collect()
    }

    #[test]
    fn clients_go_before_prefetch_and_first_streams_before_pieces() {
        let mut turns = Turns::new(1);
        turns.insist(9);
        turns.insist(1);
        let prefetch = turns.ask(2, Prefetch);
        let piece = turns.ask(1, Client);
        let first = turns.ask(3, Client);
        assert_eq!(turns.grant(), None);
        let mut order = vec![];
        turns.release(9);
        for _ in 0..3 {
            turns.max += 1;
            order.extend(all(&mut turns));
        }
        assert_eq!(order, [first, piece, prefetch]);
    }

    #[test]
    fn a_large_blob_with_many_pieces_does_not_starve_small_ones() {
        let mut turns = Turns::new(4);
        let large: Vec<Ticket> = (0..8).map(|_| turns.ask(1, Client)).collect();
        assert_eq!(all(&mut turns), large[..4]);
        let small: Vec<Ticket> = (2..5).map(|who| turns.ask(who, Client)).collect();
        for expected in &small {
            turns.release(1);
            assert_eq!(all(&mut turns), [*expected]);
        }
        turns.release(2);
        assert_eq!(all(&mut turns), [large[4]]);
    }

    #[test]
    fn what_a_client_joins_moves_up() {
        let mut turns = Turns::new(0);
        let (one, two) = (turns.ask(1, Prefetch), turns.ask(2, Prefetch));
        turns.raise(2);
        turns.max = 2;
        assert_eq!(all(&mut turns), [two, one]);
    }

    #[test]
    fn a_long_transfer_is_wanted_by_whoever_would_go_before_it() {
        let mut turns = Turns::new(1);
        turns.ask(1, Client);
        turns.grant();
        assert!(!turns.is_wanted(1, Client), "nobody waits");
        let prefetch = turns.ask(2, Prefetch);
        assert!(!turns.is_wanted(1, Client), "prefetch waits for clients");
        assert!(turns.is_wanted(1, Prefetch), "those of one priority take turns");
        assert!(turns.withdraw(prefetch) && !turns.withdraw(prefetch));
        turns.ask(3, Client);
        assert!(turns.is_wanted(1, Client));
    }

    proptest! {
        #[test]
        fn no_more_run_than_may_and_nobody_waits_while_there_is_a_turn(
            max in 1usize..5, steps in prop::collection::vec((0u8..4, 0u64..4), 0..100)
        ) {
            let mut turns = Turns::new(max);
            let mut running: Vec<Who> = vec![];
            let mut whose = HashMap::new();
            for (step, who) in steps {
                match step {
                    0 | 1 => {
                        let priority = if step == 0 { Client } else { Prefetch };
                        whose.insert(turns.ask(who, priority), who);
                    }
                    2 => if let Some(who) = running.pop() { turns.release(who); },
                    _ => turns.raise(who),
                }
                running.extend(all(&mut turns).iter().map(|ticket| whose[ticket]));
                prop_assert!(turns.n_running() == running.len() && running.len() <= max);
                prop_assert!(turns.n_waiting() == 0 || running.len() == max);
            }
            while let Some(who) = running.pop() {
                turns.release(who);
                running.extend(all(&mut turns).iter().map(|ticket| whose[ticket]));
            }
            prop_assert_eq!((turns.n_running(), turns.n_waiting()), (0, 0));
        }
    }
}
