//! A request's body that does not wait for ever: a client that went to sleep in mid-upload would hold its session, its
//! connection and its promise of space.

use std::io;
use std::time::Duration;

use axum::body::Body;
use futures::{StreamExt as _, stream};
use tokio::time::{Instant, timeout};

/// What has to come within the time: a client that sends a byte now and then is as bad as one that sends none.
const PROGRESS_BYTES_MIN: usize = 1024;

/// The same body, which fails when less than [`PROGRESS_BYTES_MIN`] comes while it is waited for so long. Time that we take
/// ourselves does not count.
pub fn patient(body: Body, read_timeout: Duration) -> Body {
    let begin = (body.into_data_stream(), Duration::ZERO, 0);
    let chunks = stream::try_unfold(begin, move |(mut chunks, mut waited, mut came_bytes)| async move {
        let asked = Instant::now();
        let left = read_timeout.saturating_sub(waited);
        let chunk = match timeout(left, chunks.next()).await {
            Ok(Some(chunk)) => chunk.map_err(io::Error::other)?,
            Ok(None) => return Ok(None),
            Err(_) => return Err(io::Error::from(io::ErrorKind::TimedOut)),
        };
        came_bytes += chunk.len();
        waited += asked.elapsed();
        if came_bytes >= PROGRESS_BYTES_MIN {
            (waited, came_bytes) = (Duration::ZERO, 0);
        }
        Ok(Some((chunk, (chunks, waited, came_bytes))))
    });
    Body::from_stream(chunks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_that_stops_coming_fails() {
        let silent = Body::from_stream(stream::pending::<io::Result<bytes::Bytes>>());
        let mut chunks = patient(silent, Duration::from_millis(1)).into_data_stream();
        assert!(chunks.next().await.unwrap().is_err());
    }

    #[tokio::test]
    async fn a_body_that_drips_fails() {
        let drops = stream::repeat(bytes::Bytes::from_static(b"x")).then(|drop| async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            io::Result::Ok(drop)
        });
        let mut chunks = patient(Body::from_stream(drops), Duration::from_millis(20)).into_data_stream();
        let mut came = 0;
        while let Some(Ok(chunk)) = chunks.next().await {
            came += chunk.len();
        }
        assert!(came < PROGRESS_BYTES_MIN, "{came}");
    }

    #[tokio::test]
    async fn a_body_that_comes_is_left_alone() {
        let body = patient(Body::from("bytes"), Duration::from_mins(1));
        assert_eq!(axum::body::to_bytes(body, 10).await.unwrap(), "bytes");
    }
}
