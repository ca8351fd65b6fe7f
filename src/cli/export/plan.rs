//! What an export consists of: found by following manifests from the names that were asked for.

use std::collections::{BTreeMap, HashSet, VecDeque};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method};
use serde::Deserialize;

use super::platform::{Platform, wanted};
use crate::cli::door::{Door, From, accepted, collected};
use crate::oci::{Digest, Manifest, Reference, Referrer, RepositoryName, Tag};

/// A manifest that the layout names.
#[derive(Clone, Debug)]
pub struct Root {
    /// Its repository, by the name under which it is kept.
    pub repository: RepositoryName,
    /// The tag it was asked for by; by its digest if there is none.
    pub tag: Option<Tag>,
    /// Its digest.
    pub digest: Digest,
}

/// A part of the export and where it is had from.
#[derive(Clone, Debug)]
pub struct Part {
    /// A repository that shows it.
    pub repository: RepositoryName,
    /// Its length; what a descriptor states, for a blob.
    pub size_bytes: u64,
    /// Its media type, if it is a manifest.
    pub media_type: Option<String>,
}

/// What is not to be had.
#[derive(Clone, Debug)]
pub struct Lacking {
    /// What was asked for.
    pub wanted_by: String,
    /// What of it is not here.
    pub what: String,
}

/// What is wanted of the content behind the names.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Platforms of indexes; all of them if none is named.
    pub platforms: Vec<Platform>,
    /// What is attached to manifests comes too.
    pub referrers: bool,
    /// Where content may come from.
    pub from: From,
}

/// What an export consists of.
#[derive(Debug, Default)]
pub struct Plan {
    /// What the layout names.
    pub roots: Vec<Root>,
    /// Manifests, each after one that leads to it.
    pub manifests: Vec<(Digest, Part)>,
    /// Config and layers.
    pub blobs: BTreeMap<Digest, Part>,
    /// What is not to be had.
    pub lacking: Vec<Lacking>,
    seen: HashSet<(RepositoryName, Digest)>,
    /// Which digests stand in `manifests`.
    listed: HashSet<Digest>,
}

/// A manifest as it was answered.
struct Found {
    digest: Digest,
    media_type: String,
    bytes: Bytes,
}

/// A manifest on the way to be looked at, and what was found below it so far.
struct Step {
    repository: RepositoryName,
    reference: Reference,
    root: Role,
    wanted_by: String,
}

/// What a manifest is to the layout.
#[derive(Clone, PartialEq, Eq)]
enum Role {
    /// It is named, by this tag if there is one.
    Root(Option<Tag>),
    /// An index leads to it.
    Child,
}

#[derive(Deserialize)]
struct Tags {
    #[serde(default)]
    tags: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Referrers {
    manifests: Vec<Referrer>,
}

impl Plan {
    /// Follows one name. What is not whole is not taken into the plan.
    pub async fn add(
        &mut self,
        door: &Door,
        wanted: &Wanted,
        repository: &RepositoryName,
        reference: &Reference,
    ) -> anyhow::Result<()> {
        let wanted_by = match reference {
            Reference::Tag(tag) => format!("{repository}:{tag}"),
            Reference::Digest(digest) => format!("{repository}@{digest}"),
        };
        let tag = match reference {
            Reference::Tag(tag) => Some(tag.clone()),
            Reference::Digest(_) => None,
        };
        let mut steps = VecDeque::from([Step {
            repository: repository.clone(),
            reference: reference.clone(),
            root: Role::Root(tag),
            wanted_by,
        }]);
        while let Some(step) = steps.pop_front() {
            self.follow(door, wanted, step, &mut steps).await?;
        }
        Ok(())
    }

    /// Looks at one manifest.
    async fn follow(
        &mut self,
        door: &Door,
        wanted: &Wanted,
        step: Step,
        steps: &mut VecDeque<Step>,
    ) -> anyhow::Result<()> {
        let Step { repository, reference, root, wanted_by } = step;
        if let Reference::Digest(digest) = &reference
            && root == Role::Child
            && self.seen.contains(&(repository.clone(), *digest))
        {
            return Ok(());
        }
        let Some(found) = find(door, wanted.from, &repository, &reference).await? else {
            self.lack(wanted_by, format!("manifest {reference}"));
            return Ok(());
        };
        let digest = found.digest;
        let manifest = Manifest::parse(&found.bytes, Some(&found.media_type))?;
        let is_new = self.seen.insert((repository.clone(), digest));
        if is_new && !self.take_blobs(door, wanted, &repository, &manifest, &wanted_by).await? {
            self.seen.remove(&(repository, digest));
            return Ok(());
        }
        if let Role::Root(tag) = root {
            self.roots.push(Root { repository: repository.clone(), tag, digest });
        }
        if self.listed.insert(digest) {
            let size_bytes = found.bytes.len() as u64;
            let part = Part { repository: repository.clone(), size_bytes, media_type: Some(found.media_type) };
            self.manifests.push((digest, part));
        }
        if !is_new {
            return Ok(());
        }
        let next =
            |reference, root| Step { repository: repository.clone(), reference, root, wanted_by: wanted_by.clone() };
        let children =
            if manifest.kind.is_index() { self::wanted(&found.bytes, &wanted.platforms) } else { Vec::new() };
        if !manifest.children.is_empty() && children.is_empty() {
            let platforms: Vec<String> = wanted.platforms.iter().map(ToString::to_string).collect();
            self.lack(wanted_by.clone(), format!("anything for {}", platforms.join(", ")));
        }
        steps.extend(children.into_iter().map(|child| next(Reference::Digest(child), Role::Child)));
        if wanted.referrers {
            for referrer in attached(door, wanted.from, &repository, &digest).await? {
                steps.push_back(next(Reference::Digest(referrer), Role::Root(None)));
            }
            for tag in named_after(door, &repository, &digest).await? {
                steps.push_back(next(Reference::Tag(tag.clone()), Role::Root(Some(tag))));
            }
        }
        Ok(())
    }

