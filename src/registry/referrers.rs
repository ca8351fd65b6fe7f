//! Manifests that are attached to another one (distribution-spec, "Listing Referrers"): those its upstream lists and those
//! kept here, as one list.
//!
//! An outage is never an empty list. Whoever looks for a signature and is told "there is none" takes that for the truth,
//! so what could not be confirmed is answered with what is known and a warning, and with an error if nothing is known.

use super::error::Error;
use super::routing::Target;
use super::tags::Page;
use super::{Place, Registry, within_patience};
use crate::cache::{Listed, Outcome, Probe, Source};
use crate::metadata::ManifestRow;
use crate::oci::{Digest, Reference, Referrer, RepositoryName};

/// Referrers in one page: each brings its annotations.
const PAGE_MAX: usize = 100;
/// Bytes of the entries in one page, of which there is always one: the whole must stay below the size of a manifest, which
/// is what clients read.
const PAGE_MAX_BYTES: usize = 2 << 20;

impl Registry {
    /// The manifests of a repository whose subject is `subject`, after `last`, in the order of their digests, of one artifact
    /// type if one is given. A repository that is not known has none: the specification forbids a 404 here.
    pub async fn list_referrers(
        &self,
        target: &Target,
        subject: &Digest,
        artifact_type: Option<&str>,
        last: Option<&Digest>,
    ) -> Result<Page<Referrer>, Error> {
        let wanted = Wanted { subject, artifact_type, last, insists: target.caller.insists };
        match self.place(target, Probe::Manifest(Reference::Digest(*subject))).await? {
            Place::Local(name) => Ok(page_of(self.kept_referrers(&[&name], &wanted).await?)),
            Place::Mirror(source) => {
                within_patience(target, Box::pin(self.mirrored_referrers(&source, None, &wanted))).await
            }
            Place::Overlay(name, source) => {
                within_patience(target, Box::pin(self.mirrored_referrers(&source, Some(&name), &wanted))).await
            }
        }
    }

    async fn mirrored_referrers(
        &self,
        source: &Source,
        overlaid: Option<&RepositoryName>,
        wanted: &Wanted<'_>,
    ) -> Result<Page<Referrer>, Error> {
        let names: Vec<&RepositoryName> = overlaid.into_iter().chain([&source.canonical]).collect();
        let mut entries = self.kept_referrers(&names, wanted).await?;
        let (outcome, trouble) = match self.lists.referrers(source, wanted.subject, wanted.insists).await {
            Ok(Listed { entries: listed, outcome, trouble, .. }) => {
                entries.extend(listed.into_iter().filter(|entry| wanted.wants(entry)));
                (outcome, trouble)
            }
            Err(error) => (Outcome::Stale, Some(error)),
        };
        match trouble {
            // On a later page an end is no claim that there is nothing.
            Some(error) if entries.is_empty() && wanted.last.is_none() => Err(Error::cache(&source.canonical)(error)),
            trouble => Ok(page_of(entries).come_by(outcome, trouble.as_ref())),
        }
    }

    async fn kept_referrers(&self, names: &[&RepositoryName], wanted: &Wanted<'_>) -> Result<Vec<Referrer>, Error> {
        let Wanted { subject, artifact_type, last, .. } = *wanted;
        let mut entries = Vec::new();
        for name in names {
            let rows = self.depot().metadata.list_referrers(name, subject, artifact_type, last, PAGE_MAX + 1).await?;
            entries.extend(rows.into_iter().map(entry_of));
        }
        Ok(entries)
    }
}

/// What a request asks for.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    subject: &'a Digest,
    artifact_type: Option<&'a str>,
    last: Option<&'a Digest>,
    /// On the upstream's word.
    insists: bool,
}

impl Wanted<'_> {
    fn wants(&self, entry: &Referrer) -> bool {
        self.artifact_type.is_none_or(|wanted| entry.artifact_type.as_deref() == Some(wanted))
            && self.last.is_none_or(|last| entry.digest > *last)
    }
}

fn entry_of(row: ManifestRow) -> Referrer {
    Referrer {
        media_type: row.media_type,
        digest: row.digest,
        size_bytes: row.size_bytes,
        artifact_type: row.artifact_type,
        annotations: row.annotations,
    }
}

/// The first page of these entries. Of two that name one manifest the first counts: what is kept here was read from the
/// manifest itself.
fn page_of(mut entries: Vec<Referrer>) -> Page<Referrer> {
    entries.sort_by_key(|entry| entry.digest);
    entries.dedup_by_key(|entry| entry.digest);
    let size = |entry: &Referrer| serde_json::to_vec(entry).map_or(0, |bytes| bytes.len());
    let sizes = entries.iter().take(PAGE_MAX).scan(0, |sum, entry| {
        *sum += size(entry);
        Some(*sum)
    });
    let n = sizes.take_while(|sum| *sum <= PAGE_MAX_BYTES).count().max(1);
    Page::of(entries, n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    fn entry(seed: usize, annotation_bytes: usize) -> Referrer {
        Referrer {
            media_type: "a/b".to_owned(),
            digest: Digest::of(Algorithm::Sha256, &seed.to_le_bytes()),
            size_bytes: 1,
            artifact_type: None,
            annotations: [("k".to_owned(), "x".repeat(annotation_bytes))].into(),
        }
    }

    #[test]
    fn a_page_ends_at_its_entries_or_its_bytes_and_is_never_empty() {
        let page = |n: usize, bytes: usize| page_of((0..n).map(|seed| entry(seed, bytes)).collect());
        for (n, bytes, expected, has_more) in
            [(0, 1, 0, false), (100, 1, 100, false), (101, 1, 100, true), (9, 1 << 20, 1, true), (2, 3 << 20, 1, true)]
        {
            let page = page(n, bytes);
            assert_eq!((page.entries.len(), page.has_more), (expected, has_more), "{n} entries of {bytes} bytes");
        }
    }

    #[test]
    fn of_two_entries_for_one_manifest_the_first_counts() {
        let (ours, theirs) = (entry(1, 5), entry(1, 6));
        assert_eq!(page_of(vec![ours.clone(), theirs]).entries, [ours]);
    }
}
