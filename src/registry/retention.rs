//! Retention: which pushed tags and manifests go by the rules of the configuration, and why. The decision is pure; deleting is
//! what a client's DELETE does.

use std::sync::Arc;
use std::time::Duration;

use globset::{GlobMatcher, GlobSet};
use tracing::warn;

use super::{Error, Registry};
use crate::cache::{self, to_the_end};
use crate::metadata::{AgedManifest, AgedTag, Metadata};
use crate::oci::{Digest, Reference, RepositoryName};
use crate::report::Chain;

/// Repositories looked at per question.
const PAGE: usize = 1000;

/// What stays of the repositories that a pattern matches.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The pattern as it is written.
    pub written: String,
    /// Which repositories it is about.
    pub repositories: GlobMatcher,
    /// So many tags stay, the last written.
    pub keep_last: Option<usize>,
    /// Tags that stay, and do not count among the last.
    pub keep_tags: GlobSet,
    /// Tags stay whose manifest was pulled or pushed within this time.
    pub keep_pulled_within: Option<Duration>,
    /// Manifests that nothing leads to go when they were neither pulled nor pushed for so long.
    pub delete_untagged_after: Option<Duration>,
}

/// Something that a rule does not keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expired {
    /// The repository.
    pub repo: RepositoryName,
    /// The tag, or the digest of an untagged manifest.
    pub reference: Reference,
    /// The manifest.
    pub digest: Digest,
    /// The pattern of the rule.
    pub rule: String,
    /// Why it goes.
    pub why: String,
}

impl Rule {
    /// The tags that go, each with the reason. `tags` begins with the last written; `is_attached` says of a tag whether it stands
    /// for something attached to a manifest that is here, as signatures do: that stays as long as the manifest.
    fn expired_tags<'a>(
        &self,
        tags: &'a [AgedTag],
        is_attached: impl Fn(&AgedTag) -> bool,
        now_ms: i64,
    ) -> Vec<(&'a AgedTag, String)> {
        if self.keep_last.is_none() && self.keep_pulled_within.is_none() {
            return Vec::new();
        }
        let mut rank = 0;
        let mut expired = Vec::new();
        for tag in tags {
            if tag.is_pinned || self.keep_tags.is_match(tag.name.as_str()) || is_attached(tag) {
                continue;
            }
            rank += 1;
            let is_among_last = self.keep_last.is_some_and(|last| rank <= last);
            let is_in_use = self.keep_pulled_within.is_some_and(|time| is_within(tag.used_ms, time, now_ms));
            if is_among_last || is_in_use {
                continue;
            }
            let mut whys = Vec::new();
            if let Some(last) = self.keep_last {
                whys.push(format!("number {rank} of the last written, {last} are kept"));
            }
            if let Some(time) = self.keep_pulled_within {
                whys.push(format!("not pulled or pushed within {}", humantime::format_duration(time)));
            }
            expired.push((tag, whys.join("; ")));
        }
        expired
    }

    fn expired_manifests<'a>(&self, untagged: &'a [AgedManifest], now_ms: i64) -> Vec<(&'a AgedManifest, String)> {
        let Some(time) = self.delete_untagged_after else { return Vec::new() };
        let why = format!(
            "no tag, index or subject leads to it; not pulled or pushed within {}",
            humantime::format_duration(time)
        );
        let old = untagged.iter().filter(|manifest| !is_within(manifest.used_ms, time, now_ms));
        old.map(|manifest| (manifest, why.clone())).collect()
    }
}

fn is_within(at_ms: i64, time: Duration, now_ms: i64) -> bool {
    let time_ms = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    now_ms.saturating_sub(at_ms) <= time_ms
}

/// A thing that goes, as it was when that was decided.
enum Doomed {
    Tag(AgedTag),
    Manifest(Digest),
}

/// Everything that the rules do not keep, and nothing changed. The first rule that matches a repository counts.
pub async fn plan(metadata: &Metadata, rules: &[Rule], now_ms: i64) -> Result<Vec<Expired>, Error> {
    let mut all = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = metadata.list_repositories(after.as_deref(), PAGE).await?;
        for repo in &page {
            let Some(rule) = rule_of(rules, repo) else { continue };
            all.extend(doomed(metadata, rule, repo, now_ms).await?.into_iter().map(|(_, expired)| expired));
        }
        let Some(last) = page.last().filter(|_| page.len() == PAGE) else { return Ok(all) };
        after = Some(last.to_string());
    }
}

