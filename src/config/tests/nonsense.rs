//! Random text, as file and as environment: an error perhaps, never a panic.

use proptest::prelude::*;

use super::{Config, SHIPPED, from_env, from_text};

/// Text that is often nearly a configuration: lines of the shipped file and YAML's indicators, shuffled.
fn nearly_yaml() -> impl Strategy<Value = String> {
    let lines: Vec<&'static str> = SHIPPED.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    let piece = prop_oneof![
        4 => proptest::sample::select(lines).prop_map(|line| format!("{line}\n")),
        2 => proptest::sample::select(vec![
            "&a ", "*a", "<<: ", "[", "]", "{", "}", "- ", ": ", "\n", "  ", "|\n", ">-\n", "\"", "'", "#", "!!int ",
            "---\n", "? ", "\t", "~", ".nan", "1e999", "0x", "\u{feff}", "%YAML 1.2\n",
        ]).prop_map(str::to_owned),
        1 => ".{0,12}",
    ];
    proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_text_makes_the_loader_panic(text in nearly_yaml()) {
        match from_text(&text) {
            Ok(config) => prop_assert!(config.upstreams.iter().filter(|upstream| upstream.is_default).count() <= 1),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }

    #[test]
    fn no_variable_makes_the_loader_panic(name in "(?i)ENTREPOT_[A-Z_é0-9]{0,20}", value in ".{0,16}") {
        let _: Result<Config, String> = from_env("", &[(&name, &value)]);
    }
}
