//! The configuration before it has a shape: a tree of texts, each of which knows where it was written.
//!
//! The file is parsed into a tree, environment variables and flags are set upon it, and only then is it read into
//! typed structs; so every error, whatever found it, can name the line or the variable at fault.
//!
//! Scalars keep their source text (`1.10` stays `1.10`): the type that reads them decides what they are.
//! Nodes may hold secrets, hence no `Debug`.

use std::{fmt, path::Path, sync::Arc};

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere: it is built in.
    Default,
    /// A configuration file; line and column count from 1.
    File {
        /// The file as it was named.
        path: Arc<Path>,
        /// Line, from 1.
        line: u64,
        /// Column in characters, from 1.
        column: u64,
    },
    /// An environment variable.
    Variable(Arc<str>),
    /// A command line flag.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("built-in default"),
            Self::File { path, line, column } => write!(f, "{}:{line}:{column}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// One step from a node to a node within it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Into the value of a key.
    Key(String),
    /// Into the nth element of a list, from 0.
    Index(usize),
}

/// The way from the root to a node, displayed as `upstreams.ghcr.io.hosts[1]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyPath(pub(super) Vec<Step>);

impl KeyPath {
    pub(super) fn of(keys: &[&str]) -> Self {
        Self(keys.iter().map(|key| Step::Key((*key).to_owned())).collect())
    }

    pub(super) fn then(mut self, step: Step) -> Self {
        self.0.push(step);
        self
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if position == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// A value and where it was written.
pub(super) struct Node {
    pub origin: Origin,
    pub value: Value,
}

pub(super) enum Value {
    /// Nothing was written after the key.
    Null,
    Scalar(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key of a map with its value; the keys of one map differ.
pub(super) struct Entry {
    pub key: String,
    pub key_origin: Origin,
    pub node: Node,
}

impl Node {
    pub fn scalar(text: impl Into<String>, origin: Origin) -> Self {
        Self { origin, value: Value::Scalar(text.into()) }
    }

    /// A map without keys, to be filled by [`Node::set`].
    pub fn empty_map(origin: Origin) -> Self {
        Self { origin, value: Value::Map(Vec::new()) }
    }

    fn child(&self, step: &Step) -> Option<&Self> {
        match (&self.value, step) {
            (Value::Map(entries), Step::Key(key)) => entries.iter().find(|e| e.key == *key).map(|e| &e.node),
            (Value::List(items), Step::Index(index)) => items.get(*index),
            _ => None,
        }
    }

    /// The node at `path`, if something was written there.
    pub fn get(&self, path: &KeyPath) -> Option<&Self> {
        path.0.iter().try_fold(self, |node, step| node.child(step))
    }

    /// Where the node at `path` was written or, failing that, the nearest node around it that was.
    pub fn origin_of(&self, path: &KeyPath) -> Origin {
        let mut node = self;
        for step in &path.0 {
            match node.child(step) {
                Some(child) => node = child,
                None => break,
            }
        }
        node.origin.clone()
    }

    /// The keys of the map at `path`, none when it is no map.
    pub fn keys_of(&self, path: &KeyPath) -> impl Iterator<Item = &str> {
        let entries: &[Entry] = match self.get(path).map(|node| &node.value) {
            Some(Value::Map(entries)) => entries,
            _ => &[],
        };
        entries.iter().map(|entry| entry.key.as_str())
    }

    /// Puts `node` under `keys`, making the maps on the way.
    ///
    /// Where a scalar or list stands in the way nothing is set: that is an error of its own, which reading the tree
    /// reports at its origin.
    pub fn set(&mut self, keys: &[String], node: Self) {
        let Some((key, rest)) = keys.split_first() else {
            *self = node;
            return;
        };
        if matches!(self.value, Value::Null) {
            self.value = Value::Map(Vec::new());
        }
        let Value::Map(entries) = &mut self.value else { return };
        let position = entries.iter().position(|entry| entry.key == *key).unwrap_or_else(|| {
            let origin = node.origin.clone();
            let node = Self { origin: origin.clone(), value: Value::Null };
            entries.push(Entry { key: key.clone(), key_origin: origin, node });
            entries.len() - 1
        });
        entries[position].node.set(rest, node);
    }

    /// Takes the node at `path` out of the tree; answers whether one was there.
    pub fn remove(&mut self, path: &KeyPath) -> bool {
        let Some((last, way)) = path.0.split_last() else { return false };
        let Some(parent) = way.iter().try_fold(self, |node, step| match (&mut node.value, step) {
            (Value::Map(entries), Step::Key(key)) => {
                entries.iter_mut().find(|entry| entry.key == *key).map(|entry| &mut entry.node)
            }
            (Value::List(items), Step::Index(index)) => items.get_mut(*index),
            _ => None,
        }) else {
            return false;
        };
        match (&mut parent.value, last) {
            (Value::Map(entries), Step::Key(key)) => {
                let before = entries.len();
                entries.retain(|entry| entry.key != *key);
                entries.len() < before
            }
            (Value::List(items), Step::Index(index)) if *index < items.len() => {
                items.remove(*index);
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(path: &str) -> Vec<String> {
        path.split('/').map(str::to_owned).collect()
    }

    #[test]
    fn what_is_set_is_found_and_can_be_removed() {
        let mut tree = Node::empty_map(Origin::Default);
        tree.set(&keys("http/listen"), Node::scalar("a", Origin::Flag("--listen")));
        tree.set(&keys("http/listen"), Node::scalar("b", Origin::Flag("--listen")));
        let path = KeyPath::of(&["http", "listen"]);
        assert!(matches!(tree.get(&path).map(|n| &n.value), Some(Value::Scalar(text)) if text == "b"));
        assert!(tree.remove(&path));
        assert!(!tree.remove(&path));
        assert!(tree.get(&path).is_none());
        assert_eq!(tree.keys_of(&KeyPath::of(&["http"])).count(), 0);
    }

    #[test]
    fn a_scalar_in_the_way_is_left_for_the_reader_to_report() {
        let mut tree = Node::empty_map(Origin::Default);
        tree.set(&keys("http"), Node::scalar("5000", Origin::Default));
        tree.set(&keys("http/listen"), Node::scalar("x", Origin::Flag("--listen")));
        assert!(matches!(tree.get(&KeyPath::of(&["http"])).map(|n| &n.value), Some(Value::Scalar(_))));
    }

    #[test]
    fn a_missing_value_has_the_origin_of_what_surrounds_it() {
        let mut tree = Node::empty_map(Origin::Default);
        tree.set(&keys("http/listen"), Node::scalar("x", Origin::Flag("--listen")));
        assert_eq!(tree.origin_of(&KeyPath::of(&["http", "nothing"])), Origin::Flag("--listen"));
        assert_eq!(tree.origin_of(&KeyPath::of(&["log", "level"])), Origin::Default);
    }

    #[test]
    fn paths_read_as_an_operator_would_write_them() {
        let path = KeyPath::of(&["upstreams", "ghcr.io", "hosts"]).then(Step::Index(1));
        assert_eq!(path.to_string(), "upstreams.ghcr.io.hosts[1]");
    }
}
