//! Image layouts that somebody sent: no archive panics whoever reads it, nothing in it leads elsewhere, and an index that was
//! understood says the same when it is written again.
#![no_main]

use std::collections::HashSet;
use std::io::Read as _;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use entrepot::layout::{Error, Member, parse_index, read_members, write_index};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(entries) = parse_index(bytes) {
        assert_eq!(parse_index(&write_index(&entries)).ok(), Some(entries));
    }
    // An archive from a slice waits for nothing.
    let mut blobs = HashSet::new();
    let reading = pin!(read_members(bytes, async |member, size_bytes, content| {
        let _ = std::io::copy(&mut content.take(size_bytes), &mut std::io::sink());
        if let Member::Blob(digest) = member {
            assert!(blobs.insert(digest), "one digest, one member");
        }
        Ok::<_, Error>(())
    }));
    assert!(matches!(reading.poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(_)));
});