fn rule_of<'a>(rules: &'a [Rule], repo: &RepositoryName) -> Option<&'a Rule> {
    rules.iter().find(|rule| rule.repositories.is_match(repo.as_str()))
}

async fn doomed(
    metadata: &Metadata,
    rule: &Rule,
    repo: &RepositoryName,
    now_ms: i64,
) -> Result<Vec<(Doomed, Expired)>, Error> {
    let tags = metadata.list_aged_tags(repo).await?;
    let mut attached = Vec::new();
    for tag in &tags {
        if let Some(subject) = attached_to(tag)
            && metadata.find_manifest(repo, &subject).await?.is_some()
        {
            attached.push(tag.name.clone());
        }
    }
    let expired =
        |reference, digest, why| Expired { repo: repo.clone(), reference, digest, rule: rule.written.clone(), why };
    let expired_tags = rule.expired_tags(&tags, |tag| attached.contains(&tag.name), now_ms);
    let mut doomed: Vec<(Doomed, Expired)> = expired_tags
        .into_iter()
        .map(|(tag, why)| (Doomed::Tag(tag.clone()), expired(Reference::Tag(tag.name.clone()), tag.digest, why)))
        .collect();
    if rule.delete_untagged_after.is_some() {
        let untagged = metadata.list_untagged(repo).await?;
        doomed.extend(rule.expired_manifests(&untagged, now_ms).into_iter().map(|(manifest, why)| {
            let digest = manifest.digest;
            (Doomed::Manifest(digest), expired(Reference::Digest(digest), digest, why))
        }));
    }
    Ok(doomed)
}

/// `sha256-…` and `sha256-….sig`: what clients without a referrers API hang things on a manifest by.
fn attached_to(tag: &AgedTag) -> Option<Digest> {
    let (algorithm, rest) = tag.name.as_str().split_once('-')?;
    let hex = rest.split('.').next()?;
    format!("{algorithm}:{hex}").parse().ok()
}

impl Registry {
    /// What the rules do not keep; nothing is changed.
    pub async fn plan_retention(&self) -> Result<Vec<Expired>, Error> {
        let depot = self.depot();
        // Pulls of the last seconds are only noted yet, and keep what was pulled.
        self.flush_reads().await;
        plan(&depot.metadata, &self.options.retention, depot.clock.now_ms()).await
    }

