//! Repository names (distribution-spec, "Pulling manifests") and the hosts of upstreams.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::digest::shorten;

/// Characters in a whole repository name, so that `HOST/NAME` stays within what every client accepts.
const NAME_LENGTH_MAX: usize = 255;

/// The name of a repository: path components of lower-case letters and digits with single separators between.
///
/// The first of several components may carry a `:port`, because that is how clients spell a registry in front of a
/// repository (`ghcr.io/org/app`, `localhost:5001/app`); whether it names an upstream is for the routing to say.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepositoryName(Arc<str>);

/// Why a text is no repository name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameInvalid {
    /// No characters at all.
    #[error("the repository name is empty")]
    Empty,
    /// Longer than 255 characters.
    #[error("the repository name has more than {NAME_LENGTH_MAX} characters")]
    TooLong,
    /// A component that does not follow the grammar.
    #[error(
        "\"{component}\" in the repository name is not lower-case letters and digits with single separators (. _ __ -) between"
    )]
    Component {
        /// The first offending component, shortened.
        component: String,
    },
}

impl RepositoryName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// First component and the rest, when there is a rest.
    pub fn split_first(&self) -> Option<(&str, &str)> {
        self.0.split_once('/')
    }

    /// True for `nginx`, false for `library/nginx`.
    pub fn is_single_component(&self) -> bool {
        !self.0.contains('/')
    }

    /// Does the first component read as a registry's host? The rule of Docker's clients: a dot, a colon, or `localhost`.
    pub fn starts_with_a_host(&self) -> bool {
        self.split_first().is_some_and(|(first, _)| first.contains(['.', ':']) || first == "localhost")
    }

    /// The canonical name of an upstream's repository, `HOST/NAME`; it has to fit the same limit.
    pub fn under(&self, host: &Host) -> Result<Self, NameInvalid> {
        let text = format!("{host}/{self}");
        // Both parts are well-formed where they stand, unless the first component here is one only as a host: with a port, or
        // with capitals, which is the way people write one.
        if self.0.bytes().any(|byte| byte == b':' || byte.is_ascii_uppercase()) {
            return text.parse();
        }
        if text.len() > NAME_LENGTH_MAX { Err(NameInvalid::TooLong) } else { Ok(Self(text.into())) }
    }
}

impl FromStr for RepositoryName {
    type Err = NameInvalid;

    fn from_str(text: &str) -> Result<Self, NameInvalid> {
        if text.is_empty() {
            return Err(NameInvalid::Empty);
        }
        if text.len() > NAME_LENGTH_MAX {
            return Err(NameInvalid::TooLong);
        }
        let several = text.contains('/');
        for (position, component) in text.split('/').enumerate() {
            let well_formed =
                is_component(component) || (position == 0 && several && component.parse::<Host>().is_ok());
            if !well_formed {
                return Err(NameInvalid::Component { component: shorten(component) });
            }
        }
        Ok(Self(text.into()))
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`, the specification's grammar of one path component.
fn is_component(text: &str) -> bool {
    let bytes = text.as_bytes();
    let is_word = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bounded = bytes.first().is_some_and(is_word) && bytes.last().is_some_and(is_word);
    bounded
        && bytes
            .split(is_word)
            .all(|separator| matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-'))
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a registry, `host` or `host:port`, in lower case: how an upstream is called in names, logs and metrics.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Host(Arc<str>);

/// A text that is no `host` or `host:port`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{given}\" is not a host name or host:port")]
pub struct HostInvalid {
    given: String,
}

impl Host {
    /// The host as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Host {
    type Err = HostInvalid;

    fn from_str(text: &str) -> Result<Self, HostInvalid> {
        let lower = text.to_ascii_lowercase();
        let (name, port) = lower.split_once(':').unwrap_or((&lower, "1"));
        let label = |label: &str| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        let port_fits = port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|p| p > 0);
        if name.len() > 253 || !name.split('.').all(label) || !port_fits {
            return Err(HostInvalid { given: shorten(text) });
        }
        Ok(Self(lower.into()))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_of_the_grammar_are_accepted() {
        for name in [
            "a",
            "nginx",
            "library/nginx",
            "a/blobs/uploads",
            "a-b--c/d__e.f_g/0",
            "ghcr.io/org/app",
            "localhost:5001/app",
            "127.0.0.1:5001/library/small",
        ] {
            assert_eq!(name.parse::<RepositoryName>().map(|n| n.to_string()), Ok(name.to_owned()));
        }
    }

    #[test]
    fn a_name_under_a_host_is_one_that_can_be_read_again() {
        let host: Host = "docker.io".parse().unwrap();
        let under = |name: &str| name.parse::<RepositoryName>().unwrap().under(&host).map(|name| name.to_string());
        assert_eq!(under("team/app"), Ok("docker.io/team/app".to_owned()));
        for name in ["localhost:5001/app", "Org/app"] {
            assert!(matches!(under(name), Err(NameInvalid::Component { .. })), "{name}");
        }
        assert_eq!(under(&"a".repeat(NAME_LENGTH_MAX - 9)), Err(NameInvalid::TooLong));
    }

    #[test]
    fn names_outside_the_grammar_are_refused() {
        for name in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            "A",
            "a/B",
            "..",
            "a/../b",
            ".a",
            "a.",
            "a..b",
            "a___b",
            "a_-b",
            "-a",
            "a-",
            "a b",
            "a%2fb",
            "ä",
            "a\0",
            "localhost:5001",
            "a/b:1/c",
            "a:99999/b",
            "a:/b",
            "a\\b",
            "a+b",
        ] {
            assert!(name.parse::<RepositoryName>().is_err(), "{name:?} was accepted");
        }
        assert_eq!("a".repeat(256).parse::<RepositoryName>(), Err(NameInvalid::TooLong));
    }

    #[test]
    fn hosts_are_folded_to_lower_case_and_ports_are_checked() {
        assert_eq!("GHCR.io:443".parse::<Host>().unwrap().as_str(), "ghcr.io:443");
        for text in ["", ":1", "a:", "a:0", "a:65536", "a:+1", "-a", "a-.b", "a..b", "a_b", "a/b", "user@a"] {
            assert!(text.parse::<Host>().is_err(), "{text:?} was accepted");
        }
    }

    proptest! {
        #[test]
        fn the_parser_agrees_with_the_grammar_read_literally(text in "[a-c./_:-]{0,12}") {
            prop_assert_eq!(text.parse::<RepositoryName>().is_ok(), literal_grammar(&text));
        }

        #[test]
        fn no_text_panics_the_parsers(text in "\\PC{0,300}") {
            let _ = text.parse::<RepositoryName>();
            let _ = text.parse::<Host>();
        }
    }

    /// The grammar once more as a small machine that reads character by character, to disagree with the splitting one.
    fn literal_grammar(text: &str) -> bool {
        fn component(text: &str) -> bool {
            let mut rest = text;
            loop {
                let word = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_lowercase()).len();
                if word == 0 {
                    return false;
                }
                rest = &rest[word..];
                if rest.is_empty() {
                    return true;
                }
                let dashes = rest.len() - rest.trim_start_matches('-').len();
                let separator = if dashes > 0 {
                    dashes
                } else if rest.starts_with("__") {
                    2
                } else if rest.starts_with(['.', '_']) {
                    1
                } else {
                    return false;
                };
                rest = &rest[separator..];
            }
        }
        let parts: Vec<&str> = text.split('/').collect();
        parts
            .iter()
            .enumerate()
            .all(|(i, part)| component(part) || (i == 0 && parts.len() > 1 && part.parse::<Host>().is_ok()))
    }
}
