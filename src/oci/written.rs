//! References as people write them: `nginx`, `nginx:1.27`, `ghcr.io/org/app@sha256:…`.

use std::fmt;
use std::str::FromStr;

use super::digest::{Digest, DigestInvalid};
use super::name::{NameInvalid, RepositoryName};
use super::reference::{Reference, Tag, TagInvalid};

/// The tag that is meant when none is written.
const TAG_DEFAULT: &str = "latest";

/// Other programs' spelling of "in a registry".
const TRANSPORT: &str = "docker://";

/// A repository and what is wanted of it, as written on a command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenReference {
    /// The repository, with the registry's host in front if one was written: how entrepot is asked for it.
    pub name: RepositoryName,
    /// The tag, if one was written.
    pub tag: Option<Tag>,
    /// The digest, if one was written: it says what is wanted, whatever the tag says.
    pub digest: Option<Digest>,
}

/// Why a text is no reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrittenReferenceInvalid {
    /// A URL of a web page.
    #[error("a reference has no https:// in front: write HOST/NAME:TAG")]
    Scheme,
    /// What stands before tag and digest.
    #[error(transparent)]
    Name(#[from] NameInvalid),
    /// What stands behind the colon.
    #[error(transparent)]
    Tag(#[from] TagInvalid),
    /// What stands behind the @.
    #[error(transparent)]
    Digest(#[from] DigestInvalid),
}

impl WrittenReference {
    /// What the registry is asked by: the digest, else the tag, else `latest`.
    pub fn reference(&self) -> Reference {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => Reference::Digest(*digest),
            (None, Some(tag)) => Reference::Tag(tag.clone()),
            (None, None) => Reference::Tag(TAG_DEFAULT.parse().expect("the default tag follows the grammar")),
        }
    }
}

impl FromStr for WrittenReference {
    type Err = WrittenReferenceInvalid;

    fn from_str(text: &str) -> Result<Self, WrittenReferenceInvalid> {
        let text = text.strip_prefix(TRANSPORT).unwrap_or(text);
        if text.contains("://") {
            return Err(WrittenReferenceInvalid::Scheme);
        }
        let (text, digest) = match text.split_once('@') {
            Some((text, digest)) => (text, Some(digest.parse()?)),
            None => (text, None),
        };
        // A colon before the last slash belongs to the host's port.
        let (name, tag) = match text.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag.parse()?)),
            _ => (text, None),
        };
        let name = match name.split_once('/') {
            Some((host, rest)) if host.contains(['.', ':']) => {
                format!("{}/{rest}", host.to_ascii_lowercase()).parse()?
            }
            _ => name.parse()?,
        };
        Ok(Self { name, tag, digest })
    }
}

impl fmt::Display for WrittenReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(f)?;
        match self.reference() {
            Reference::Digest(digest) => write!(f, "@{digest}"),
            Reference::Tag(tag) => write!(f, ":{tag}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn what_people_write_is_understood() {
        for (written, understood) in [
            ("nginx", "nginx:latest"),
            ("nginx:1.27", "nginx:1.27"),
            ("docker.io/library/nginx", "docker.io/library/nginx:latest"),
            ("localhost:5001/app", "localhost:5001/app:latest"),
            ("localhost:5001/app:v1", "localhost:5001/app:v1"),
            ("GHCR.io/org/app:v1", "ghcr.io/org/app:v1"),
            ("docker://quay.io/org/app", "quay.io/org/app:latest"),
            (&format!("ghcr.io/org/app@{DIGEST}"), &format!("ghcr.io/org/app@{DIGEST}")),
            (&format!("nginx:1.27@{DIGEST}"), &format!("nginx@{DIGEST}")),
        ] {
            let parsed = written.parse::<WrittenReference>().map(|reference| reference.to_string());
            assert_eq!(parsed.as_deref(), Ok(understood), "{written}");
        }
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for written in
            ["", ":1", "nginx:", "Nginx", "nginx@1", "a/b:", "https://ghcr.io/org/app", "nginx@sha256:12", "a b"]
        {
            assert!(written.parse::<WrittenReference>().is_err(), "{written:?} was accepted");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_the_parser_and_what_is_printed_is_understood_again(text in "[a-cA./:@_-]{0,16}") {
            if let Ok(reference) = text.parse::<WrittenReference>() {
                let again = reference.to_string().parse::<WrittenReference>().unwrap();
                prop_assert_eq!((again.name, again.digest), (reference.name, reference.digest));
            }
        }
    }
}
