//! One page of an upstream's tag list (distribution-spec, "Listing Tags").

use reqwest::header::{HeaderMap, LINK};
use serde::Deserialize;
use url::Url;

use crate::oci::Tag;

/// A page of tags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagPage {
    /// The tags, in the upstream's order. Names that are no tags are left out: nobody could pull them.
    pub tags: Vec<Tag>,
    /// The `last` to ask the next page with; none on the last page.
    pub next: Option<String>,
}

#[derive(Deserialize)]
struct Listed {
    /// Registries in Go write an empty list as null.
    tags: Option<Vec<String>>,
}

/// Reads the body and the `Link` that announces more; `None` if the body is no tag list.
pub fn read(body: &[u8], headers: &HeaderMap) -> Option<TagPage> {
    let listed: Listed = serde_json::from_slice(body).ok()?;
    let names = listed.tags.unwrap_or_default();
    let link = headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok()).find_map(next_target);
    // Some upstreams page by a token of their own; the name of the last tag serves them as well.
    let next = link.and_then(|target| last_parameter(target).or_else(|| names.last().cloned()));
    Some(TagPage { tags: names.iter().filter_map(|name| name.parse().ok()).collect(), next })
}

/// The target of `<target>; rel="next"` (RFC 8288).
fn next_target(value: &str) -> Option<&str> {
    let (target, parameters) = value.trim().strip_prefix('<')?.split_once('>')?;
    let is_next = |parameter: &str| {
        let parameter = parameter.trim().to_ascii_lowercase();
        matches!(parameter.as_str(), "rel=next" | "rel=\"next\"")
    };
    parameters.split([';', ',']).any(is_next).then_some(target)
}

fn last_parameter(target: &str) -> Option<String> {
    let query = target.split_once('?')?.1;
    // Only the query is of interest, so any base does.
    let url = Url::parse(&format!("http://localhost/?{query}")).ok()?;
    url.query_pairs().find(|(name, value)| name == "last" && !value.is_empty()).map(|(_, value)| value.into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn page(body: &str, link: Option<&str>) -> Option<(Vec<String>, Option<String>)> {
        let headers = link.map(|link| (LINK, link.parse().unwrap())).into_iter().collect();
        read(body.as_bytes(), &headers).map(|page| (page.tags.iter().map(ToString::to_string).collect(), page.next))
    }

    #[test]
    fn pages_of_each_form_are_read() {
        let two = r#"{"name":"a/b","tags":["1","2"]}"#;
        let tags = || vec!["1".to_owned(), "2".to_owned()];
        assert_eq!(page(two, None), Some((tags(), None)));
        let next = |link| page(two, Some(link)).unwrap().1;
        assert_eq!(next("</v2/a/b/tags/list?n=2&last=x%2By>; rel=\"next\"").as_deref(), Some("x+y"));
        assert_eq!(next("<https://a/v2/a/b/tags/list?next_page=xyz>; rel=next").as_deref(), Some("2"));
        assert_eq!(next("</v2/a/b/tags/list?last=0>; rel=\"prev\""), None);
        assert_eq!(page(r#"{"name":"a/b","tags":null}"#, None), Some((vec![], None)));
        assert_eq!(page(r#"{"tags":["ok","not ok"]}"#, None), Some((vec!["ok".to_owned()], None)));
        assert_eq!(page("<html>", None), None);
    }

    proptest! {
        #[test]
        fn no_link_panics_the_reader(link in "[<>;,=\"a-z?&%/ ]{0,60}") {
            let _ = next_target(&link).map(last_parameter);
        }
    }
}
