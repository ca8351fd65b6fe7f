//! Whom a rule is about, and what a client says that it wants a token for: what is read is printed as it was written, and names
//! with patterns in them are no scopes.
#![no_main]

use entrepot::auth::Scope;
use entrepot::config::{Auth, Who, units};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(who) = text.parse::<Who>() {
        assert_eq!(who.to_string(), text);
        if let Who::Job(jobs) = &who {
            assert!(Auth::default().jobs(jobs).is_err(), "there is no provider");
        }
    }
    if let Ok(pattern) = units::text_glob(text) {
        let _ = pattern.compile_matcher().is_match(text);
    }
    if let Some(Scope::Repository { name, .. }) = Scope::parse(text) {
        assert!(!name.to_string().contains(['*', '?', '[', '{', ' ']));
        assert_eq!(Scope::parse_all([text]).len(), 1);
    }
});
