//! Tags, and references that are a tag or a digest (distribution-spec, "Pulling manifests").

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::digest::{Digest, DigestInvalid, shorten};

/// Characters in a tag.
const TAG_LENGTH_MAX: usize = 128;

/// A tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(Arc<str>);

/// A text that is no tag.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{given}\" is not a tag: up to {TAG_LENGTH_MAX} letters, digits, . _ or -, the first no . or -")]
pub struct TagInvalid {
    given: String,
}

impl Tag {
    /// The tag whose index lists what is attached to `subject`, where there is no referrers API (distribution-spec,
    /// "Referrers Tag Schema"): the digest with a hyphen, the hexadecimal part cut at 64 characters.
    pub fn of_referrers(subject: &Digest) -> Self {
        Self(format!("{}-{}", subject.algorithm().as_str(), &subject.hex()[..64]).into())
    }

    /// The tag as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = TagInvalid;

    fn from_str(text: &str) -> Result<Self, TagInvalid> {
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let first_fits = text.bytes().next().is_some_and(word);
        let rest_fits = text.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-');
        if !first_fits || !rest_fits || text.len() > TAG_LENGTH_MAX {
            return Err(TagInvalid { given: shorten(text) });
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a manifest is asked by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reference {
    /// A name that may move.
    Tag(Tag),
    /// The content itself.
    Digest(Digest),
}

/// A text that is neither a tag nor a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceInvalid {
    /// There is a colon, so it was meant as a digest.
    #[error(transparent)]
    Digest(#[from] DigestInvalid),
    /// There is none, so it was meant as a tag.
    #[error(transparent)]
    Tag(#[from] TagInvalid),
}

impl FromStr for Reference {
    type Err = ReferenceInvalid;

    fn from_str(text: &str) -> Result<Self, ReferenceInvalid> {
        if text.contains(':') { Ok(Self::Digest(text.parse()?)) } else { Ok(Self::Tag(text.parse()?)) }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_of_the_grammar_are_accepted_and_others_refused() {
        for tag in ["latest", "v1.2.3", "_", "1.25-alpine", &"a".repeat(128)] {
            assert!(tag.parse::<Tag>().is_ok(), "{tag:?} was refused");
        }
        for tag in ["", ".", "-a", ".a", "a/b", "a b", "a:b", "ä", "a%20", "a\n", &"a".repeat(129)] {
            assert!(tag.parse::<Tag>().is_err(), "{tag:?} was accepted");
        }
    }

    #[test]
    fn a_colon_makes_a_reference_a_digest() {
        assert!(matches!("latest".parse::<Reference>(), Ok(Reference::Tag(_))));
        assert!(matches!("sha256:xyz".parse::<Reference>(), Err(ReferenceInvalid::Digest(_))));
        let digest = format!("sha256:{}", "0".repeat(64));
        assert!(matches!(digest.parse::<Reference>(), Ok(Reference::Digest(_))));
    }
}
