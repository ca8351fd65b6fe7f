//! What a fake upstream holds: blobs, manifests and tags per repository, and images made of them.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use entrepot::oci::{Algorithm, Digest, ManifestKind};

#[derive(Default)]
pub struct Content {
    repositories: HashMap<String, Repository>,
}

#[derive(Default)]
struct Repository {
    blobs: HashMap<Digest, Bytes>,
    manifests: HashMap<Digest, Stored>,
    tags: BTreeMap<String, Digest>,
}

/// A manifest as it is served.
#[derive(Clone)]
pub struct Stored {
    pub digest: Digest,
    pub media_type: String,
    pub bytes: Bytes,
}

/// An image that was pushed.
#[derive(Clone, Debug)]
pub struct Image {
    pub manifest: Digest,
    pub manifest_bytes: Bytes,
    pub media_type: &'static str,
    pub config: Digest,
    pub layers: Vec<Digest>,
}

impl Content {
    pub fn push_blob(&mut self, repository: &str, bytes: Bytes) -> Digest {
        let digest = Digest::of(Algorithm::Sha256, &bytes);
        self.repository(repository).blobs.insert(digest, bytes);
        digest
    }

    pub fn push_manifest(&mut self, repository: &str, tag: Option<&str>, kind: ManifestKind, bytes: Bytes) -> Digest {
        let digest = Digest::of(Algorithm::Sha256, &bytes);
        let stored = Stored { digest, media_type: kind.media_type().to_owned(), bytes };
        self.repository(repository).manifests.insert(digest, stored);
        if let Some(tag) = tag {
            self.move_tag(repository, tag, digest);
        }
        digest
    }

    pub fn push_image(&mut self, repository: &str, tag: &str, layers: &[&[u8]]) -> Image {
        let config_bytes = Bytes::from(format!("{{\"os\":\"linux\",\"architecture\":\"amd64\",\"tag\":\"{tag}\"}}"));
        let descriptor = |media_type: &str, bytes: &[u8]| {
            let digest = Digest::of(Algorithm::Sha256, bytes).to_string();
            serde_json::json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
        };
        let layer_type = "application/vnd.oci.image.layer.v1.tar";
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": ManifestKind::OciImage.media_type(),
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config_bytes),
            "layers": layers.iter().map(|layer| descriptor(layer_type, layer)).collect::<Vec<_>>(),
        });
        let manifest_bytes = Bytes::from(manifest.to_string());
        let config = self.push_blob(repository, config_bytes);
        let layers = layers.iter().map(|layer| self.push_blob(repository, Bytes::copy_from_slice(layer))).collect();
        let manifest = self.push_manifest(repository, Some(tag), ManifestKind::OciImage, manifest_bytes.clone());
        Image { manifest, manifest_bytes, media_type: ManifestKind::OciImage.media_type(), config, layers }
    }

    pub fn move_tag(&mut self, repository: &str, tag: &str, digest: Digest) {
        self.repository(repository).tags.insert(tag.to_owned(), digest);
    }

    pub fn blob(&self, repository: &str, digest: &str) -> Option<(Digest, Bytes)> {
        let digest = digest.parse().ok()?;
        let bytes = self.repositories.get(repository)?.blobs.get(&digest)?;
        Some((digest, bytes.clone()))
    }

    pub fn manifest(&self, repository: &str, reference: &str) -> Option<Stored> {
        let repository = self.repositories.get(repository)?;
        let digest = repository.tags.get(reference).copied().or_else(|| reference.parse().ok())?;
        repository.manifests.get(&digest).cloned()
    }

    pub fn delete_tag(&mut self, repository: &str, tag: &str) {
        self.repository(repository).tags.remove(tag);
    }

    pub fn delete_manifest(&mut self, repository: &str, digest: &Digest) {
        let repository = self.repository(repository);
        repository.manifests.remove(digest);
        repository.tags.retain(|_, named| named != digest);
    }

    /// The entries of a referrers list, as the specification makes them of the manifests.
    pub fn referrers(&self, repository: &str, subject: &str) -> Vec<serde_json::Value> {
        let Some(repository) = self.repositories.get(repository) else { return vec![] };
        let mut entries: Vec<serde_json::Value> = repository
            .manifests
            .values()
            .filter_map(|stored| {
                let manifest: serde_json::Value = serde_json::from_slice(&stored.bytes).ok()?;
                (manifest["subject"]["digest"] == subject).then(|| {
                let kind = manifest.get("artifactType").unwrap_or(&manifest["config"]["mediaType"]);
                let digest = stored.digest.to_string();
                let mut entry = serde_json::json!({
                    "mediaType": stored.media_type, "digest": digest, "size": stored.bytes.len(), "artifactType": kind,
                });
                if let Some(annotations) = manifest.get("annotations") {
                    entry["annotations"] = annotations.clone();
                }
                entry
            })
            })
            .collect();
        // Not in the order of the digests: whoever wants an order has to make it.
        entries.sort_by_key(|entry| entry["digest"].as_str().unwrap_or_default().chars().rev().collect::<String>());
        entries
    }

    pub fn tags(&self, repository: &str) -> Option<Vec<String>> {
        Some(self.repositories.get(repository)?.tags.keys().cloned().collect())
    }

    fn repository(&mut self, name: &str) -> &mut Repository {
        self.repositories.entry(name.to_owned()).or_default()
    }
}
