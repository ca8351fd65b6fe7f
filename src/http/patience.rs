//! A request's body that does not wait for ever: a client that went to sleep in mid-upload would hold its session, its
//! connection and its promise of space.

use std::io;
use std::time::Duration;

use axum::body::Body;
use futures::{StreamExt as _, stream};

/// The same body, which fails when no byte comes for so long.
pub fn patient(body: Body, read_timeout: Duration) -> Body {
    let chunks = stream::try_unfold(body.into_data_stream(), move |mut chunks| async move {
        match tokio::time::timeout(read_timeout, chunks.next()).await {
            Ok(Some(chunk)) => Ok(Some((chunk.map_err(io::Error::other)?, chunks))),
            Ok(None) => Ok(None),
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut)),
        }
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
    async fn a_body_that_comes_is_left_alone() {
        let body = patient(Body::from("bytes"), Duration::from_mins(1));
        assert_eq!(axum::body::to_bytes(body, 10).await.unwrap(), "bytes");
    }
}
