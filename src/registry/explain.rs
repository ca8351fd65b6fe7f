//! Why a request is answered as it is: how its name resolves, what is here, and what the next pull would do.
//!
//! Nothing is asked of anybody and nothing is changed. Beside a running registry ([`Registry::explain`]) the upstreams'
//! state is known; over a store that nobody serves ([`Grounds`]) only what is on the disk is.

use std::collections::HashMap;
use std::sync::Arc;

use super::routing::Route;
use super::{Error, Names, Place, Registry, Target};
use crate::cache::foresight::{self, Known};
use crate::cache::freshness::TagState;
use crate::cache::{Fills, LastAnswer, Lifetime, Manifests, Mirror, Source, Visibility};
use crate::metadata::{ManifestRow, Metadata, TagRow};
use crate::oci::{Digest, Host, Reference, RepositoryName};
use crate::upstream::Budget;

pub use super::routing::Rule;
pub use crate::cache::foresight::Next as Foreseen;
pub use crate::metadata::{Child, Part};

/// Blobs of a manifest, or children of an index, that an explanation lists.
const PARTS_MAX: usize = 1000;

/// What explanations are made from.
pub struct Grounds<'a> {
    names: &'a Names,
    mirrors: &'a HashMap<Host, Arc<Mirror>>,
    metadata: &'a Metadata,
    now_ms: i64,
    running: Option<(&'a Manifests, &'a Fills)>,
}

/// Why a request is answered as it is.
#[derive(Debug)]
pub struct Explanation {
    /// When this was so, Unix milliseconds.
    pub now_ms: i64,
    /// By what the name was found to mean the repository.
    pub rule: Rule,
    /// The repository that would answer, by the name under which it is kept here.
    pub repository: RepositoryName,
    /// The name under which somebody pushed to it, which is what keeps it from being asked of an upstream.
    pub private: Option<RepositoryName>,
    /// The operator laid what was pushed over the upstream.
    pub is_overlay: bool,
    /// The operator said that nobody is to be asked for it.
    pub is_local_only: bool,
    /// The upstream, if one may be asked.
    pub upstream: Option<UpstreamSeen>,
    /// The tag, if it was asked for by tag and the tag is known here.
    pub tag: Option<TagRow>,
    /// How long the tag counts, if it came from an upstream.
    pub lifetime: Option<Lifetime>,
    /// The manifest, if it is known here.
    pub manifest: Option<Contents>,
    /// What the next pull would come to.
    pub next: Next,
}

/// What the next pull would come to.
#[derive(Debug)]
pub enum Next {
    /// Pushed content answers.
    Local,
    /// An upstream's content is asked for.
    Mirrored(Foreseen),
    /// It is not here, and nobody else is asked.
    Unknown(Error),
}

/// An upstream, as it looks from here.
#[derive(Debug)]
pub struct UpstreamSeen {
    /// Its name.
    pub host: Host,
    /// What the repository is called there.
    pub remote: RepositoryName,
    /// Those who pull need credentials of their own there.
    pub is_guarded: bool,
    /// The state that only a running registry knows.
    pub state: Option<UpstreamState>,
}

/// What a running registry knows of an upstream.
#[derive(Debug)]
pub struct UpstreamState {
    /// Why it would not be asked now, if it would not.
    pub trouble: Option<crate::cache::Error>,
    /// Failures in a row.
    pub failures: u32,
    /// What is left of its rate limit.
    pub budget: Option<Budget>,
    /// Its no to this very question, while that is remembered.
    pub remembered: Option<crate::cache::Error>,
    /// Its last answers to any question, the newest first.
    pub answers: Vec<LastAnswer>,
}

/// A manifest and what it consists of.
#[derive(Debug)]
pub struct Contents {
    /// The manifest.
    pub row: ManifestRow,
    /// Its bytes are here.
    pub is_here: bool,
    /// Its config and layers, the largest first.
    pub parts: Vec<Part>,
    /// Which of these are being fetched now.
    pub filling: Vec<Digest>,
    /// Its children, if it is an index.
    pub children: Vec<Child>,
}

impl Registry {
    /// Why a manifest of this registry is answered for as it is.
    pub async fn explain(&self, target: &Target, reference: &Reference) -> Result<Explanation, Error> {
        let grounds = Grounds {
            names: self.names.names(),
            mirrors: &self.mirrors,
            metadata: &self.depot().metadata,
            now_ms: self.depot().clock.now_ms(),
            running: Some((&self.manifests, &self.fills)),
        };
        grounds.explain(target, reference).await
    }
}

impl<'a> Grounds<'a> {
    /// A store that nobody serves.
    pub fn at_rest(
        names: &'a Names,
        mirrors: &'a HashMap<Host, Arc<Mirror>>,
        metadata: &'a Metadata,
        now_ms: i64,
    ) -> Self {
        Self { names, mirrors, metadata, now_ms, running: None }
    }

