//! `Link: <target>; rel="next"` (RFC 8288): where a list goes on.
//!
//! Only the query of the target is ever used, on the path that was asked before: a list cannot lead us, and what
//! authorizes us, to another place.

use reqwest::header::{HeaderMap, LINK};
use url::Url;

/// The query with which the next page is to be asked; `None` on the last one.
pub fn next_query(headers: &HeaderMap) -> Option<String> {
    let target = headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok()).find_map(next_target)?;
    target.split_once('?').map(|(_, query)| query.split('#').next().unwrap_or_default().to_owned())
}

/// A parameter of a query, if it is there and not empty.
pub fn parameter(query: &str, wanted: &str) -> Option<String> {
    // Only the query is of interest, so any base does.
    let url = Url::parse(&format!("http://localhost/?{query}")).ok()?;
    url.query_pairs().find(|(name, value)| name == wanted && !value.is_empty()).map(|(_, value)| value.into_owned())
}

/// The target of `<target>; rel="next"`.
pub fn next_target(value: &str) -> Option<&str> {
    let (target, parameters) = value.trim().strip_prefix('<')?.split_once('>')?;
    let is_next = |parameter: &str| {
        let parameter = parameter.trim().to_ascii_lowercase();
        matches!(parameter.as_str(), "rel=next" | "rel=\"next\"")
    };
    parameters.split([';', ',']).any(is_next).then_some(target)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_query_of_the_next_page_is_taken_and_nothing_else() {
        let query = |link: &str| next_query(&[(LINK, link.parse().unwrap())].into_iter().collect());
        assert_eq!(query("</v2/a/referrers/x?n=2&last=y>; rel=\"next\"").as_deref(), Some("n=2&last=y"));
        assert_eq!(query("<https://evil.example/v2/a?token=1#x>; rel=next").as_deref(), Some("token=1"));
        assert_eq!(query("</v2/a?last=0>; rel=\"prev\""), None);
        assert_eq!(query("</v2/a>; rel=\"next\""), None);
    }

    proptest! {
        #[test]
        fn no_link_panics_the_reader(link in "[<>;,=\"a-z?&%/ ]{0,60}") {
            let _ = next_target(&link).map(|target| parameter(target, "last"));
        }
    }
}
