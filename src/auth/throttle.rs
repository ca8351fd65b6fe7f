//! Who fails to sign in again and again is made to wait, longer each time: by name and client together, so that nobody
//! locks somebody else out. A client that fails with one name after the other is slowed down as a whole, to a pace at which
//! guessing leads nowhere and whoever shares its address still gets in.

use std::net::IpAddr;
use std::time::Duration;

use moka::sync::Cache;

use crate::crowd::one_client;

/// Names and addresses remembered at most.
pub(super) const ENTRIES_MAX: u64 = 10_000;
/// A failure is forgotten so long after the last one.
const FORGOTTEN_AFTER: Duration = Duration::from_mins(15);
/// Failures that cost nothing: people mistype.
const FREE: u32 = 5;
/// Nobody waits longer than this.
const WAIT_MAX: Duration = Duration::from_mins(5);
/// The same of a client as a whole: many people may have one address.
const CLIENT_FREE: u32 = 50;
const CLIENT_WAIT_MAX: Duration = Duration::from_secs(2);

/// Whose failures are counted: those of a name, or of whatever name, from a client.
type Key = (Option<String>, Option<IpAddr>);

#[derive(Clone, Copy, Debug, Default)]
struct Failures {
    count: u32,
    /// Unix milliseconds.
    until_ms: i64,
}

/// The failures of the last minutes.
#[derive(Debug)]
pub(super) struct Throttle {
    failures: Cache<Key, Failures>,
}

impl Throttle {
    /// Nobody has failed yet.
    pub fn new() -> Self {
        Self { failures: Cache::builder().max_capacity(ENTRIES_MAX).time_to_idle(FORGOTTEN_AFTER).build() }
    }

    /// How long this one has to wait before it may try again.
    pub fn wait(&self, name: &str, address: Option<IpAddr>, now_ms: i64) -> Option<Duration> {
        let waits = keys(name, address).into_iter().flatten().filter_map(|key| {
            let until_ms = self.failures.get(&key)?.until_ms;
            let wait_ms = u64::try_from(until_ms.saturating_sub(now_ms)).ok().filter(|wait_ms| *wait_ms > 0)?;
            Some(Duration::from_millis(wait_ms))
        });
        waits.max()
    }

    /// It failed.
    pub fn failed(&self, name: &str, address: Option<IpAddr>, now_ms: i64) {
        for key in keys(name, address).into_iter().flatten() {
            let (free, wait_max) = if key.0.is_some() { (FREE, WAIT_MAX) } else { (CLIENT_FREE, CLIENT_WAIT_MAX) };
            self.failures.entry(key).and_upsert_with(|entry| {
                let count = entry.map_or(0, |entry| entry.into_value().count).saturating_add(1);
                Failures { count, until_ms: now_ms.saturating_add(wait_ms_after(count, free, wait_max)) }
            });
        }
    }

    /// It knew the password. What else its client tried counts on.
    pub fn succeeded(&self, name: &str, address: Option<IpAddr>) {
        self.failures.invalidate(&(Some(name.to_owned()), address.map(one_client)));
    }
}

fn keys(name: &str, address: Option<IpAddr>) -> [Option<Key>; 2] {
    let client = address.map(one_client);
    [Some((Some(name.to_owned()), client)), client.map(|client| (None, Some(client)))]
}

fn wait_ms_after(failures: u32, free: u32, wait_max: Duration) -> i64 {
    let Some(beyond) = failures.checked_sub(free) else { return 0 };
    let wait = Duration::from_secs(1_u64.checked_shl(beyond).unwrap_or(u64::MAX)).min(wait_max);
    i64::try_from(wait.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_beyond_the_free_ones_doubles_the_wait_up_to_a_bound() {
        let waits: Vec<i64> =
            [1, 4, 5, 6, 7, 13, 14, 200].map(|failures| wait_ms_after(failures, FREE, WAIT_MAX)).to_vec();
        assert_eq!(waits, [0, 0, 1_000, 2_000, 4_000, 256_000, 300_000, 300_000]);
    }

    #[test]
    fn only_who_failed_waits_and_only_from_there() {
        let throttle = Throttle::new();
        let (here, there) = (Some("10.0.0.1".parse().unwrap()), Some("10.0.0.2".parse().unwrap()));
        for _ in 0..5 {
            assert_eq!(throttle.wait("alice", here, 1_000), None);
            throttle.failed("alice", here, 1_000);
        }
        assert_eq!(throttle.wait("alice", here, 1_400), Some(Duration::from_millis(600)));
        assert_eq!(throttle.wait("alice", here, 2_000), None);
        assert_eq!(throttle.wait("alice", there, 1_400), None);
        assert_eq!(throttle.wait("bob", here, 1_400), None);
        throttle.succeeded("alice", here);
        assert_eq!(throttle.wait("alice", here, 1_400), None);
    }

    #[test]
    fn a_network_of_64_bits_is_one_client_and_a_client_of_many_names_is_slowed_as_a_whole() {
        let throttle = Throttle::new();
        let (one, other) = (Some("2001:db8::1".parse().unwrap()), Some("2001:db8::ffff:2".parse().unwrap()));
        for _ in 0..5 {
            throttle.failed("alice", one, 0);
        }
        assert!(throttle.wait("alice", other, 0).is_some(), "another address of the same network");
        for name in 5..49 {
            throttle.failed(&format!("n{name}"), one, 0);
        }
        assert_eq!(throttle.wait("bob", other, 0), None);
        throttle.failed("n49", one, 0);
        assert_eq!(throttle.wait("bob", other, 0), Some(Duration::from_secs(1)));
        for name in 50..200 {
            throttle.failed(&format!("n{name}"), one, 0);
        }
        assert_eq!(throttle.wait("bob", one, 0), Some(CLIENT_WAIT_MAX), "nobody who shares the address is locked out");
        let elsewhere = Some("2001:db8:1::1".parse().unwrap());
        assert_eq!(throttle.wait("bob", elsewhere, 0), None);
    }
}
