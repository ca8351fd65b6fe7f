//! The rules of the house, held against the source tree: who may know whom, and what is in one place only.
//!
//! A broken rule fails with `file:line: what`. To move a rule, change its row here, where a reviewer sees it.

mod arrows;
mod pains;
mod source;

use source::{Source, tree};

/// Who may name whom with `crate::`, downwards only. Code under `#[cfg(test)]` may name everybody.
const ARROWS: &[(&str, &[&str])] = &[
    ("oci", &[]),
    ("storage", &["oci"]),
    ("layout", &["oci"]),
    ("blobs", &["storage", "oci"]),
    ("metadata", &["oci"]),
    ("upstream", &["oci"]),
    ("cache", &["blobs", "metadata", "upstream", "oci"]),
    ("registry", &["cache", "blobs", "metadata", "upstream", "oci"]),
    ("tasks", &["registry", "cache", "blobs", "metadata", "storage", "oci"]),
    ("auth", &["metadata", "oci"]),
    ("webhooks", &["metadata", "upstream", "oci"]),
    ("acme", &["storage"]),
    ("http", &["registry", "auth", "oci"]),
    ("config", &[]),
    (
        "cli",
        &[
            "config", "http", "tasks", "registry", "auth", "cache", "upstream", "metadata", "blobs", "storage", "oci",
            "layout", "webhooks", "acme",
        ],
    ),
];

/// Known to all and knowing nobody but [`GROUND`].
const LEAVES: &[&str] = &["clock", "crowd", "fault", "metrics", "near", "outbound", "pause", "report", "telemetry"];

/// The leaf that the others may use.
const GROUND: &str = "near";

/// What code outside of tests may contain in the named files only (a `/` at the end names a folder).
const PLACES: &[(&str, &[&str], &[&str])] = &[
    ("status codes and axum stay in http/", &["StatusCode", "axum"], &["src/http/"]),
    (
        "SQL stays in metadata/",
        &["sqlx", "SELECT ", "INSERT INTO ", "DELETE FROM ", "CREATE TABLE", "PRAGMA "],
        &["src/metadata/"],
    ),
    (
        "files are opened in storage/; layouts and a command's files are where they are told to be, and secrets of upstreams may change",
        &["tokio::fs", "File::open", "File::create", "File::options", "OpenOptions"],
        &[
            "src/storage/",
            "src/layout/",
            "src/cli/setup/write.rs",
            "src/cli/reach.rs",
            "src/upstream/outside.rs",
            "src/telemetry/audit.rs",
        ],
    ),
    (
        "the file system is changed and asked in storage/; config reads its own files, a command those it is told to",
        &[
            "fs::read",
            "fs::write",
            "fs::rename",
            "fs::remove",
            "fs::create",
            "fs::metadata",
            "fs::copy",
            "fs::canonicalize",
            "fs::hard_link",
            "fs::symlink",
            "fs::exists",
        ],
        &[
            "src/storage/",
            "src/layout/",
            "src/config/load.rs",
            "src/cli/setup/write.rs",
            "src/cli/pinned.rs",
            "src/cli/reload.rs",
            "src/cli/warm/mod.rs",
            "src/upstream/outside.rs",
        ],
    ),
    (
        "tasks have an owner: fills, flights, the writers of the index and of the log, connections, signals",
        &["tokio::spawn", "task::spawn(", "thread::spawn", ".spawn("],
        &[
            "src/cache/fills.rs",
            "src/cache/flights.rs",
            "src/metadata/writer.rs",
            "src/telemetry/lines.rs",
            "src/http/server.rs",
            "src/cli/serve.rs",
        ],
    ),
    ("programs are run in one place", &["process::Command"], &["src/upstream/outside.rs"]),
    (
        "unsafe has one module, with its proof",
        &["unsafe {", "unsafe fn", "unsafe impl"],
        &["src/http/sendfile.rs", "src/main.rs"],
    ),
    ("untyped errors end at the command line", &["anyhow"], &["src/cli/"]),
    ("errors are handled or stated as invariants", &[".unwrap()"], &[]),
    ("the environment is read once, by config", &["env::var"], &["src/config/load.rs"]),
    ("nothing but people and programs that asked is printed to", &["println!", "eprintln!"], &["src/cli/"]),
];

/// What no file contains, tests included.
const NOWHERE: &[(&str, &[&str])] = &[
    ("a test that does not run is no test", &["#[ignore"]),
    ("what is to be done belongs into the tracker", &["TODO", "FIXME", "XXX", "dbg!", "todo!", "unimplemented!"]),
    ("paths of somebody's machine", &["/work/", "/home/", "/root/", "/Users/"]),
];