    /// Deletes what the rules do not keep. What was pushed again since that was decided stays. Returns what went.
    pub async fn apply_retention(self: &Arc<Self>) -> Result<Vec<Expired>, Error> {
        let rules = &self.options.retention;
        if rules.is_empty() {
            return Ok(Vec::new());
        }
        self.flush_reads().await;
        let mut gone = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.depot().metadata.list_repositories(after.as_deref(), PAGE).await?;
            for repo in &page {
                let Some(rule) = rule_of(rules, repo) else { continue };
                let now_ms = self.depot().clock.now_ms();
                for (doomed, expired) in doomed(&self.depot().metadata, rule, repo, now_ms).await? {
                    if self.expire(repo, doomed).await? {
                        gone.push(expired);
                    }
                }
            }
            let Some(last) = page.last().filter(|_| page.len() == PAGE) else { return Ok(gone) };
            after = Some(last.to_string());
        }
    }

    /// What cannot be written now is written later: the rules then see pulls of half a minute ago.
    async fn flush_reads(&self) {
        if let Err(error) = self.depot().room.flush_touches().await {
            warn!(error = %Chain(&error), "writing the times of last reads failed");
        }
    }

    async fn expire(self: &Arc<Self>, repo: &RepositoryName, doomed: Doomed) -> Result<bool, Error> {
        let (this, name) = (Arc::clone(self), repo.clone());
        let ended = to_the_end(async move {
            let metadata = &this.depot().metadata;
            let is_gone = match &doomed {
                Doomed::Tag(tag) => {
                    let notices = this.deleted(&name, &Reference::Tag(tag.name.clone()), None);
                    metadata.delete_tag_as_it_was(&name, tag, &notices).await?
                }
                Doomed::Manifest(digest) => {
                    let notices = this.deleted(&name, &Reference::Digest(*digest), None);
                    metadata.delete_untagged(&name, digest, &notices).await?
                }
            };
            match doomed {
                Doomed::Tag(tag) => this.memory.forget_tag(&name, &tag.name),
                Doomed::Manifest(digest) => this.memory.forget_manifest(&name, &digest),
            }
            Ok(is_gone)
        });
        ended.await.unwrap_or(Err(Error::cache(repo)(cache::Error::Stopped)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    const DAY_MS: i64 = 86_400_000;
    const NOW_MS: i64 = 1000 * DAY_MS;

    fn rule() -> Rule {
        Rule {
            written: "ci/**".to_owned(),
            repositories: globset::Glob::new("ci/**").unwrap().compile_matcher(),
            keep_last: None,
            keep_tags: GlobSet::empty(),
            keep_pulled_within: None,
            delete_untagged_after: None,
        }
    }

    /// Tags of which the first was written and used last, a day between any two.
    fn tags(names: &[&str]) -> Vec<AgedTag> {
        let tag = |(n, name): (usize, &&str)| {
            let at_ms = NOW_MS - DAY_MS * i64::try_from(n).unwrap();
            let digest = Digest::of(Algorithm::Sha256, name.as_bytes());
            AgedTag { name: name.parse().unwrap(), digest, updated_ms: at_ms, used_ms: at_ms, is_pinned: false }
        };
        names.iter().enumerate().map(tag).collect()
    }

    fn gone(rule: &Rule, tags: &[AgedTag]) -> Vec<String> {
        rule.expired_tags(tags, |_| false, NOW_MS).into_iter().map(|(tag, _)| tag.name.to_string()).collect()
    }

    #[test]
    fn the_last_written_stay_and_what_a_pattern_keeps_does_not_count_among_them() {
        let keep_tags = globset::GlobSetBuilder::new().add(globset::Glob::new("v*").unwrap()).build().unwrap();
        let rule = Rule { keep_last: Some(2), keep_tags, ..rule() };
        assert_eq!(gone(&rule, &tags(&["v3", "c", "b", "v2", "a", "v1"])), ["a"]);
    }

    #[test]
    fn a_tag_in_use_stays_however_many_are_newer() {
        let rule = Rule { keep_last: Some(1), keep_pulled_within: Some(Duration::from_hours(48)), ..rule() };
        let mut tags = tags(&["d", "c", "b", "a", "z"]);
        tags[4].used_ms = NOW_MS;
        assert_eq!(gone(&rule, &tags), ["a"], "d is the last, c and b are two days old at most, z was pulled just now");
    }

    #[test]
    fn what_is_pinned_or_attached_stays_and_a_rule_that_keeps_nothing_deletes_no_tag() {
        let mut tags = tags(&["b", "a"]);
        tags[0].is_pinned = true;
        let none = Rule { keep_last: Some(0), ..rule() };
        assert_eq!(gone(&none, &tags), ["a"]);
        assert!(none.expired_tags(&tags, |_| true, NOW_MS).is_empty());
        let untagged_only = Rule { delete_untagged_after: Some(Duration::ZERO), ..rule() };
        assert!(gone(&untagged_only, &tags).is_empty());
    }

    #[test]
    fn each_that_goes_says_why() {
        let rule = Rule { keep_last: Some(1), keep_pulled_within: Some(Duration::from_secs(1)), ..rule() };
        let tags = tags(&["b", "a"]);
        let (_, why) = &rule.expired_tags(&tags, |_| false, NOW_MS)[0];
        assert_eq!(why, "number 2 of the last written, 1 are kept; not pulled or pushed within 1s");
    }

    #[test]
    fn untagged_manifests_go_when_nobody_used_them_for_so_long() {
        let manifest = |days: i64| AgedManifest {
            digest: Digest::of(Algorithm::Sha256, &days.to_be_bytes()),
            used_ms: NOW_MS - days * DAY_MS,
        };
        let untagged = [manifest(1), manifest(8)];
        let rule = Rule { delete_untagged_after: Some(Duration::from_hours(7 * 24)), ..rule() };
        let gone: Vec<_> = rule.expired_manifests(&untagged, NOW_MS).into_iter().map(|(one, _)| one.digest).collect();
        assert_eq!(gone, [untagged[1].digest]);
    }

    #[test]
    fn signatures_by_tag_are_attached_to_their_manifest() {
        let digest = Digest::of(Algorithm::Sha256, b"x");
        for (name, subject) in [
            (format!("sha256-{}.sig", digest.hex()), Some(digest)),
            (format!("sha256-{}", digest.hex()), Some(digest)),
            ("v1-rc".to_owned(), None),
            ("plain".to_owned(), None),
        ] {
            let mut tag = tags(&["t"]).remove(0);
            tag.name = name.parse().unwrap();
            assert_eq!(attached_to(&tag), subject, "{name}");
        }
    }
}
