//! How many requests a client may send: a bucket of tokens each, kept as the one moment at which it would be full again
//! (the generic cell rate algorithm).

use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use moka::sync::Cache;
use tracing::debug;

use super::forwarded::Client;
use super::request::Arrived;
use super::{ApiError, AppState};
use crate::crowd::one_client;

/// Serves a request, unless its client has sent too many.
pub async fn limited(State(app): State<AppState>, request: Request, next: Next) -> Response {
    let client = request.extensions().get::<Arrived>().map(|arrived| &arrived.client);
    match client.and_then(|client| refused(&app, client, request.uri().path())) {
        Some(refused) => refused,
        None => next.run(request).await,
    }
}

/// Counts a request. The answer to it, if its client has sent too many.
pub fn refused(app: &AppState, client: &Client, path: &str) -> Option<Response> {
    let rate = app.rate.as_ref()?;
    let client = client.limited_as()?;
    let wait = rate.take(client, Instant::now()).err()?;
    app.metrics.refused("http.requests_per_second_max");
    debug!(%client, path, "too many requests");
    Some(ApiError::too_many_requests(wait).into_response())
}

/// Clients remembered; those longest not seen are forgotten first, which is as if they had never asked.
const CLIENTS_MAX: u64 = 100_000;

/// The limit on requests.
#[derive(Debug)]
pub struct Rate {
    /// Between two requests in the long run.
    interval: Duration,
    /// How far ahead of that a client may be.
    tolerance: Duration,
    /// When each client's bucket is full again.
    full_at: Cache<IpAddr, Arc<Mutex<Instant>>>,
}

impl Rate {
    /// So many in a second, and so many at once, each at least 1; no limit for 0 in a second.
    pub fn new(per_second_max: u32, burst_max: u32) -> Option<Self> {
        let interval = Duration::from_secs(1).checked_div(per_second_max)?;
        let tolerance = interval.saturating_mul(burst_max.saturating_sub(1));
        // A bucket that is full says no more than none.
        let idle = tolerance.saturating_add(interval).max(Duration::from_secs(1));
        let full_at = Cache::builder().max_capacity(CLIENTS_MAX).time_to_idle(idle).build();
        Some(Self { interval, tolerance, full_at })
    }

    /// Takes one token of this client, or says how long until there is one.
    pub fn take(&self, client: IpAddr, now: Instant) -> Result<(), Duration> {
        let full_at = self.full_at.get_with(one_client(client), || Arc::new(Mutex::new(now)));
        let mut full_at = full_at.lock().unwrap_or_else(PoisonError::into_inner);
        let ahead = full_at.saturating_duration_since(now);
        let wait = ahead.saturating_sub(self.tolerance);
        if !wait.is_zero() {
            return Err(wait);
        }
        *full_at = now + ahead + self.interval;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: [u8; 4] = [192, 0, 2, 1];
    const B: [u8; 4] = [192, 0, 2, 2];

    #[test]
    fn a_burst_passes_and_then_one_an_interval() {
        let rate = Rate::new(10, 5).unwrap();
        let start = Instant::now();
        for n in 0..5 {
            assert_eq!(rate.take(A.into(), start), Ok(()), "{n}");
        }
        assert_eq!(rate.take(A.into(), start), Err(Duration::from_millis(100)));
        assert_eq!(rate.take(B.into(), start), Ok(()), "others have buckets of their own");
        assert_eq!(rate.take(A.into(), start + Duration::from_millis(40)), Err(Duration::from_millis(60)));
        assert_eq!(rate.take(A.into(), start + Duration::from_millis(100)), Ok(()));
        assert!(rate.take(A.into(), start + Duration::from_millis(100)).is_err());
    }

    #[test]
    fn a_pause_fills_the_bucket_and_no_more() {
        let rate = Rate::new(10, 5).unwrap();
        let start = Instant::now();
        for _ in 0..5 {
            rate.take(A.into(), start).unwrap();
        }
        let later = start + Duration::from_mins(1);
        let passed = (0..20).filter(|_| rate.take(A.into(), later).is_ok()).count();
        assert_eq!(passed, 5);
    }

    #[test]
    fn zero_in_a_second_is_no_limit() {
        assert!(Rate::new(0, 5).is_none());
    }
}
