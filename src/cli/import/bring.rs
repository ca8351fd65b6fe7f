//! Bringing a layout in: blobs, then manifests, then tags.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::io::Read;

use anyhow::{Context as _, bail};
use http::header::LOCATION;
use http::{HeaderMap, Method};
use serde_json::Value;
use url::form_urlencoded;

use super::Imported;
use super::names::{Rule, place};
use super::plan::Plan;
use crate::cli::door::{Door, From};
use crate::layout::{self, Layout, Member, Part, Spool, parse_index, read_manifest, read_members};
use crate::oci::{Digest, Manifest, RepositoryName, Tag};

/// Bytes of a manifest: what registries accept.
const MANIFEST_BYTES_MAX: u64 = 4 << 20;
/// Tags that one request sets.
const TAGS_PER_REQUEST: usize = 50;
/// Missing pieces that are listed before the rest is only counted.
const MISSING_SHOWN_MAX: usize = 20;

/// An import under way.
pub struct Bring<'a> {
    door: &'a Door,
    rules: &'a [Rule],
    as_cached: bool,
    plan: Plan,
    /// Blobs that are here by now.
    brought: HashSet<Digest>,
    /// What was done.
    pub imported: Imported,
}

impl<'a> Bring<'a> {
    pub fn new(door: &'a Door, rules: &'a [Rule], as_cached: bool) -> Self {
        Self { door, rules, as_cached, plan: Plan::default(), brought: HashSet::new(), imported: Imported::default() }
    }

    /// A layout whose parts can be read in any order. Returns what is here already, if that is all that is wanted.
    pub async fn layout(&mut self, layout: &Layout, only_list: bool) -> anyhow::Result<Vec<Digest>> {
        self.plan = Plan::new(parse_index(&layout.index()?)?, self.rules)?;
        self.all(only_list, |digest| layout.blob(digest)).await
    }

    /// An archive that comes through a pipe: what is known to be wanted goes in as it comes, the rest waits on the disk.
    pub async fn pipe(&mut self, pipe: impl Read, only_list: bool) -> anyhow::Result<Vec<Digest>> {
        let (mut spool, mut has_index) = (Spool::default(), false);
        read_members(pipe, async |member, size_bytes, reader| {
            match member {
                Member::Index => {
                    let entries = parse_index(&layout::read_index(size_bytes, reader)?)?;
                    (self.plan, has_index) = (Plan::new(entries, self.rules)?, true);
                }
                Member::Blob(digest) => self.arrived(digest, size_bytes, reader, &mut spool, only_list).await?,
                Member::Marker | Member::Other => {}
            }
            Ok::<_, anyhow::Error>(())
        })
        .await?;
        if !has_index {
            bail!("the archive is no OCI image layout: it has no index.json");
        }
        self.all(only_list, |digest| spool.part(digest)).await
    }

    /// Takes what comes out of a pipe for what is known of it by now.
    async fn arrived(
        &mut self,
        digest: Digest,
        size_bytes: u64,
        reader: &mut dyn Read,
        spool: &mut Spool,
        only_list: bool,
    ) -> anyhow::Result<()> {
        if self.plan.awaits(&digest).is_some() {
            let bytes = read_manifest(&digest, size_bytes, MANIFEST_BYTES_MAX, reader)?;
            self.plan.read(&digest, &bytes)?;
            spool.keep(digest, size_bytes, &mut &bytes[..])?;
        } else if let Some(want) = self.plan.blobs.get(&digest).filter(|_| !only_list)
            && let Some(repository) = want.repositories.first().cloned()
        {
            let stated_bytes = want.size_bytes;
            self.bring_blob(&repository, &digest, stated_bytes, Some((size_bytes, reader))).await?;
        } else {
            spool.keep(digest, size_bytes, reader)?;
        }
        Ok(())
    }

