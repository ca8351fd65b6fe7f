//! What is told of the registry's operations to those who listen (webhooks).

use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing::warn;

use super::{FoundManifest, Registry, Target};
use crate::cache::{StoredManifest, Witness, notice};
use crate::metadata::Notice;
use crate::oci::{Digest, EventKind, EventTarget, Manifest, Reference, RepositoryName, Tag};
use crate::report::Chain;

/// Pulls that wait to be queued; they are written down once a second, and more in that time are not told.
const PULLS_MAX: usize = 10_000;

/// Pulls that are not in the index yet. What is here is lost in a crash: a pull waits for no disk.
#[derive(Debug, Default)]
pub(super) struct Pulls(Mutex<Gathered>);

#[derive(Debug, Default)]
struct Gathered {
    notices: Vec<Notice>,
    dropped: u64,
}

impl Pulls {
    fn lock(&self) -> MutexGuard<'_, Gathered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registry {
    /// Does anybody want to hear of this?
    pub fn is_listened_to(&self, kind: EventKind) -> bool {
        self.depot().metadata.is_listened_to(kind)
    }

    /// A manifest, pushed: once for each tag, or once without any.
    pub(super) fn pushed(
        &self,
        name: &RepositoryName,
        (digest, manifest, size_bytes): (&Digest, &Manifest, u64),
        tags: &[Tag],
        witness: Option<&Witness>,
    ) -> Vec<Notice> {
        if !self.is_listened_to(EventKind::Push) {
            return Vec::new();
        }
        let target = |tag: Option<&Tag>| EventTarget {
            media_type: Some(manifest.kind.media_type().to_owned()),
            size: Some(size_bytes),
            length: Some(size_bytes),
            tag: tag.map(ToString::to_string),
            ..of_digest(name, "manifests", digest, witness)
        };
        let tell = |target| self.notice(EventKind::Push, name, target, witness);
        if tags.is_empty() {
            vec![tell(target(None))]
        } else {
            tags.iter().map(|tag| tell(target(Some(tag)))).collect()
        }
    }

    /// A tag or a manifest, deleted.
    pub(super) fn deleted(
        &self,
        name: &RepositoryName,
        reference: &Reference,
        witness: Option<&Witness>,
    ) -> Vec<Notice> {
        if !self.is_listened_to(EventKind::Delete) {
            return Vec::new();
        }
        let target = match reference {
            Reference::Tag(tag) => EventTarget { tag: Some(tag.to_string()), ..EventTarget::default() },
            Reference::Digest(digest) => of_digest(name, "manifests", digest, witness),
        };
        vec![self.notice(EventKind::Delete, name, target, witness)]
    }

    /// The link of a blob, deleted.
    pub(super) fn unlinked(&self, name: &RepositoryName, digest: &Digest, witness: Option<&Witness>) -> Vec<Notice> {
        if !self.is_listened_to(EventKind::Delete) {
            return Vec::new();
        }
        vec![self.notice(EventKind::Delete, name, of_digest(name, "blobs", digest, witness), witness)]
    }

    /// A manifest, sent to a client.
    pub(super) fn pulled(&self, found: &FoundManifest, target: &Target, reference: &Reference) {
        if !self.is_listened_to(EventKind::Pull) {
            return;
        }
        let (manifest, witness): (&StoredManifest, _) = (&found.pulled.manifest, target.caller.witness.as_deref());
        let size_bytes = manifest.bytes.len() as u64;
        let about = EventTarget {
            media_type: Some(manifest.media_type.as_str().to_owned()),
            size: Some(size_bytes),
            length: Some(size_bytes),
            tag: if let Reference::Tag(tag) = reference { Some(tag.to_string()) } else { None },
            ..of_digest(&found.name, "manifests", &manifest.digest, witness)
        };
        let told = self.notice(EventKind::Pull, &found.name, about, witness);
        let mut pulls = self.pulls.lock();
        if pulls.notices.len() < PULLS_MAX { pulls.notices.push(told) } else { pulls.dropped += 1 }
    }

    /// Queues the pulls since the last time. Those that cannot be queued are not told.
    pub async fn queue_pulls(&self) {
        let Gathered { notices, dropped } = std::mem::take(&mut *self.pulls.lock());
        if dropped > 0 {
            warn!(pulls = dropped, max = PULLS_MAX, "more pulls in a second than are told to webhooks");
        }
        if let Err(error) = self.depot().metadata.queue_notices(&notices).await {
            warn!(error = %Chain(&error), pulls = notices.len(), "events about pulls could not be queued");
        }
    }

    fn notice(&self, kind: EventKind, name: &RepositoryName, target: EventTarget, witness: Option<&Witness>) -> Notice {
        notice(&self.depot().metadata, kind, name, target, witness, self.depot().clock.now_ms())
    }
}

fn of_digest(name: &RepositoryName, kind: &str, digest: &Digest, witness: Option<&Witness>) -> EventTarget {
    let base = witness.and_then(|witness| witness.origin_url.as_ref());
    EventTarget {
        digest: Some(digest.to_string()),
        url: base.map(|base| format!("{base}/v2/{name}/{kind}/{digest}")),
        ..EventTarget::default()
    }
}
