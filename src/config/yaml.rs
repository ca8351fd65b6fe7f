//! YAML text into a located tree, by serde-saphyr.

use std::{fmt, path::Path, sync::Arc};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{Location, Spanned};

use super::{
    diagnose::{Fault, Problem},
    tree::{Entry, KeyPath, Node, Origin, Value},
};

/// Deeper than any configuration, shallow enough for any stack.
const DEPTH_MAX: usize = 32;

/// What a YAML text was read from.
#[derive(Clone)]
pub(super) enum Source {
    File(Arc<Path>),
    Variable(Arc<str>),
}

impl Source {
    fn origin(&self, location: &Location) -> Origin {
        match self {
            Self::File(path) => {
                Origin::File { path: Arc::clone(path), line: location.line(), column: location.column() }
            }
            Self::Variable(name) => Origin::Variable(Arc::clone(name)),
        }
    }
}

/// Parses one YAML document; an empty one is a null node.
pub(super) fn parse(text: &str, source: &Source) -> Result<Node, Problem> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: DEPTH_MAX },
        non_finite_float_policy: serde_saphyr::NonFiniteFloatPolicy::PassThrough,
        with_snippet: false,
    };
    match serde_saphyr::from_str_with_options::<Spanned<Loose>>(text, options) {
        Ok(document) => Ok(located(document, text, source)),
        Err(error) => Err(syntax_problem(&error, source)),
    }
}

fn syntax_problem(error: &serde_saphyr::Error, source: &Source) -> Problem {
    let location = error.location().unwrap_or(Location::UNKNOWN);
    let fault = match error.without_snippet() {
        serde_saphyr::Error::DuplicateMappingKey { key, .. } => {
            Fault::KeyTwice { key: key.clone().unwrap_or_default() }
        }
        serde_saphyr::Error::MultipleDocuments { .. } => Fault::ManyDocuments,
        other => {
            // Our own prefix says where; the parser's suffix would say it again.
            let message = other.to_string();
            let suffix = format!(" at line {}, column {}", location.line(), location.column());
            Fault::Yaml { message: message.strip_suffix(&suffix).unwrap_or(&message).to_owned() }
        }
    };
    Problem { origin: source.origin(&location), path: KeyPath::default(), fault }
}

fn located(node: Spanned<Loose>, text: &str, source: &Source) -> Node {
    let value = match node.value {
        Loose::Null => Value::Null,
        Loose::Text(scalar) => Value::Scalar(scalar),
        Loose::Typed(printed) => {
            Value::Scalar(written(&node.defined, text).filter(|slice| !slice.is_empty()).unwrap_or(printed))
        }
        Loose::List(items) => Value::List(items.into_iter().map(|item| located(item, text, source)).collect()),
        Loose::Map(entries) => Value::Map(
            entries
                .into_iter()
                .map(|(key, node)| Entry {
                    key_origin: source.origin(&key.referenced),
                    key: key.value,
                    node: located(node, text, source),
                })
                .collect(),
        ),
    };
    Node { origin: source.origin(&node.referenced), value }
}

/// The source text of a scalar that the parser took for a bool or number.
fn written(location: &Location, text: &str) -> Option<String> {
    let span = location.span();
    let start = usize::try_from(span.byte_offset()?).ok()?;
    let end = start.checked_add(usize::try_from(span.byte_len()?).ok()?)?;
    text.get(start..end).map(str::to_owned)
}

/// Any YAML value; locations are kept beside each node by [`Spanned`].
enum Loose {
    Null,
    /// A bool or number, as printed again by us: the exact text is in the source.
    Typed(String),
    Text(String),
    List(Vec<Spanned<Loose>>),
    Map(Vec<(Spanned<String>, Spanned<Loose>)>),
}

impl<'de> Deserialize<'de> for Loose {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LooseVisitor)
    }
}

struct LooseVisitor;

impl<'de> Visitor<'de> for LooseVisitor {
    type Value = Loose;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Loose, E> {
        Ok(Loose::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Loose, E> {
        Ok(Loose::Typed(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Loose, E> {
        Ok(Loose::Typed(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Loose, E> {
        Ok(Loose::Typed(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Loose, E> {
        Ok(Loose::Typed(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Loose, E> {
        Ok(Loose::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Loose, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Loose::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Loose, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Loose::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Result<Node, Problem> {
        parse(text, &Source::File(Arc::from(Path::new("c.yaml"))))
    }

    fn at<'a>(node: &'a Node, keys: &[&str]) -> (&'a str, String) {
        let node = node.get(&KeyPath::of(keys)).expect("the key is in the document");
        let Value::Scalar(text) = &node.value else { panic!("{keys:?} is no scalar") };
        (text, node.origin.to_string())
    }

    #[test]
    fn scalars_keep_their_source_text_and_place() {
        let tree =
            file("\u{feff}# é\na:\n  b: 1.10\n  c: &x 007\n  d: *x\n  e: yes\n  f: \"é: 1\"\n  g: .nan\n").unwrap();
        assert_eq!(at(&tree, &["a", "b"]), ("1.10", "c.yaml:3:6".to_owned()));
        assert_eq!(at(&tree, &["a", "c"]).0, "007");
        assert_eq!(at(&tree, &["a", "d"]).0, "007");
        assert_eq!(at(&tree, &["a", "e"]).0, "yes");
        assert_eq!(at(&tree, &["a", "f"]).0, "é: 1");
        assert_eq!(at(&tree, &["a", "g"]).0, ".nan");
    }

    #[test]
    fn an_empty_document_is_null() {
        for text in ["", "# only a comment\n", "---\n"] {
            assert!(matches!(file(text).unwrap().value, Value::Null), "{text:?}");
        }
    }

    #[test]
    fn broken_yaml_is_located_once() {
        let message = |text: &str| file(text).err().expect("this is refused").to_string();
        assert_eq!(message("a: 1\na: 2\n"), "c.yaml:2:1: the key `a` is written twice");
        assert_eq!(message("a: 1\n---\nb: 2\n"), "c.yaml:3:1: more than one YAML document");
        assert_eq!(
            message("a: 1\n  b: 2\n"),
            "c.yaml:2:4: not valid YAML: mapping values are not allowed in this context"
        );
        assert!(message(&"[".repeat(10_000)).starts_with("c.yaml:1:"));
    }
}
