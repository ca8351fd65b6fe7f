//! The bodies of answers: nothing, a few bytes, or a range of a blob.
//!
//! A blob's range leaves in pieces, one at a time, whichever way the connection allows (see [`Transport`]); how a
//! piece is come by is in [`pieces`]. A slow client therefore holds one piece, and on the `sendfile` way no memory
//! for it.

mod pieces;

use std::fmt;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio_util::sync::ReusableBoxFuture;

use super::sendfile::Mappings;
use crate::registry::{BlobReader, Progress};
use pieces::Pieces;

/// How the bytes of a file get to the client.
#[derive(Clone, Debug)]
pub enum Transport {
    /// By `sendfile(2)`, through mappings registered with the connection.
    Sendfile(Arc<Mappings>),
    /// Through memory: TLS and HTTP/2 change the bytes on their way.
    Copy,
}

impl Transport {
    /// The best way for the answer to a request of this version, over a connection with this table if it has one.
    pub fn of(version: http::Version, mappings: Option<Arc<Mappings>>) -> Self {
        match mappings {
            Some(mappings) if version <= http::Version::HTTP_11 => Self::Sendfile(mappings),
            _ => Self::Copy,
        }
    }
}

/// Why a blob's body ended before its end. The connection ends with it, so that the client cannot take it for complete.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the fill of the blob failed: {reason}")]
    FillFailed { reason: Arc<str> },
    #[error("the fill of the blob ended without an outcome")]
    FillAbandoned,
    #[error("the blob ended at byte {at_byte}, before the end of what was promised")]
    Short { at_byte: u64 },
    #[error("the blob was found to be damaged")]
    Condemned,
    #[error("reading the blob at byte {at_byte} failed")]
    Read { at_byte: u64, source: io::Error },
}

impl From<BodyError> for io::Error {
    fn from(error: BodyError) -> Self {
        let kind = match &error {
            BodyError::FillFailed { .. } | BodyError::FillAbandoned | BodyError::Condemned => io::ErrorKind::Other,
            BodyError::Short { .. } => io::ErrorKind::UnexpectedEof,
            BodyError::Read { source, .. } => source.kind(),
        };
        Self::new(kind, error)
    }
}

/// A range of a blob on its way out. It follows a fill that is still going on, and keeps the blob pinned while it
/// lives.
pub struct FileBody {
    /// What is still to come; `None` while the end is not known.
    remaining_bytes: Option<u64>,
    state: State,
    /// The one allocation for all the futures that [`State::Reading`] goes through; made with the first.
    reading: Option<ReusableBoxFuture<'static, Read>>,
}

type Read = (Pieces, Result<Option<Bytes>, BodyError>);

enum State {
    Idle(Pieces),
    Reading,
    Ended,
}

impl FileBody {
    /// All of `blob`.
    pub fn whole(blob: BlobReader, transport: Transport) -> Self {
        let end = blob.size_bytes;
        Self::new(blob, 0, end, transport)
    }

    /// The bytes `range` of `blob`, whose end the caller has checked against the size, if there is one.
    pub fn range(blob: BlobReader, range: Range<u64>, transport: Transport) -> Self {
        Self::new(blob, range.start, Some(range.end), transport)
    }

    fn new(blob: BlobReader, start_byte: u64, end_byte: Option<u64>, transport: Transport) -> Self {
        debug_assert!(end_byte.is_some() || matches!(blob.progress, Progress::Growing(_)), "a whole blob has a size");
        Self {
            remaining_bytes: end_byte.map(|end| end.saturating_sub(start_byte)),
            state: State::Idle(Pieces::new(blob, start_byte, end_byte, transport)),
            reading: None,
        }
    }

    /// Starts reading the next piece, unless that is under way. `None` when the body has ended.
    fn reading(&mut self) -> Option<&mut ReusableBoxFuture<'static, Read>> {
        match std::mem::replace(&mut self.state, State::Reading) {
            State::Reading => {}
            State::Ended => {
                self.state = State::Ended;
                return None;
            }
            State::Idle(mut pieces) => {
                let read = async move {
                    let piece = pieces.next().await;
                    (pieces, piece)
                };
                match &mut self.reading {
                    Some(reading) => reading.set(read),
                    reading @ None => *reading = Some(ReusableBoxFuture::new(read)),
                }
            }
        }
        self.reading.as_mut()
    }
}

impl http_body::Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        if this.is_end_stream() {
            return Poll::Ready(None);
        }
        let Some(reading) = this.reading() else { return Poll::Ready(None) };
        let (pieces, piece) = ready!(reading.poll(cx));
        this.state = State::Ended;
        Poll::Ready(match piece {
            Ok(Some(bytes)) => {
                this.state = State::Idle(pieces);
                this.remaining_bytes = this.remaining_bytes.map(|left| left.saturating_sub(bytes.len() as u64));
                Some(Ok(Frame::data(bytes)))
            }
            Ok(None) => None,
            Err(error) => Some(Err(error.into())),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.remaining_bytes == Some(0) || matches!(self.state, State::Ended)
    }

    fn size_hint(&self) -> SizeHint {
        self.remaining_bytes.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl fmt::Debug for FileBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileBody").field("remaining_bytes", &self.remaining_bytes).finish_non_exhaustive()
    }
}

/// The body of an answer.
#[derive(Debug)]
pub struct Body(axum::body::Body);

impl Body {
    pub fn empty() -> Self {
        Self(axum::body::Body::empty())
    }

    pub fn full(bytes: Bytes) -> Self {
        Self(axum::body::Body::from(bytes))
    }

    pub fn file(file: FileBody) -> Self {
        Self(axum::body::Body::new(file))
    }
}

impl From<Body> for axum::body::Body {
    fn from(body: Body) -> Self {
        body.0
    }
}

impl IntoResponse for Body {
    fn into_response(self) -> Response {
        Response::new(self.0)
    }
}

#[cfg(test)]
mod tests;
