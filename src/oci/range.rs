//! Byte ranges: of downloads (RFC 9110, section 14) and of upload chunks (distribution-spec, "Pushing a blob in chunks").

use std::str::FromStr;

/// Ranges in one request beyond which it is not looked at: nobody who pulls blobs sends several.
const RANGES_MAX: usize = 64;

/// The value of a `Range` header that a registry can act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeRequest {
    /// `bytes=first-` or `bytes=first-last`, both inclusive.
    From {
        /// Offset of the first byte.
        first: u64,
        /// Offset of the last byte, if one was given.
        last: Option<u64>,
    },
    /// `bytes=-length`: the last so many bytes.
    Suffix {
        /// How many.
        length: u64,
    },
}

/// The part of a body to send: `start` inclusive, `end` exclusive, never empty unless the body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    /// Offset of the first byte.
    pub start: u64,
    /// Offset after the last byte.
    pub end: u64,
}

impl ByteRange {
    /// Number of bytes.
    pub const fn length_bytes(self) -> u64 {
        self.end - self.start
    }
}

/// The range lies outside of what there is (`416`), or its header is malformed where that has to be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeInvalid {
    /// A well-formed range that selects no byte.
    #[error("the range selects no byte of the blob")]
    Unsatisfiable,
    /// Not `first-last` with first ≤ last.
    #[error("the range is not of the form first-last")]
    Form,
}

impl RangeRequest {
    /// Reads a `Range` header. `None` means that the header is to be ignored, as RFC 9110 14.2 has it for units other
    /// than bytes and for malformed ones, and (our choice, allowed there) for several ranges at once. A range that ends
    /// before it begins is kept and selects nothing, so that it is refused: the RFC allows both, conformance asks for it.
    pub fn parse(header: &str) -> Option<Self> {
        let (unit, set) = header.split_once('=')?;
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return None;
        }
        let mut specs = set.split(',').map(str::trim).filter(|spec| !spec.is_empty()).take(RANGES_MAX);
        let (spec, None) = (specs.next()?, specs.next()) else { return None };
        let (first, last) = spec.split_once('-')?;
        match (first, last) {
            ("", length) => Some(Self::Suffix { length: decimal(length)? }),
            (first, "") => Some(Self::From { first: decimal(first)?, last: None }),
            (first, last) => Some(Self::From { first: decimal(first)?, last: Some(decimal(last)?) }),
        }
    }

    /// The part of a body of `size_bytes` that this selects.
    pub fn within(self, size_bytes: u64) -> Result<ByteRange, RangeInvalid> {
        let (start, end) = match self {
            Self::From { first, last } => {
                (first, last.map_or(size_bytes, |last| last.saturating_add(1).min(size_bytes)))
            }
            Self::Suffix { length } => (size_bytes.saturating_sub(length), size_bytes),
        };
        if start < end { Ok(ByteRange { start, end }) } else { Err(RangeInvalid::Unsatisfiable) }
    }
}

/// The `Content-Range` of an upload chunk: `first-last`, both inclusive, without unit or total.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentRange {
    /// Offset of the chunk's first byte.
    pub first: u64,
    /// Offset of its last byte.
    pub last: u64,
}

impl ContentRange {
    /// Number of bytes the chunk must have.
    pub const fn length_bytes(self) -> u64 {
        self.last - self.first + 1
    }
}

impl FromStr for ContentRange {
    type Err = RangeInvalid;

    fn from_str(text: &str) -> Result<Self, RangeInvalid> {
        // RFC 9110 writes `bytes first-last/total`; some clients send that here, and it says the same.
        let text = text.strip_prefix("bytes ").unwrap_or(text);
        let range = text.split_once('/').map_or(text, |(range, _)| range);
        let (first, last) = range.split_once('-').ok_or(RangeInvalid::Form)?;
        let (first, last) = (decimal(first).ok_or(RangeInvalid::Form)?, decimal(last).ok_or(RangeInvalid::Form)?);
        if first <= last && last < u64::MAX { Ok(Self { first, last }) } else { Err(RangeInvalid::Form) }
    }
}

/// Digits only: `u64::from_str` would also take a plus sign. Numbers beyond `u64` are past the end of anything.
fn decimal(text: &str) -> Option<u64> {
    let digits_only = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits_only.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn select(header: &str, size: u64) -> Option<Result<(u64, u64), RangeInvalid>> {
        RangeRequest::parse(header).map(|range| range.within(size).map(|r| (r.start, r.end)))
    }

    #[test]
    fn each_form_selects_its_bytes() {
        assert_eq!(select("bytes=0-", 10), Some(Ok((0, 10))));
        assert_eq!(select("bytes=3-5", 10), Some(Ok((3, 6))));
        assert_eq!(select("bytes=3-500", 10), Some(Ok((3, 10))));
        assert_eq!(select("bytes=-3", 10), Some(Ok((7, 10))));
        assert_eq!(select("bytes=-300", 10), Some(Ok((0, 10))));
        assert_eq!(select("Bytes = 9-9 ", 10), Some(Ok((9, 10))));
    }

    #[test]
    fn ranges_past_the_end_are_unsatisfiable() {
        for header in ["bytes=10-", "bytes=10-12", "bytes=5-3", "bytes=-0", "bytes=99999999999999999999999-"] {
            assert_eq!(select(header, 10), Some(Err(RangeInvalid::Unsatisfiable)), "{header}");
        }
        assert_eq!(select("bytes=0-", 0), Some(Err(RangeInvalid::Unsatisfiable)));
    }

    #[test]
    fn malformed_and_multiple_ranges_are_ignored() {
        for header in ["", "bytes", "bytes=", "bytes=a-", "bytes=-", "bytes=+1-2", "items=0-1", "bytes=0-1,3-4"] {
            assert_eq!(RangeRequest::parse(header), None, "{header}");
        }
    }

    #[test]
    fn chunk_ranges_are_inclusive_and_strict() {
        assert_eq!("0-4".parse::<ContentRange>().map(ContentRange::length_bytes), Ok(5));
        assert_eq!("bytes 5-9/*".parse(), Ok(ContentRange { first: 5, last: 9 }));
        for text in ["", "-", "5-4", "a-b", "1", "-1", "0--1", "0-99999999999999999999999"] {
            assert_eq!(text.parse::<ContentRange>(), Err(RangeInvalid::Form), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_selected_range_is_never_empty_and_never_outside(header in "bytes=[0-9]{0,21}-[0-9]{0,21}", size: u64) {
            if let Some(Ok((start, end))) = select(&header, size) {
                prop_assert!(start < end && end <= size);
            }
        }

        #[test]
        fn no_header_panics_the_parsers(header in "\\PC{0,80}", size: u64) {
            let _ = select(&header, size);
            let _ = header.parse::<ContentRange>();
        }
    }
}
