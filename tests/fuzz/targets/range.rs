//! `Range` and `Content-Range`: what is selected lies within the blob, and lengths never overflow.
#![no_main]

use entrepot::oci::{ContentRange, RangeRequest};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u64, &str)| {
    let (size_bytes, header) = input;
    if let Some(selected) = RangeRequest::parse(header).and_then(|range| range.within(size_bytes).ok()) {
        assert!(selected.start < selected.end && selected.end <= size_bytes, "{header:?} of {size_bytes}: {selected:?}");
        assert_eq!(selected.length_bytes(), selected.end - selected.start);
    }
    if let Ok(chunk) = header.parse::<ContentRange>() {
        assert!(chunk.first <= chunk.last);
        assert!(chunk.length_bytes() > 0);
    }
});