/// Names that say nothing about what is behind them.
const NAMES_BANNED: &[&str] =
    &["manager", "helper", "helpers", "util", "utils", "common", "data", "info", "proxy", "backend", "misc", "image"];

const LINES_MAX: usize = 500;
const LINES_WARNED: usize = 300;

/// The shipped code.
fn shipped() -> Vec<Source> {
    tree("src", &["rs"])
}

/// All that is written for this project but this test, which names what it forbids.
fn written() -> Vec<Source> {
    let mut all = shipped();
    all.extend(tree("tests", &["rs", "toml"]).into_iter().filter(|source| !source.path.starts_with("tests/it/tidy/")));
    all
}

fn hold(broken: &[String]) {
    assert!(broken.is_empty(), "{} broken rules:\n{}", broken.len(), broken.join("\n"));
}

#[test]
fn rooms_know_only_those_below_them() {
    let broken: Vec<String> = shipped().iter().flat_map(arrows::broken).collect();
    hold(&broken);
}

#[test]
fn every_room_has_its_row_of_arrows() {
    let sources = shipped();
    let rooms = arrows::rooms(&sources);
    let rows = ARROWS.iter().map(|(room, _)| *room).chain(LEAVES.iter().copied());
    let mut rows: Vec<&str> = rows.collect();
    rows.sort_unstable();
    assert_eq!(rooms, rows, "left: modules of src/, right: rows of this test");
}

#[test]
fn things_are_in_their_places() {
    let mut broken = Vec::new();
    for source in shipped().iter().filter(|source| !source.is_test) {
        for (rule, needles, allowed) in PLACES {
            if !allowed.iter().any(|place| source.is_in(place)) {
                broken.extend(source.code_with(needles).map(|line| format!("{line}: {rule}")));
            }
        }
    }
    hold(&broken);
}

#[test]
fn exceptions_are_still_needed() {
    let shipped = shipped();
    let mut unneeded = Vec::new();
    for (rule, needles, allowed) in PLACES {
        for place in *allowed {
            let used =
                shipped.iter().filter(|source| source.is_in(place)).any(|s| s.code_with(needles).next().is_some());
            if !used {
                unneeded.push(format!("{place}: {rule}"));
            }
        }
    }
    hold(&unneeded);
}

#[test]
fn what_nobody_wants_is_nowhere() {
    let mut broken = Vec::new();
    for source in written() {
        for (rule, needles) in NOWHERE {
            broken.extend(source.lines_with(needles).map(|line| format!("{line}: {rule}")));
        }
    }
    for source in written().iter().filter(|source| source.path != "src/pause.rs") {
        broken.extend(
            source.lines_with(&["thread::sleep"]).map(|line| format!("{line}: waiting a while proves nothing")),
        );
    }
    hold(&broken);
}

#[test]
fn files_have_names_that_say_something() {
    let banned = |path: &str| {
        let words = path.split(['/', '_', '.']);
        words.into_iter().find(|word| NAMES_BANNED.contains(word)).map(|word| format!("{path}: named \"{word}\""))
    };
    let broken: Vec<String> = written().iter().filter_map(|source| banned(&source.path)).collect();
    hold(&broken);
}

#[test]
fn files_are_short_enough_to_be_read() {
    let mut broken = Vec::new();
    for source in written().iter().filter(|source| source.lines.len() > LINES_WARNED) {
        let fact = format!("{}: {} lines, the limit is {LINES_MAX}", source.path, source.lines.len());
        if source.lines.len() > LINES_MAX {
            broken.push(fact);
        } else {
            // Shown by `cargo test -- --nocapture`: not wrong, but the next to be split.
            println!("warning: {fact}, {LINES_WARNED} is what one reads at a sitting");
        }
    }
    hold(&broken);
}

#[test]
fn every_file_opens_with_what_it_is() {
    let silent = |source: &&Source| !source.lines.first().is_some_and(|line| line.starts_with("//!"));
    // A room's tests say what the room's own first sentence says.
    let speaks = |source: &&Source| !source.path.ends_with("/tests.rs") && !source.path.ends_with("Cargo.toml");
    let broken: Vec<String> = written()
        .iter()
        .filter(speaks)
        .filter(silent)
        .map(|source| format!("{}:1: no sentence", source.path))
        .collect();
    hold(&broken);
}
