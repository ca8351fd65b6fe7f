//! URLs that cannot print a secret.

use std::fmt;
use std::sync::Arc;

use url::Url;

/// Characters of a URL that are worth printing; an upstream may redirect to longer ones.
const PRINTED_LENGTH_MAX: usize = 512;

/// A URL without user, password, query and fragment, for logs and errors: CDNs sign their URLs in the query.
#[derive(Clone, PartialEq, Eq)]
pub struct SafeUrl(Arc<str>);

impl SafeUrl {
    /// Keeps scheme, host, port and path.
    pub fn new(url: &Url) -> Self {
        let mut text = format!("{}://{}", url.scheme(), url.host_str().unwrap_or_default());
        if let Some(port) = url.port() {
            text.push(':');
            text.push_str(&port.to_string());
        }
        text.push_str(url.path());
        if text.len() > PRINTED_LENGTH_MAX {
            // A parsed URL is ASCII, but a path without host is not worth a panic if that ever changes.
            let end = text.floor_char_boundary(PRINTED_LENGTH_MAX);
            text.truncate(end);
            text.push('…');
        }
        Self(text.into())
    }

    /// The printable text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SafeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SafeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_password_query_and_fragment_are_never_printed() {
        let url = Url::parse("https://user:hunter2@cdn.example:8443/blob/a?X-Signature=hunter2#hunter2").unwrap();
        assert_eq!(SafeUrl::new(&url).to_string(), "https://cdn.example:8443/blob/a");
        assert_eq!(format!("{:?}", SafeUrl::new(&url)), "https://cdn.example:8443/blob/a");
    }

    #[test]
    fn long_urls_are_shortened_and_odd_ones_printed() {
        let url = Url::parse(&format!("https://a/{}", "x".repeat(10_000))).unwrap();
        assert!(SafeUrl::new(&url).as_str().len() < 600);
        assert_eq!(
            SafeUrl::new(&Url::parse("mailto:someone@example.org").unwrap()).as_str(),
            "mailto://someone@example.org"
        );
    }
}