    /// Why a manifest is answered for as it is.
    pub async fn explain(&self, target: &Target, reference: &Reference) -> Result<Explanation, Error> {
        let route = super::route(self.names, target)?;
        let private = self.private(&route).await?;
        let Route { rule, overlay: is_overlay, is_closed: is_local_only, .. } = route;
        let (answer, source) = match Place::of(&route, private.clone(), self.mirrors) {
            Place::Local(name) => (self.local(name, reference).await?, None),
            Place::Mirror(source) => (self.mirrored(&source, reference).await?, Some(source)),
            Place::Overlay(name, source) => {
                let answer = match self.local(name, reference).await? {
                    answer if answer.found.is_pushed() => answer,
                    _ => self.mirrored(&source, reference).await?,
                };
                (answer, Some(source))
            }
        };
        let Answer { repository, found: Found { tag, manifest }, lifetime, next } = answer;
        Ok(Explanation {
            now_ms: self.now_ms,
            rule,
            repository,
            private,
            is_overlay,
            is_local_only,
            upstream: source.map(|source| self.seen(&source, reference)),
            tag,
            lifetime,
            manifest,
            next,
        })
    }

    async fn local(&self, name: RepositoryName, reference: &Reference) -> Result<Answer, Error> {
        let found = self.find(&name, reference).await?;
        let next = if found.is_here() {
            Next::Local
        } else {
            Next::Unknown(Error::ManifestUnknown { name: name.clone(), reference: reference.clone() })
        };
        Ok(Answer { repository: name, found, lifetime: None, next })
    }

    async fn mirrored(&self, source: &Source, reference: &Reference) -> Result<Answer, Error> {
        let found = self.find(&source.canonical, reference).await?;
        let lifetime = found.tag.as_ref().map(|row| source.mirror.lifetime(&row.name, state_of(row)));
        let next = Next::Mirrored(self.foresee(source, reference, &found));
        Ok(Answer { repository: source.canonical.clone(), found, lifetime, next })
    }

    async fn private(&self, route: &Route) -> Result<Option<RepositoryName>, Error> {
        let guarded = super::guarded(self.mirrors);
        for name in super::private_names(route, &guarded) {
            if self.metadata.repository(name).await?.is_some_and(|row| row.private) {
                return Ok(Some(name.clone()));
            }
        }
        Ok(None)
    }

    async fn find(&self, name: &RepositoryName, reference: &Reference) -> Result<Found, Error> {
        let tag = match reference {
            Reference::Tag(tag) => self.metadata.find_tag(name, tag).await?,
            Reference::Digest(_) => None,
        };
        let digest = match (reference, &tag) {
            (Reference::Digest(digest), _) => *digest,
            (_, Some(row)) => row.digest,
            _ => return Ok(Found::default()),
        };
        let Some((row, state)) = self.metadata.find_manifest(name, &digest).await? else {
            return Ok(Found { tag, manifest: None });
        };
        let parts = self.metadata.list_parts(name, &digest, PARTS_MAX).await?;
        let children = self.metadata.list_children(name, &digest, PARTS_MAX).await?;
        let is_filling = |part: &&Part| self.running.is_some_and(|(_, fills)| fills.find(&part.digest).is_some());
        let filling = parts.iter().filter(|part| !part.is_stored).filter(is_filling).map(|part| part.digest).collect();
        let manifest = Contents { row, is_here: state.is_present(), parts, filling, children };
        Ok(Found { tag, manifest: Some(manifest) })
    }

    fn foresee(&self, source: &Source, reference: &Reference, found: &Found) -> Foreseen {
        let remembered = |reference: &Reference| self.remembered(source, reference);
        let tag = found.tag.as_ref().map(|row| (state_of(row), row.digest));
        let known = Known { tag, is_here: found.is_here(), remembered: &remembered };
        match reference {
            Reference::Tag(tag) => foresight::by_tag(&source.mirror, tag, &known, self.now_ms),
            Reference::Digest(digest) => foresight::by_digest(&source.mirror, digest, &known),
        }
    }

    fn remembered(&self, source: &Source, reference: &Reference) -> Option<crate::cache::Error> {
        let (manifests, _) = self.running?;
        manifests.remembered(&(source.canonical.clone(), reference.clone()))
    }

    fn seen(&self, source: &Source, reference: &Reference) -> UpstreamSeen {
        let mirror = &source.mirror;
        let state = self.running.is_some().then(|| UpstreamState {
            trouble: mirror.would_ask().err(),
            failures: mirror.failures(),
            budget: mirror.upstream().budget(),
            remembered: self.remembered(source, reference),
            answers: mirror.last_answers(),
        });
        let is_guarded = matches!(mirror.policy().visibility, Visibility::Passthrough { .. });
        UpstreamSeen { host: mirror.host().clone(), remote: source.remote.clone(), is_guarded, state }
    }
}

/// What one repository would answer.
struct Answer {
    repository: RepositoryName,
    found: Found,
    lifetime: Option<Lifetime>,
    next: Next,
}

/// What is here of what was asked for.
#[derive(Default)]
struct Found {
    tag: Option<TagRow>,
    manifest: Option<Contents>,
}

impl Found {
    fn is_here(&self) -> bool {
        self.manifest.as_ref().is_some_and(|manifest| manifest.is_here)
    }

    /// Is it here, and was its tag pushed if it was asked for by tag? What an upstream's tag brought is not laid over it.
    fn is_pushed(&self) -> bool {
        self.is_here() && self.tag.as_ref().is_none_or(|tag| tag.provenance.is_pushed())
    }
}

fn state_of(row: &TagRow) -> TagState {
    TagState { checked_ms: row.checked_ms }
}
