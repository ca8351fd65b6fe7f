//! Lists: the tags of a repository, the repositories of the registry (distribution-spec, "Listing Tags").

use super::error::Error;
use super::routing::Target;
use super::{Place, Registry};
use crate::cache::Source;
use crate::oci::{RepositoryName, Tag};

/// Entries in one page, however many were asked for.
pub const PAGE_MAX: usize = 1000;

/// One page of a list, in bytewise order.
#[derive(Debug)]
pub struct Page<T> {
    /// The entries.
    pub entries: Vec<T>,
    /// There are more after the last of these.
    pub has_more: bool,
}

impl<T> Page<T> {
    /// A page of at most `n` out of what a query for one more than that gave.
    pub(super) fn of(mut entries: Vec<T>, n: usize) -> Self {
        let has_more = n > 0 && entries.len() > n;
        entries.truncate(n);
        Self { entries, has_more }
    }
}

impl Registry {
    /// The tags of a repository that come after `last`: those kept here and, for a mirrored one, those its upstream has.
    /// A local repository that nobody pushed to yet has none, as conformance asks.
    pub async fn list_tags(&self, target: &Target, n: usize, last: Option<&str>) -> Result<Page<Tag>, Error> {
        let n = n.min(PAGE_MAX);
        match self.place(target).await? {
            Place::Local(name) => self.local_tags(&name, n, last).await,
            Place::Mirror(source) => self.mirrored_tags(&source, None, n, last).await,
            Place::Overlay(name, source) => self.mirrored_tags(&source, Some(&name), n, last).await,
        }
    }

    /// The repositories of the registry that come after `last`.
    pub async fn list_repositories(&self, n: usize, last: Option<&str>) -> Result<Page<RepositoryName>, Error> {
        let n = n.min(PAGE_MAX);
        Ok(Page::of(self.depot().metadata.list_repositories(last, n + 1).await?, n))
    }

    async fn local_tags(&self, name: &RepositoryName, n: usize, last: Option<&str>) -> Result<Page<Tag>, Error> {
        Ok(Page::of(self.depot().metadata.list_tags(name, last, n + 1).await?, n))
    }

    /// The upstream's page with the tags kept here merged in. An upstream that fails leaves the tags kept here.
    async fn mirrored_tags(
        &self,
        source: &Source,
        overlaid: Option<&RepositoryName>,
        n: usize,
        last: Option<&str>,
    ) -> Result<Page<Tag>, Error> {
        let metadata = &self.depot().metadata;
        let mut tags = metadata.list_tags(&source.canonical, last, n + 1).await?;
        if let Some(name) = overlaid {
            tags.extend(metadata.list_tags(name, last, n + 1).await?);
        }
        let mirror = &source.mirror;
        let listed = mirror.ask("list_tags", mirror.upstream().list_tags(&source.remote, Some(n.max(1)), last)).await;
        let upstream_has_more = match listed {
            Ok(page) => {
                // A page may be shorter than asked: what is kept here and comes after it belongs to a later one.
                if let Some(end) = page.tags.iter().max().filter(|_| page.next.is_some()) {
                    tags.retain(|tag| tag <= end);
                }
                tags.extend(page.tags.into_iter().filter(|tag| last.is_none_or(|last| tag.as_str() > last)));
                page.next.is_some()
            }
            Err(error) if tags.is_empty() && last.is_none() => return Err(Error::cache(&source.canonical)(error)),
            Err(_) => false,
        };
        tags.sort_unstable();
        tags.dedup();
        let mut page = Page::of(tags, n);
        page.has_more |= upstream_has_more && n > 0;
        Ok(page)
    }
}
