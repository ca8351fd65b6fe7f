//! What an upstream says is attached to a manifest: its referrers API, a page at a time, and the tag that stands for it
//! where there is no such API (distribution-spec, "Listing Referrers", "Referrers Tag Schema").

use reqwest::Method;

use super::error::{Error, Nonsense};
use super::link::next_query;
use super::transport::Ask;
use super::{Upstream, refuse_html};
use crate::oci::{Digest, OCI_INDEX, Referrer, RepositoryName};

/// A page of referrers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReferrersPage {
    /// The entries, in the upstream's order.
    pub referrers: Vec<Referrer>,
    /// What to ask the next page with; none on the last page.
    pub next: Option<String>,
}

impl Upstream {
    /// One page of what is attached to `subject`: the first, or the one that `page` of the page before names. An upstream
    /// without this API answers so that [`Error::is_unsupported`] or [`Error::is_not_found`] is true.
    pub async fn list_referrers(
        &self,
        repository: &RepositoryName,
        subject: &Digest,
        page: Option<&str>,
    ) -> Result<ReferrersPage, Error> {
        let url = self.url_with(repository, &format!("referrers/{subject}"), page.unwrap_or_default());
        let ask = Ask { method: Method::GET, url, accept: Some(OCI_INDEX.to_owned()), range: None };
        self.retrying(&ask, || async {
            let answer = self.ask(&ask, repository).await?;
            let (request, headers) = (answer.request.clone(), answer.response.headers().clone());
            refuse_html(&request, answer.content_type().as_deref(), b"")?;
            let body = self.read(answer).await?;
            let referrers = Referrer::read_index(&body);
            let referrers = referrers.ok_or(Error::Nonsense { request, what: Nonsense::Referrers })?;
            Ok(ReferrersPage { referrers, next: next_query(&headers) })
        })
        .await
    }
}
