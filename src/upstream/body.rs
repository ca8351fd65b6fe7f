//! The body of an answer, read piece by piece with a limit on the wait for each.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::Fetch;
use super::answer::{Answer, Part};
use super::error::{Asked, Error, Nonsense, Wait};
use super::redact::SafeUrl;
use super::sources::{Origin, Source};
use super::turns::Turn;

/// A body being read, and where in the content it stands.
pub struct Body {
    request: Asked,
    /// Large, and bodies are moved about.
    response: Box<reqwest::Response>,
    no_progress_timeout: Duration,
    position: u64,
    /// Offset after the last byte that has to come, if known.
    end: Option<u64>,
    finished: bool,
    /// The right to read it.
    _turn: Option<Turn>,
}

impl Body {
    /// The whole of an answer's body.
    pub fn of(answer: Answer, no_progress_timeout: Duration) -> Self {
        let end = answer.length_bytes();
        Self::part(answer, no_progress_timeout, 0, end)
    }

    fn part(answer: Answer, no_progress_timeout: Duration, position: u64, end: Option<u64>) -> Self {
        let Answer { request, response, turn, .. } = answer;
        Self { request, response: Box::new(response), no_progress_timeout, position, end, finished: false, _turn: turn }
    }

    /// The next bytes, none at the end. Cancelling loses nothing.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        while !self.finished {
            let piece = match tokio::time::timeout(self.no_progress_timeout, self.response.chunk()).await {
                Ok(Ok(piece)) => piece,
                Ok(Err(source)) => return Err(self.cut(Some(Arc::new(source.without_url())))),
                Err(_) => return Err(self.stalled()),
            };
            let Some(piece) = piece else {
                self.finished = true;
                break;
            };
            self.position += piece.len() as u64;
            if self.end.is_some_and(|end| self.position > end) {
                return Err(Error::Nonsense { request: self.request.clone(), what: Nonsense::Length });
            }
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
        }
        if self.end.is_some_and(|end| self.position < end) { Err(self.cut(None)) } else { Ok(None) }
    }

    /// All that is left, if it is not more than `max_bytes`.
    pub async fn read(mut self, max_bytes: usize) -> Result<Bytes, Error> {
        let too_large = |request: &Asked| {
            let what = Nonsense::TooLarge { max_bytes: max_bytes as u64 };
            Error::Nonsense { request: request.clone(), what }
        };
        if self.end.is_some_and(|end| end > max_bytes as u64) {
            return Err(too_large(&self.request));
        }
        let mut all = BytesMut::new();
        while let Some(piece) = self.next().await? {
            if all.len() + piece.len() > max_bytes {
                return Err(too_large(&self.request));
            }
            all.extend_from_slice(&piece);
        }
        Ok(all.freeze())
    }

    fn cut(&self, source: Option<Arc<reqwest::Error>>) -> Error {
        Error::Cut { request: self.request.clone(), at: self.position, source }
    }

    fn stalled(&self) -> Error {
        Error::TimedOut { request: self.request.clone(), what: Wait::Progress, after: self.no_progress_timeout }
    }
}

/// A blob, or a part of one, as it comes from the upstream. Not verified.
pub struct BlobStream {
    /// Length of the whole blob, if the upstream said so.
    pub total_bytes: Option<u64>,
    /// Offset in the blob of the first byte that comes: 0 if the upstream ignored the range, and then the caller skips.
    pub start: u64,
    body: Body,
    from: Arc<Source>,
}

impl BlobStream {
    /// Checks the answer's head against what was asked for (RFC 9110, sections 14 and 15.3.7).
    pub(super) fn open(
        answer: Answer,
        asked: Fetch,
        no_progress_timeout: Duration,
        from: Arc<Source>,
    ) -> Result<Self, Error> {
        let length_bytes = answer.length_bytes();
        if answer.response.status().as_u16() != 206 {
            let body = Body::part(answer, no_progress_timeout, 0, length_bytes);
            return Ok(Self { total_bytes: length_bytes, start: 0, body, from });
        }
        let value = answer.response.headers().get(reqwest::header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
        let part = covering(asked, value.and_then(Part::parse), length_bytes)
            .map_err(|what| Error::Nonsense { request: answer.request.clone(), what })?;
        let body = Body::part(answer, no_progress_timeout, part.first, Some(part.last + 1));
        Ok(Self { total_bytes: part.total_bytes, start: part.first, body, from })
    }

    /// The next bytes, none at the end. A body shorter than announced is [`Error::Cut`] with the offset in the blob at
    /// which to go on; no bytes for `no_progress_timeout` is [`Error::TimedOut`]. Cancelling loses nothing.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let next = self.body.next().await;
        if let Err(error) = &next {
            self.from.failed(error);
        }
        next
    }

