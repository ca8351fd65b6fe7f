//! Manifests that are attached to another one (distribution-spec, "Listing Referrers").

use super::error::Error;
use super::routing::Target;
use super::tags::Page;
use super::{Place, Registry};
use crate::metadata::ManifestRow;
use crate::oci::{Digest, RepositoryName};

/// Referrers in one page: each brings its annotations, and the whole must stay within a manifest's size.
const PAGE_MAX: usize = 100;

impl Registry {
    /// The manifests of a repository whose subject is `subject`, after `last`, in the order of their digests. A repository
    /// that is not known has none: the specification forbids a 404 here.
    pub async fn list_referrers(
        &self,
        target: &Target,
        subject: &Digest,
        artifact_type: Option<&str>,
        last: Option<&Digest>,
    ) -> Result<Page<ManifestRow>, Error> {
        let names: Vec<RepositoryName> = match self.place(target).await? {
            Place::Local(name) => vec![name],
            Place::Mirror(source) => vec![source.canonical],
            Place::Overlay(name, source) => vec![name, source.canonical],
        };
        let mut rows = Vec::new();
        for name in &names {
            let found = self.depot().metadata.list_referrers(name, subject, artifact_type, last, PAGE_MAX + 1).await?;
            rows.extend(found);
        }
        rows.sort_by_key(|row| row.digest);
        rows.dedup_by_key(|row| row.digest);
        Ok(Page::of(rows, PAGE_MAX))
    }
}
