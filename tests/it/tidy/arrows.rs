//! Which room's shipped code names which other: every `crate::ROOM`, alone or in a group.

use super::source::Source;
use super::{ARROWS, GROUND, LEAVES};

/// The modules of the crate's root, sorted.
pub fn rooms(sources: &[Source]) -> Vec<&str> {
    let mut rooms: Vec<&str> = sources.iter().filter_map(room).collect();
    rooms.sort_unstable();
    rooms.dedup();
    rooms
}

/// The arrows of a file that its room's row does not have.
pub fn broken(source: &Source) -> Vec<String> {
    let Some(from) = room(source).filter(|_| !source.is_test) else { return Vec::new() };
    let row = ARROWS.iter().find(|(room, _)| *room == from).map_or(&[][..], |(_, to)| to);
    let is_leaf = |to: &str| LEAVES.contains(&to) && (!LEAVES.contains(&from) || to == GROUND);
    let allowed = |to: &str| to == from || row.contains(&to) || is_leaf(to);
    let mut broken = Vec::new();
    for (number, to) in named(source) {
        if !allowed(&to) {
            broken.push(format!("{}:{number}: {from} → {to} is no arrow of the house", source.path));
        }
    }
    let depth = depth(source);
    for (number, line) in source.code().filter(|(_, line)| line.contains(&"super::".repeat(depth))) {
        broken.push(format!("{}:{number}: `{}` leaves the room: write crate::", source.path, line.trim()));
    }
    broken
}

/// `http` for `src/http/body.rs`; none for the roots themselves.
fn room(source: &Source) -> Option<&str> {
    let path = source.path.strip_prefix("src/")?;
    let first = path.split('/').next()?.trim_end_matches(".rs");
    (!matches!(first, "lib" | "main")).then_some(first)
}

/// How many `super::` lead from the file's module to the crate's root.
fn depth(source: &Source) -> usize {
    let parts = source.path.trim_start_matches("src/").split('/');
    parts.filter(|part| *part != "mod.rs").count()
}

/// Every room named in shipped code, with the line its `crate::` stands in.
fn named(source: &Source) -> Vec<(usize, String)> {
    let mut named = Vec::new();
    let code: Vec<(usize, &str)> = source.code().collect();
    for (index, (number, line)) in code.iter().enumerate() {
        for (at, _) in line.match_indices("crate::") {
            let after = &line[at + "crate::".len()..];
            let rest: String = std::iter::once(after).chain(code[index + 1..].iter().map(|(_, line)| *line)).collect();
            named.extend(firsts(&rest).into_iter().map(|room| (*number, room)));
        }
    }
    named
}

/// `a` of `a::b`; `a` and `c` of `{a::{x, y}, c}`.
fn firsts(path: &str) -> Vec<String> {
    let Some(group) = path.strip_prefix('{') else { return vec![word(path)] };
    let (mut level, mut entries) = (0_usize, vec![String::new()]);
    for letter in group.chars() {
        match letter {
            '{' => level += 1,
            '}' if level == 0 => break,
            '}' => level -= 1,
            ',' if level == 0 => entries.push(String::new()),
            _ if level == 0 => entries.last_mut().expect("there is always an entry").push(letter),
            _ => {}
        }
    }
    entries.iter().map(|entry| word(entry.trim())).filter(|word| !word.is_empty()).collect()
}

fn word(text: &str) -> String {
    text.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()
}

#[test]
fn an_arrow_upwards_is_found_with_its_line() {
    let source =
        Source::new("src/oci/name.rs", "//! Names.\nuse crate::{\n    clock::Clock,\n    cache::{Fill, Room},\n};\n");
    assert_eq!(broken(&source), ["src/oci/name.rs:2: oci → cache is no arrow of the house"]);
    let source = Source::new("src/oci/name.rs", "use super::super::cache::Fill;\n");
    assert_eq!(broken(&source).len(), 1);
    let source = Source::new("src/oci/name.rs", "use super::digest;\nuse crate::oci::Digest;\nuse crate::clock;\n");
    assert_eq!(broken(&source), Vec::<String>::new());
}

#[test]
fn a_leaf_knows_nobody() {
    let source = Source::new("src/clock.rs", "use crate::report::Chain;\n");
    assert_eq!(broken(&source), ["src/clock.rs:1: clock → report is no arrow of the house"]);
}
