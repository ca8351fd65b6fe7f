//! The part of a URL behind the question mark.

use std::fmt;

use url::form_urlencoded;

/// Parameters beyond which the rest is not looked at: a push with tags has some dozens.
const PARAMETERS_MAX: usize = 256;

/// The parameters of a request, decoded, in their order.
#[derive(Clone, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads the text behind the question mark.
    pub fn parse(text: &str) -> Self {
        if text.is_empty() {
            return Self::default();
        }
        let pairs = form_urlencoded::parse(text.as_bytes()).take(PARAMETERS_MAX);
        Self(pairs.map(|(key, value)| (key.into_owned(), value.into_owned())).collect())
    }

    /// The first value of a parameter.
    pub fn first(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// Every value of a parameter.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

/// The names alone: a form has passwords.
impl fmt::Debug for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded_and_repeated_ones_kept_in_order() {
        let query = Query::parse("digest=sha256%3Aab&tag=1&tag=1.2&from=local%2Fa&empty=&flag");
        assert_eq!(query.first("digest"), Some("sha256:ab"));
        assert_eq!(query.all("tag").collect::<Vec<_>>(), ["1", "1.2"]);
        assert_eq!(query.first("from"), Some("local/a"));
        assert_eq!(query.first("empty"), Some(""));
        assert_eq!(query.first("flag"), Some(""));
        assert_eq!(query.first("none"), None);
    }
}
