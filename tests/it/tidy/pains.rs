//! The complaints of `docs/pains.md` against the tests that it names.

use std::path::Path;

/// The complaints that must have a test, by their number in the table.
const REQUIRED: &[std::ops::RangeInclusive<u32>] = &[1..=4, 9..=17, 20..=24, 26..=26, 29..=32];

/// A row of the table: its number and the tests it names.
fn row(line: &str) -> Option<(u32, Vec<&str>)> {
    let mut cells = line.strip_prefix("| ")?.split(" | ");
    let number = cells.next()?.trim().parse().ok()?;
    let tests = cells.last()?.split('`').skip(1).step_by(2);
    Some((number, tests.collect()))
}

/// Is there a test of this path below `tests/it/`?
fn exists(path: &str) -> bool {
    let Some((modules, name)) = path.rsplit_once("::") else { return false };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it").join(modules.replace("::", "/"));
    [root.with_extension("rs"), root.join("mod.rs")].iter().any(|file| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let mut lines = text.lines();
        let is_test = |line: &str| line.starts_with("#[tokio::test") || line == "#[test]";
        let names_it = |line: &str| line.contains(&format!("fn {name}("));
        // Attributes of a test may stand between the two.
        std::iter::from_fn(|| lines.find(|line| is_test(line)).and_then(|_| lines.find(|line| line.contains("fn "))))
            .any(names_it)
    })
}

#[test]
fn every_complaint_has_tests_that_exist() {
    let table = include_str!("../../../docs/pains.md");
    let rows: Vec<(u32, Vec<&str>)> = table.lines().filter_map(row).collect();
    let mut broken = Vec::new();
    for number in REQUIRED.iter().cloned().flatten() {
        if !rows.iter().any(|(found, tests)| *found == number && !tests.is_empty()) {
            broken.push(format!("docs/pains.md: complaint {number} has no test"));
        }
    }
    let named = rows.iter().flat_map(|(number, tests)| tests.iter().map(move |test| (number, test)));
    let missing = named.filter(|(_, test)| !exists(test));
    broken
        .extend(missing.map(|(number, test)| format!("docs/pains.md: complaint {number} names {test}, which is not")));
    super::hold(&broken);
}

#[test]
fn a_test_that_is_none_is_found() {
    assert!(exists("tidy::pains::every_complaint_has_tests_that_exist"));
    for path in ["tidy::pains::exists", "tidy::pains::no_such", "no_such::test", "test"] {
        assert!(!exists(path), "{path}");
    }
}