    /// Brings in everything that is not here, from parts that can be read in any order.
    async fn all(
        &mut self,
        only_list: bool,
        part: impl Fn(&Digest) -> Result<Option<Part>, layout::Error>,
    ) -> anyhow::Result<Vec<Digest>> {
        self.read_manifests(&part)?;
        if let Some(digest) = self.plan.unread().first() {
            bail!("the layout names manifest {digest} and does not have it");
        }
        let blobs: Vec<_> = self.plan.blobs.iter().map(|(digest, want)| (*digest, want.clone())).collect();
        let (mut here, mut missing) = (Vec::new(), Vec::new());
        for (digest, want) in blobs {
            let mut is_here = false;
            for repository in &want.repositories {
                if only_list {
                    is_here |= self.door.has_blob(repository, &digest).await?;
                    continue;
                }
                let mut found = part(&digest)?;
                let bytes = found.as_mut().map(|(size_bytes, reader)| (*size_bytes, &mut **reader as &mut dyn Read));
                if !self.bring_blob(repository, &digest, want.size_bytes, bytes).await? {
                    missing.push((repository.clone(), digest));
                }
            }
            here.extend(is_here.then_some(digest));
        }
        if only_list {
            return Ok(here);
        }
        if !missing.is_empty() {
            bail!("neither the layout nor this registry has\n{}nothing was tagged", missing_text(&missing));
        }
        self.bring_manifests(&part).await?;
        self.note_private().await;
        Ok(Vec::new())
    }

    /// Reads what the names lead to, and then what is attached to that.
    fn read_manifests(&mut self, part: &impl Fn(&Digest) -> Result<Option<Part>, layout::Error>) -> anyhow::Result<()> {
        loop {
            let awaited: Vec<Digest> =
                self.plan.manifests.iter().filter(|(_, node)| node.read.is_none()).map(|(digest, _)| *digest).collect();
            let mut is_done = true;
            for digest in awaited {
                // A platform that was left out; what has to be there is looked for in the end.
                let Some((size_bytes, reader)) = part(&digest)? else { continue };
                let bytes = read_manifest(&digest, size_bytes, MANIFEST_BYTES_MAX, reader)?;
                self.plan.read(&digest, &bytes)?;
                is_done = false;
            }
            if is_done && !self.take_nameless(part)? {
                return Ok(());
            }
        }
    }

    /// Finds a place for manifests without a name. True if there was one for any of them.
    fn take_nameless(
        &mut self,
        part: &impl Fn(&Digest) -> Result<Option<Part>, layout::Error>,
    ) -> anyhow::Result<bool> {
        let (mut is_any, mut left) = (false, Vec::new());
        for entry in std::mem::take(&mut self.plan.nameless) {
            if self.plan.manifests.contains_key(&entry.digest) {
                continue;
            }
            let Some((size_bytes, reader)) = part(&entry.digest)? else {
                left.push(entry);
                continue;
            };
            let bytes = read_manifest(&entry.digest, size_bytes, MANIFEST_BYTES_MAX, reader)?;
            let subject = Manifest::parse(&bytes, None).ok().and_then(|manifest| manifest.subject);
            let node = subject.and_then(|subject| self.plan.manifests.get(&subject));
            let mut places: Vec<RepositoryName> =
                node.map_or_else(Vec::new, |node| node.repositories.iter().cloned().collect());
            if places.is_empty() {
                places.extend(place(self.rules, None).ok().map(|place| place.repository));
            }
            if places.is_empty() {
                left.push(entry);
                continue;
            }
            for repository in places {
                self.plan.require(&entry, repository);
            }
            is_any = true;
        }
        self.imported.ignored = left.len();
        self.plan.nameless = left;
        Ok(is_any)
    }

    /// Makes a repository have a blob: it may be there, it may be here for another repository, or it comes from the layout.
    async fn bring_blob(
        &mut self,
        repository: &RepositoryName,
        digest: &Digest,
        stated_bytes: u64,
        bytes: Option<(u64, &mut dyn Read)>,
    ) -> anyhow::Result<bool> {
        if self.door.has_blob(repository, digest).await? {
            self.imported.here += usize::from(self.brought.insert(*digest));
            return Ok(true);
        }
        let may_be_here = bytes.is_none() || self.brought.contains(digest);
        if may_be_here && self.link(repository, digest).await? {
            self.imported.here += usize::from(self.brought.insert(*digest));
            return Ok(true);
        }
        let Some((size_bytes, reader)) = bytes else { return Ok(false) };
        if size_bytes != stated_bytes {
            return Err(layout::Error::Length { digest: *digest, stated_bytes, actual_bytes: size_bytes }.into());
        }
        let (method, path) = if self.as_cached {
            (Method::PUT, format!("/api/v1/cached/blob?repository={repository}&digest={digest}"))
        } else {
            (Method::POST, format!("/v2/{repository}/blobs/uploads/?digest={digest}"))
        };
        let sent = self.door.upload(method, &path, "application/octet-stream", size_bytes, reader).await;
        sent.with_context(|| format!("blob {digest} for {repository}"))?;
        self.brought.insert(*digest);
        self.imported.blobs += 1;
        self.imported.bytes += size_bytes;
        Ok(true)
    }

