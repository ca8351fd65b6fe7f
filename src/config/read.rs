//! Reads the located tree into typed structs: a serde `Deserializer` whose errors carry the place they came from.

use std::fmt;

use serde::{
    de::{
        self, DeserializeSeed, Expected, MapAccess, SeqAccess, Unexpected, Visitor,
        value::{BorrowedStrDeserializer, StrDeserializer},
    },
    forward_to_deserialize_any,
};

use super::{
    diagnose::{Fault, Problem, nearest},
    tree::{Entry, KeyPath, Node, Origin, Step, Value},
};

/// Reads `tree` as a `T`, with every fault in it rather than the first.
///
/// Each faulty node is cut out of the tree and reading starts anew, so `T` must do without any key; it is built from
/// what remains. A tree without faults is left as it was.
pub(super) fn read<T: Default + de::DeserializeOwned>(tree: &mut Node, problems: &mut Vec<Problem>) -> T {
    loop {
        match T::deserialize(&*tree) {
            Ok(value) => return value,
            Err(error) => {
                let (problem, path) = error.located(tree);
                problems.push(problem);
                if !tree.remove(&path) {
                    return T::default();
                }
            }
        }
    }
}

/// A fault found while reading; the path grows from the inside outwards as the error passes up.
#[derive(Debug)]
pub(super) struct ReadError {
    fault: Fault,
    steps_reversed: Vec<Step>,
    origin: Option<Origin>,
}

impl ReadError {
    fn new(fault: Fault) -> Self {
        Self { fault, steps_reversed: Vec::new(), origin: None }
    }

    fn within(mut self, step: Step, origin: &Origin) -> Self {
        self.steps_reversed.push(step);
        self.origin.get_or_insert_with(|| origin.clone());
        self
    }

    fn located(mut self, root: &Node) -> (Problem, KeyPath) {
        self.steps_reversed.reverse();
        let path = KeyPath(self.steps_reversed);
        let origin = self.origin.unwrap_or_else(|| root.origin.clone());
        (Problem { origin, path: path.clone(), fault: self.fault }, path)
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fault.fmt(f)
    }
}

impl std::error::Error for ReadError {}

impl de::Error for ReadError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(Fault::Refused { message: message.to_string() })
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_value(found, expected)
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let found = match found {
            // Perhaps a URL with a password in it, written where none belongs.
            Unexpected::Str(text) if text.contains('@') => "this text".to_owned(),
            Unexpected::Str(text) => format!("`{text}`"),
            Unexpected::Seq => "a list".to_owned(),
            Unexpected::Map => "a map".to_owned(),
            Unexpected::Unit => "an empty value".to_owned(),
            other => other.to_string(),
        };
        Self::new(Fault::WrongValue { found, accepted: expected.to_string() })
    }

    fn unknown_variant(found: &str, known: &'static [&'static str]) -> Self {
        let accepted = format!("one of {}", known.join(", "));
        Self::new(Fault::WrongValue { found: format!("`{found}`"), accepted })
    }

    fn unknown_field(key: &str, known: &'static [&'static str]) -> Self {
        Self::new(Fault::UnknownKey { nearest: nearest(key, known.iter().copied()).map(str::to_owned), known })
    }
}

impl Node {
    fn refused(&self, accepted: &str) -> ReadError {
        let found = match &self.value {
            Value::Null => Unexpected::Unit,
            Value::Scalar(text) => Unexpected::Str(text),
            Value::List(_) => Unexpected::Seq,
            Value::Map(_) => Unexpected::Map,
        };
        de::Error::invalid_value(found, &accepted)
    }

    fn entries(&self) -> Result<Entries<'_>, ReadError> {
        match &self.value {
            Value::Null => Ok(Entries { left: [].iter(), current: None }),
            Value::Map(entries) => Ok(Entries { left: entries.iter(), current: None }),
            Value::Scalar(_) | Value::List(_) => Err(self.refused("a map of keys and values")),
        }
    }
}

impl<'de> de::Deserializer<'de> for &'de Node {
    type Error = ReadError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match &self.value {
            Value::Null => visitor.visit_unit(),
            Value::Scalar(text) => visitor.visit_borrowed_str(text),
            Value::List(_) => self.deserialize_seq(visitor),
            Value::Map(_) => self.deserialize_map(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match &self.value {
            Value::Scalar(text) if text.eq_ignore_ascii_case("true") => visitor.visit_bool(true),
            Value::Scalar(text) if text.eq_ignore_ascii_case("false") => visitor.visit_bool(false),
            _ => Err(self.refused("true or false")),
        }
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match &self.value {
            Value::Scalar(text) if let Ok(number) = text.parse() => visitor.visit_u32(number),
            _ => Err(self.refused("a whole number")),
        }
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match &self.value {
            Value::Scalar(text) if let Ok(number) = text.parse() => visitor.visit_u64(number),
            _ => Err(self.refused("a whole number")),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match &self.value {
            Value::Null => visitor.visit_seq(Items { left: [].iter(), index: 0 }),
            Value::List(items) => visitor.visit_seq(Items { left: items.iter(), index: 0 }),
            _ => Err(self.refused("a list, such as [first, second]")),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_map(self.entries()?)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        match &self.value {
            Value::Scalar(text) => visitor.visit_enum(StrDeserializer::<ReadError>::new(text)),
            _ => Err(self.refused(&format!("one of {}", variants.join(", ")))),
        }
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u128 f32 f64 char str string bytes byte_buf unit unit_struct newtype_struct
        tuple tuple_struct identifier ignored_any
    }
}

struct Entries<'a> {
    left: std::slice::Iter<'a, Entry>,
    current: Option<&'a Entry>,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = ReadError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, ReadError> {
        self.current = self.left.next();
        let Some(entry) = self.current else { return Ok(None) };
        seed.deserialize(BorrowedStrDeserializer::new(&entry.key))
            .map(Some)
            .map_err(|error: ReadError| error.within(Step::Key(entry.key.clone()), &entry.key_origin))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, ReadError> {
        let entry = self.current.expect("serde asks for a value only after its key");
        seed.deserialize(&entry.node).map_err(|error| error.within(Step::Key(entry.key.clone()), &entry.node.origin))
    }
}

struct Items<'a> {
    left: std::slice::Iter<'a, Node>,
    index: usize,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = ReadError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, ReadError> {
        let Some(node) = self.left.next() else { return Ok(None) };
        let step = Step::Index(self.index);
        self.index += 1;
        seed.deserialize(node).map(Some).map_err(|error| error.within(step, &node.origin))
    }
}
