//! `Authorization`: a name and a password are read as they were written, and nothing that was presented can be printed.
#![no_main]

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use entrepot::auth::Presented;
use entrepot::http::presented_in;
use libfuzzer_sys::fuzz_target;
use secrecy::ExposeSecret as _;

fuzz_target!(|input: (&str, &str)| {
    let (name, secret) = input;
    if let Some(Presented::Password { username, .. }) = presented_in(secret) {
        assert!(!username.contains(':'));
    }
    let header = format!("Basic {}", BASE64_STANDARD.encode(format!("{name}:{secret}")));
    match presented_in(&header) {
        Some(Presented::Password { username, password }) => {
            assert_eq!(format!("{username}:{}", password.expose_secret()), format!("{name}:{secret}"));
            let printed = |password| format!("{:?}", Presented::Password { username: String::new(), password });
            assert_eq!(printed(password), printed("another".into()));
        }
        Some(Presented::Nothing) => assert!(name.is_empty() && secret.is_empty()),
        other => panic!("{other:?}"),
    }
});
