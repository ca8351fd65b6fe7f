//! The file of users: each line is a user or an error, and no error shows a hash.
#![no_main]

use entrepot::config::{is_user, parse_htpasswd};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match parse_htpasswd(text) {
        Ok(users) => assert!(users.iter().all(|user| is_user(&user.name))),
        Err(fault) => {
            let said = fault.to_string();
            assert!(said.lines().count() == 1, "one line: {said}");
            let lines: Vec<(&str, &str)> = text.lines().filter_map(|line| line.trim().split_once(':')).collect();
            let is_name = |hash: &str| lines.iter().any(|(name, _)| name.contains(hash));
            for (_, hash) in &lines {
                assert!(hash.len() < 40 || is_name(hash) || !said.contains(hash), "{said}");
            }
        }
    }
});
