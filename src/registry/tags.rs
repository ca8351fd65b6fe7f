//! Lists: the tags of a repository, the repositories of the registry (distribution-spec, "Listing Tags").

use super::error::Error;
use super::routing::Target;
use super::{Place, Registry, Sight, within_patience};
use crate::cache::{Error as CacheError, Listed, Outcome, Probe, Source, Staleness};
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
    /// How it was come by.
    pub outcome: Outcome,
    /// Set if it could not be confirmed although it should have been: there may be more than is listed.
    pub stale: Option<Staleness>,
}

impl<T> Page<T> {
    /// A page of at most `n` out of what a query for one more than that gave.
    pub(super) fn of(mut entries: Vec<T>, n: usize) -> Self {
        let has_more = n > 0 && entries.len() > n;
        entries.truncate(n);
        Self { entries, has_more, outcome: Outcome::Local, stale: None }
    }

    /// The same page with how it was come by.
    pub(super) fn come_by(self, outcome: Outcome, trouble: Option<&CacheError>) -> Self {
        Self { outcome, stale: trouble.map(|trouble| Staleness { reason: trouble.kind() }), ..self }
    }
}

impl Registry {
    /// The tags of a repository that come after `last`: those kept here and, for a mirrored one, those its upstream has.
    /// A local repository that nobody pushed to yet has none, as conformance asks.
    pub async fn list_tags(&self, target: &Target, n: usize, last: Option<&str>) -> Result<Page<Tag>, Error> {
        let n = n.min(PAGE_MAX);
        match self.place(target, Probe::Tags).await? {
            Place::Local(name) => self.local_tags(&name, n, last).await,
            Place::Mirror(source) => {
                within_patience(target, Box::pin(self.mirrored_tags(target, &source, None, n, last))).await
            }
            Place::Overlay(name, source) => {
                within_patience(target, Box::pin(self.mirrored_tags(target, &source, Some(&name), n, last))).await
            }
        }
    }

    /// The repositories of the registry that come after `last`, as far as they may be seen.
    pub async fn list_repositories(
        &self,
        sight: &Sight,
        n: usize,
        last: Option<&str>,
    ) -> Result<Page<RepositoryName>, Error> {
        let n = n.min(PAGE_MAX);
        let mut names: Vec<RepositoryName> = Vec::new();
        let mut last = last.map(str::to_owned);
        // Names that are not for everyone take no place on a page.
        while names.len() <= n {
            let found = self.depot().metadata.list_repositories(last.as_deref(), n + 1).await?;
            let is_end = found.len() <= n;
            last = found.last().map(ToString::to_string);
            names.extend(self.readable(&found, sight));
            if is_end {
                break;
            }
        }
        Ok(Page::of(names, n))
    }

    async fn local_tags(&self, name: &RepositoryName, n: usize, last: Option<&str>) -> Result<Page<Tag>, Error> {
        Ok(Page::of(self.depot().metadata.list_tags(name, last, n + 1).await?, n))
    }

    /// The upstream's tags with those kept here merged in. An upstream that fails and whose list is not kept either leaves
    /// the tags kept here, which is told.
    async fn mirrored_tags(
        &self,
        target: &Target,
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
        match self.lists.tags(source, target.caller.insists).await {
            Ok(Listed { entries, is_whole: true, outcome, trouble }) => {
                let after = entries.partition_point(|tag| last.is_some_and(|last| tag.as_str() <= last));
                let is_empty = entries.is_empty() && tags.is_empty();
                tags.extend(entries[after..].iter().take(n + 1).filter_map(|tag| tag.parse().ok()));
                match trouble {
                    // That there was nothing is no answer to what there is.
                    Some(error) if is_empty && last.is_none() => return Err(Error::cache(&source.canonical)(error)),
                    _ => {}
                }
                Ok(page_of(tags, n).come_by(outcome, trouble.as_ref()))
            }
            Ok(Listed { is_whole: false, .. }) | Err(CacheError::Slow { .. }) => {
                Box::pin(self.page_from_upstream(source, tags, n, last)).await
            }
            Err(error) => without_upstream(source, tags, n, error),
        }
    }

    /// For a list that is too long to be kept, or that takes too long to come: the one page that was asked for.
    async fn page_from_upstream(
        &self,
        source: &Source,
        mut tags: Vec<Tag>,
        n: usize,
        last: Option<&str>,
    ) -> Result<Page<Tag>, Error> {
        let mirror = &source.mirror;
        let listed = mirror.ask("list_tags", source.upstream().list_tags(&source.remote, Some(n.max(1)), last)).await;
        let page = match listed {
            Ok(page) => page,
            Err(error) => return without_upstream(source, tags, n, error),
        };
        // A page may be shorter than asked: what is kept here and comes after it belongs to a later one.
        if let Some(end) = page.tags.iter().max().filter(|_| page.next.is_some()) {
            tags.retain(|tag| tag <= end);
        }
        tags.extend(page.tags.into_iter().filter(|tag| last.is_none_or(|last| tag.as_str() > last)));
        let mut merged = page_of(tags, n).come_by(Outcome::Bypass, None);
        merged.has_more |= page.next.is_some() && n > 0;
        Ok(merged)
    }
}

fn page_of(mut tags: Vec<Tag>, n: usize) -> Page<Tag> {
    tags.sort_unstable();
    tags.dedup();
    Page::of(tags, n)
}

fn without_upstream(source: &Source, tags: Vec<Tag>, n: usize, error: CacheError) -> Result<Page<Tag>, Error> {
    if tags.is_empty() {
        return Err(Error::cache(&source.canonical)(error));
    }
    Ok(page_of(tags, n).come_by(Outcome::Stale, Some(&error)))
}
