//! Docker's `config.json` and what credential programs print: whatever a program is called, it is no path.
#![no_main]

use entrepot::upstream::{Found, is_program_name, look_up_in_docker_config, read_program_answer};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, &str)| {
    let (text, server) = input;
    match look_up_in_docker_config(&text.into(), server) {
        Some(Found::Program { name, .. }) => assert!(is_program_name(&name) && !name.contains(['/', '\\'])),
        Some(Found::Secret(_) | Found::Nothing) | None => {}
    }
    let _ = read_program_answer(&text.into());
});
