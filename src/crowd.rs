//! How much of something each client has: connections, passwords that are being checked.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// Counts by client.
#[derive(Debug)]
pub struct Crowd {
    each_max: usize,
    /// Only who has some is in here, so there are never more entries than seats.
    present: Mutex<HashMap<IpAddr, usize>>,
}

/// The right to one more, given back when dropped.
#[derive(Debug)]
pub struct Seat {
    crowd: Arc<Crowd>,
    client: IpAddr,
}

impl Crowd {
    /// So many for each; 0 for any number.
    pub fn new(each_max: usize) -> Self {
        Self { each_max, present: Mutex::default() }
    }

    /// One more of this client, unless it has too many.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Seat> {
        let client = one_client(address);
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        let number = present.entry(client).or_default();
        if self.each_max > 0 && *number >= self.each_max {
            return None;
        }
        *number += 1;
        Some(Seat { crowd: Arc::clone(self), client })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut present = self.crowd.present.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = present.get_mut(&self.client) {
            *number -= 1;
            if *number == 0 {
                present.remove(&self.client);
            }
        }
    }
}

/// All addresses that one client can have as easily as one: a subscriber to IPv6 has a network of 64 bits.
pub fn one_client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_its_own_number() {
        let crowd = Arc::new(Crowd::new(2));
        let enter = |address: &str| crowd.enter(address.parse().unwrap());
        let first = enter("192.0.2.1");
        let _second = enter("::ffff:192.0.2.1");
        assert!(enter("192.0.2.1").is_none());
        let _other = enter("192.0.2.2").unwrap();
        drop(first);
        let _again = enter("192.0.2.1").unwrap();
        assert!(enter("192.0.2.1").is_none());
    }

    #[test]
    fn one_network_of_64_bits_is_one_client() {
        let crowd = Arc::new(Crowd::new(1));
        let _first = crowd.enter("2001:db8:0:1::1".parse().unwrap()).unwrap();
        assert!(crowd.enter("2001:db8:0:1:ffff::1".parse().unwrap()).is_none());
        assert!(crowd.enter("2001:db8:0:2::1".parse().unwrap()).is_some());
    }

    #[test]
    fn who_has_left_is_forgotten() {
        let crowd = Arc::new(Crowd::new(0));
        let seats: Vec<Seat> = (0..100).map(|_| crowd.enter("192.0.2.1".parse().unwrap()).unwrap()).collect();
        drop(seats);
        assert!(crowd.present.lock().unwrap().is_empty());
    }
}