    /// Takes the blobs of a manifest into the plan, if all of them are to be had.
    async fn take_blobs(
        &mut self,
        door: &Door,
        wanted: &Wanted,
        repository: &RepositoryName,
        manifest: &Manifest,
        wanted_by: &str,
    ) -> anyhow::Result<bool> {
        let mut absent = Vec::new();
        let mut here = Vec::new();
        for blob in &manifest.blobs {
            let is_to_be_had = self.blobs.contains_key(&blob.digest)
                || (wanted.from == From::Anywhere && !blob.is_foreign)
                || door.has_blob(repository, &blob.digest).await?;
            if is_to_be_had {
                here.push(blob);
            } else if !blob.is_foreign {
                absent.push(blob.digest);
            }
        }
        for digest in &absent {
            self.lack(wanted_by.to_owned(), format!("blob {digest}"));
        }
        if absent.is_empty() {
            for blob in here {
                let part = Part { repository: repository.clone(), size_bytes: blob.size_bytes, media_type: None };
                self.blobs.entry(blob.digest).or_insert(part);
            }
        }
        Ok(absent.is_empty())
    }

    fn lack(&mut self, wanted_by: String, what: String) {
        self.lacking.push(Lacking { wanted_by, what });
    }
}

/// Every tag that is kept, in every repository.
pub async fn all_tags(door: &Door) -> anyhow::Result<Vec<(RepositoryName, Tag)>> {
    #[derive(Deserialize)]
    struct Catalog {
        repositories: Vec<String>,
    }
    let mut all = Vec::new();
    let mut next = Some("/v2/_catalog".to_owned());
    while let Some(path) = next {
        let (catalog, further): (Catalog, _) = door.page(&path, From::Stored).await?;
        for name in catalog.repositories {
            let name: RepositoryName = name.parse()?;
            let tags = tags_from(door, &name, "").await?;
            all.extend(tags.into_iter().map(|tag| (name.clone(), tag)));
        }
        next = further;
    }
    Ok(all)
}

/// The tags of a repository that are kept, after `last`.
async fn tags_from(door: &Door, name: &RepositoryName, last: &str) -> anyhow::Result<Vec<Tag>> {
    let mut all = Vec::new();
    let mut next = Some(format!("/v2/{name}/tags/list?last={last}"));
    while let Some(path) = next {
        let (page, further): (Tags, _) = door.page(&path, From::Stored).await?;
        all.extend(page.tags.into_iter().flatten().filter_map(|tag| tag.parse().ok()));
        next = further;
    }
    Ok(all)
}

/// Tags that are made of a manifest's digest, as cosign writes them (`sha256-….sig`), and where there is no referrers API.
async fn named_after(door: &Door, name: &RepositoryName, digest: &Digest) -> anyhow::Result<Vec<Tag>> {
    let prefix = Tag::of_referrers(digest).as_str().to_owned();
    // Lists begin after a tag; what is a letter shorter comes before all that begin like this.
    let last = &prefix[..prefix.len() - 1];
    let (page, _): (Tags, _) = door.page(&format!("/v2/{name}/tags/list?n=100&last={last}"), From::Stored).await?;
    let tags = page.tags.unwrap_or_default();
    Ok(tags.iter().filter(|tag| tag.starts_with(&prefix)).filter_map(|tag| tag.parse().ok()).collect())
}

async fn attached(door: &Door, from: From, name: &RepositoryName, digest: &Digest) -> anyhow::Result<Vec<Digest>> {
    let mut all = Vec::new();
    let mut next = Some(format!("/v2/{name}/referrers/{digest}"));
    while let Some(path) = next {
        let (page, further): (Referrers, _) = door.page(&path, from).await?;
        all.extend(page.manifests.into_iter().map(|referrer| referrer.digest));
        next = further;
    }
    Ok(all)
}

async fn find(door: &Door, from: From, name: &RepositoryName, reference: &Reference) -> anyhow::Result<Option<Found>> {
    let answer = door.get(Method::GET, &format!("/v2/{name}/manifests/{reference}"), from, HeaderMap::new()).await?;
    if matches!(answer.status().as_u16(), 404 | 504) && from == From::Stored {
        return Ok(None);
    }
    let answer = accepted(answer).await.with_context(|| format!("{name}, manifest {reference}"))?;
    let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let digest: Digest = header("docker-content-digest").parse()?;
    let media_type = header(CONTENT_TYPE.as_str()).to_owned();
    let bytes = collected(answer.into_body()).await?;
    let actual = Digest::of(digest.algorithm(), &bytes);
    ensure!(actual == digest, "manifest {digest} of {name} is corrupt: its bytes have digest {actual}");
    Ok(Some(Found { digest, media_type, bytes }))
}
