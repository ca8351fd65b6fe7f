//! The files of the tree as lines, with what is test code and what is comment told apart.

use std::path::{Path, PathBuf};

/// A text file of the project.
pub struct Source {
    /// Relative to the root of the project, with `/`.
    pub path: String,
    pub lines: Vec<String>,
    /// The whole file is compiled for tests only.
    pub is_test: bool,
    /// Lines before the first `#[cfg(test)]`: what is shipped.
    shipped_lines: usize,
}

/// Every file below `folder` with one of these extensions, in the order of their paths.
pub fn tree(folder: &str, extensions: &[&str]) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    collect(&root.join(folder), extensions, &mut paths);
    paths.sort();
    let mut sources: Vec<Source> = paths.iter().map(|path| read(root, path)).collect();
    assert!(!sources.is_empty(), "there are no sources below {folder}");
    mark_test_modules(&mut sources);
    sources
}

fn collect(folder: &Path, extensions: &[&str], paths: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder of the project can be listed") {
        let path = entry.expect("an entry of a folder can be read").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_wanted = path.extension().is_some_and(|extension| extensions.iter().any(|wanted| extension == *wanted));
        // The fuzz targets' own build and corpus are not sources.
        if path.is_dir() && !matches!(name, "target" | "corpus" | "artifacts") {
            collect(&path, extensions, paths);
        } else if is_wanted {
            paths.push(path);
        }
    }
}

fn read(root: &Path, path: &Path) -> Source {
    let text = std::fs::read_to_string(path).expect("a source file is text");
    let relative = path.strip_prefix(root).expect("the file was found below the root");
    Source::new(&relative.to_string_lossy(), &text)
}

/// A file declared by `#[cfg(test)] mod name;` is test code as a whole, and what it declares too.
fn mark_test_modules(sources: &mut [Source]) {
    let mut folders = Vec::new();
    for source in &*sources {
        let base = match source.path.rsplit_once('/') {
            Some((folder, "mod.rs" | "lib.rs" | "main.rs")) => folder.to_owned(),
            _ => source.path.trim_end_matches(".rs").to_owned(),
        };
        let declared = source.lines.windows(2).filter(|pair| pair[0].trim() == "#[cfg(test)]");
        let names = declared
            .filter_map(|pair| pair[1].trim().trim_start_matches("pub ").strip_prefix("mod ")?.strip_suffix(';'));
        folders.extend(names.map(|name| format!("{base}/{name}")));
    }
    for source in sources {
        source.is_test |= folders.iter().any(|module| {
            source.path.strip_prefix(module.as_str()).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        });
    }
}

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        // A module declared for tests does not end the shipped code of its parent; one written out in place does.
        let opens_tests = |pair: &[String]| pair[0].trim() == "#[cfg(test)]" && pair[1].trim_end().ends_with('{');
        let shipped_lines = lines.windows(2).position(opens_tests).unwrap_or(lines.len());
        Self { path: path.to_owned(), lines, is_test: false, shipped_lines }
    }

    /// Is it this file, or below this folder (`/` at the end)?
    pub fn is_in(&self, place: &str) -> bool {
        if place.ends_with('/') { self.path.starts_with(place) } else { self.path == place }
    }

    /// Lines of shipped code, numbered from 1, without comments.
    pub fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.lines[..self.shipped_lines].iter().enumerate();
        lines.map(|(index, line)| (index + 1, line.as_str())).filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    /// `path:line: text` of every line of shipped code that contains one of these.
    pub fn code_with(&self, needles: &[&str]) -> impl Iterator<Item = String> {
        self.code().filter(|(_, line)| needles.iter().any(|needle| line.contains(needle))).map(|hit| self.show(hit))
    }

    /// The same of all lines, tests and comments too.
    pub fn lines_with(&self, needles: &[&str]) -> impl Iterator<Item = String> {
        let lines = self.lines.iter().enumerate().map(|(index, line)| (index + 1, line.as_str()));
        lines.filter(|(_, line)| needles.iter().any(|needle| line.contains(needle))).map(|hit| self.show(hit))
    }

    fn show(&self, (number, line): (usize, &str)) -> String {
        format!("{}:{number}: `{}`", self.path, line.trim())
    }
}

#[test]
fn test_code_and_comments_are_not_shipped_code() {
    let text = "//! File::open\nuse a;\n#[cfg(test)]\nmod tests {\n    File::open\n}\n";
    let source = Source::new("src/a.rs", text);
    assert_eq!(source.code_with(&["File::open"]).next(), None);
    assert_eq!(source.code_with(&["use a"]).collect::<Vec<_>>(), ["src/a.rs:2: `use a;`"]);
    assert_eq!(source.lines_with(&["File::open"]).count(), 2);
}

#[test]
fn a_file_declared_for_tests_is_test_code() {
    let mut sources = vec![
        Source::new("src/a/mod.rs", "#[cfg(test)]\nmod sample;\nuse b;\n"),
        Source::new("src/a/sample.rs", ""),
        Source::new("src/a/samples.rs", ""),
    ];
    mark_test_modules(&mut sources);
    assert_eq!(sources.iter().map(|source| source.is_test).collect::<Vec<_>>(), [false, true, false]);
    assert_eq!(sources[0].code_with(&["use b"]).count(), 1);
}