    /// Has a repository show a blob that is here for another one.
    async fn link(&self, repository: &RepositoryName, digest: &Digest) -> anyhow::Result<bool> {
        let (method, path) = if self.as_cached {
            (Method::PUT, format!("/api/v1/cached/link?repository={repository}&digest={digest}"))
        } else {
            (Method::POST, format!("/v2/{repository}/blobs/uploads/?mount={digest}"))
        };
        let answer = self.door.send(method, &path, HeaderMap::new(), reqwest::Body::default()).await?;
        if answer.status().as_u16() == 201 {
            return Ok(true);
        }
        // It could not be mounted, and a session was opened instead.
        if let Some(session) = answer.headers().get(LOCATION).and_then(|location| location.to_str().ok()) {
            self.door.send(Method::DELETE, session, HeaderMap::new(), reqwest::Body::default()).await?;
        }
        Ok(false)
    }

    /// Every manifest behind what it refers to, and those with tags once more, with these.
    async fn bring_manifests(
        &mut self,
        part: &impl Fn(&Digest) -> Result<Option<Part>, layout::Error>,
    ) -> anyhow::Result<()> {
        let mut tags: BTreeMap<(Digest, RepositoryName), Vec<Tag>> = BTreeMap::new();
        for ((repository, tag), digest) in &self.plan.tags {
            tags.entry((*digest, repository.clone())).or_default().push(tag.clone());
        }
        for digest in self.plan.in_order() {
            let repositories: Vec<RepositoryName> = self.plan.manifests[&digest].repositories.iter().cloned().collect();
            for repository in repositories {
                self.bring_manifest(&repository, &digest, &[], part).await?;
                self.imported.manifests += 1;
            }
        }
        for ((digest, repository), tags) in tags {
            for tags in tags.chunks(TAGS_PER_REQUEST) {
                self.bring_manifest(&repository, &digest, tags, part).await?;
                self.imported.tags += tags.len();
            }
        }
        Ok(())
    }

    async fn bring_manifest(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        tags: &[Tag],
        part: &impl Fn(&Digest) -> Result<Option<Part>, layout::Error>,
    ) -> anyhow::Result<()> {
        let media_type = &self.plan.manifests[digest].media_type;
        let (size_bytes, mut reader) = part(digest)?.context("a manifest that was read before is gone")?;
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(tags.iter().map(|tag| ("tag", tag.as_str())));
        let path = if self.as_cached {
            query.append_pair("repository", repository.as_str()).append_pair("digest", &digest.to_string());
            format!("/api/v1/cached/manifest?{}", query.finish())
        } else {
            format!("/v2/{repository}/manifests/{digest}?{}", query.finish())
        };
        let sent = self.door.upload(Method::PUT, &path, media_type, size_bytes, &mut reader).await;
        sent.with_context(|| format!("manifest {digest} for {repository}"))
    }

    /// Whoever brings an upstream's content in as pushed content should know what that means.
    async fn note_private(&self) {
        if self.as_cached {
            return;
        }
        let repositories: std::collections::BTreeSet<&RepositoryName> =
            self.plan.manifests.values().flat_map(|node| &node.repositories).collect();
        let mut taken = Vec::new();
        for repository in repositories {
            // A server that does not let us ask is one whose operator knows.
            let why = self.door.json::<Value>(&format!("/api/v1/why?ref={repository}"), From::Stored).await;
            let is_prefixed = why.is_ok_and(|why| why["name"]["rule"] == "prefix");
            taken.extend(is_prefixed.then(|| repository.to_string()));
        }
        if let Some(first) = taken.first() {
            let others = if taken.len() > 1 { format!(" and {} more", taken.len() - 1) } else { String::new() };
            eprintln!(
                "note: {first}{others} is pushed content now and stays; its upstream is not asked for it any more. \
                 With --as-cached it would be the upstream's"
            );
        }
    }
}

fn missing_text(missing: &[(RepositoryName, Digest)]) -> String {
    let mut text = String::new();
    for (repository, digest) in missing.iter().take(MISSING_SHOWN_MAX) {
        let _ = writeln!(text, "  blob {digest} of {repository}");
    }
    if missing.len() > MISSING_SHOWN_MAX {
        let _ = writeln!(text, "  and {} more", missing.len() - MISSING_SHOWN_MAX);
    }
    text
}
