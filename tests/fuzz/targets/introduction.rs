//! The PROXY protocol: what is read lies within what came, and bytes that follow change nothing that was decided.
#![no_main]

use entrepot::http::introduction::{Parsed, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let parsed = parse(bytes);
    if let Parsed::Complete { len, .. } = parsed {
        assert!(len <= bytes.len());
        assert_eq!(parse(&bytes[..len]), parsed);
    }
    if parsed != Parsed::Incomplete {
        assert_eq!(parse(&[bytes, b"more"].concat()), parsed);
    }
});
