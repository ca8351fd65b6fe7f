//! `WWW-Authenticate`: no header of an upstream panics the parser, and a realm it accepts is a URL with a host.
#![no_main]

use entrepot::upstream::{Challenge, parse_challenge};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|headers: (&str, &str)| {
    match parse_challenge([headers.0, headers.1]) {
        Some(Challenge::Bearer { realm, .. }) => assert!(!realm.as_str().is_empty()),
        Some(Challenge::Basic) | None => {}
    }
});
