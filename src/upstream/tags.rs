//! One page of an upstream's tag list (distribution-spec, "Listing Tags").

use reqwest::Method;
use reqwest::header::HeaderMap;
use serde::Deserialize;

use super::Upstream;
use super::error::{Error, Nonsense};
use super::link::{next_query, parameter};
use super::sources::Question;
use super::transport::Kind;
use crate::oci::{RepositoryName, Tag};

/// A page of tags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagPage {
    /// The tags, in the upstream's order. Names that are no tags are left out: nobody could pull them.
    pub tags: Vec<Tag>,
    /// The `last` to ask the next page with; none on the last page.
    pub next: Option<String>,
    /// The query to ask the next page with, as the upstream wants it; none on the last page.
    pub next_query: Option<String>,
}

impl Upstream {
    /// One page of the repository's tags: at most `n`, those after `last`.
    pub async fn list_tags(
        &self,
        repository: &RepositoryName,
        n: Option<usize>,
        last: Option<&str>,
    ) -> Result<TagPage, Error> {
        self.ask_tags(repository, &query_of(n, last)).await
    }

    /// The page of tags that the page before it announced: `next_query` is its [`TagPage::next_query`].
    pub async fn list_more_tags(&self, repository: &RepositoryName, next_query: &str) -> Result<TagPage, Error> {
        self.ask_tags(repository, next_query).await
    }

    async fn ask_tags(&self, repository: &RepositoryName, query: &str) -> Result<TagPage, Error> {
        let mut question = Question::new(Method::GET, Kind::Metadata, repository, "tags/list".to_owned());
        question.accept = Some("application/json".to_owned());
        query.clone_into(&mut question.query);
        let question = &question;
        self.retrying(question, |source| async move {
            let answer = source.ask(question).await?;
            let (request, headers) = (answer.request.clone(), answer.response.headers().clone());
            let body = self.read(answer).await?;
            read(&body, &headers).ok_or(Error::Nonsense { request, what: Nonsense::TagList })
        })
        .await
    }
}

fn query_of(n: Option<usize>, last: Option<&str>) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(n.map(|n| ("n", n.to_string()))).extend_pairs(last.map(|last| ("last", last))).finish()
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
    let next_query = next_query(headers);
    // Some upstreams page by a token of their own; the name of the last tag serves them as well.
    let next = next_query.as_ref().and_then(|query| parameter(query, "last").or_else(|| names.last().cloned()));
    Some(TagPage { tags: names.iter().filter_map(|name| name.parse().ok()).collect(), next, next_query })
}

#[cfg(test)]
mod tests {
    use reqwest::header::LINK;

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
}