    /// Who sends it.
    pub fn origin(&self) -> Origin {
        Origin(Arc::clone(&self.from))
    }

    /// Which source of the upstream it comes from.
    pub fn source(&self) -> &SafeUrl {
        self.from.url()
    }

    /// Offset in the blob of the next byte to come.
    pub fn position(&self) -> u64 {
        self.body.position
    }
}

/// The part announced, if it is the one asked for: a server may send less, but then the caller would take its end for
/// the end of the blob.
fn covering(asked: Fetch, announced: Option<Part>, length_bytes: Option<u64>) -> Result<Part, Nonsense> {
    let (first, last) = match asked {
        Fetch::Whole => return Err(Nonsense::PartialUnasked),
        Fetch::From(first) => (first, u64::MAX),
        Fetch::Between { first, last } => (first, last),
    };
    let part = announced.ok_or(Nonsense::ContentRange)?;
    // Without a total only the last byte asked for can tell whether this is all.
    let wanted_last = part.total_bytes.map_or(part.last, |total| last.min(total - 1));
    if part.first != first || part.last != wanted_last || part.last > last {
        return Err(Nonsense::ContentRange);
    }
    // `last` of the largest number would make a length that is none.
    let length = part.last.checked_add(1).ok_or(Nonsense::ContentRange)? - part.first;
    if length_bytes.is_some_and(|announced| announced != length) { Err(Nonsense::Length) } else { Ok(part) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(asked: Fetch, header: &str, length_bytes: Option<u64>) -> Result<Part, Nonsense> {
        covering(asked, Part::parse(header), length_bytes)
    }

    #[test]
    fn a_part_that_covers_what_was_asked_is_taken() {
        assert!(check(Fetch::From(5), "bytes 5-9/10", Some(5)).is_ok());
        assert!(check(Fetch::From(5), "bytes 5-9/*", None).is_ok());
        assert!(check(Fetch::Between { first: 2, last: 4 }, "bytes 2-4/10", Some(3)).is_ok());
        assert!(check(Fetch::Between { first: 2, last: 400 }, "bytes 2-9/10", Some(8)).is_ok());
    }

    #[test]
    fn any_other_part_is_nonsense() {
        for (asked, header) in [
            (Fetch::From(5), "bytes 4-9/10"),
            (Fetch::From(5), "bytes 6-9/10"),
            (Fetch::From(5), "bytes 5-8/10"),
            (Fetch::From(5), "bytes 5-9"),
            (Fetch::From(5), ""),
            (Fetch::Between { first: 2, last: 4 }, "bytes 2-9/10"),
            (Fetch::Between { first: 2, last: 4 }, "bytes 2-3/10"),
            (Fetch::Between { first: 2, last: 4 }, "bytes 2-9/*"),
        ] {
            assert_eq!(check(asked, header, None), Err(Nonsense::ContentRange), "{asked:?} {header}");
        }
        assert_eq!(check(Fetch::From(5), "bytes 5-9/10", Some(6)), Err(Nonsense::Length));
        assert_eq!(check(Fetch::Whole, "bytes 0-9/10", Some(10)), Err(Nonsense::PartialUnasked));
    }

    proptest! {
        #[test]
        fn a_part_taken_starts_where_asked_and_never_panics(
            first: u64, last: u64, from in prop_oneof![0u64..20, any::<u64>()], to in prop_oneof![0u64..20, any::<u64>()],
            total in prop::option::of(prop_oneof![0u64..20, any::<u64>()]), length in prop::option::of(any::<u64>()),
        ) {
            let header = format!("bytes {from}-{to}/{}", total.map_or("*".to_owned(), |n| n.to_string()));
            for asked in [Fetch::From(first), Fetch::From(from), Fetch::Between { first: from, last }] {
                if let Ok(part) = check(asked, &header, length) {
                    prop_assert!(part.first == from && part.last == to && from <= to);
                }
            }
        }
    }
}
