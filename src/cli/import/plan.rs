//! What an import has to bring: found by following manifests from the names in a layout, in whatever order these come. Pure.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use anyhow::{Context as _, bail};

use super::names::{Place, Rule, place};
use crate::layout::Entry;
use crate::oci::{Digest, Manifest, RepositoryName, Tag};

/// A manifest that is wanted.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// Where it goes.
    pub repositories: BTreeSet<RepositoryName>,
    /// Its length as far as it is stated.
    pub size_bytes: u64,
    /// Its media type; the one in its body if nothing was said.
    pub media_type: String,
    /// What it refers to, once it was read.
    pub read: Option<Refers>,
}

/// What a manifest refers to.
#[derive(Clone, Debug)]
pub struct Refers {
    children: Vec<Digest>,
    blobs: Vec<(Digest, u64)>,
}

/// A blob that is wanted.
#[derive(Clone, Debug, Default)]
pub struct Want {
    /// Its length, as a manifest states it.
    pub size_bytes: u64,
    /// Where it goes.
    pub repositories: BTreeSet<RepositoryName>,
}

/// What an import has to bring.
#[derive(Debug, Default)]
pub struct Plan {
    /// The tags to set, each once.
    pub tags: BTreeMap<(RepositoryName, Tag), Digest>,
    /// Manifests by digest.
    pub manifests: BTreeMap<Digest, Node>,
    /// Blobs by digest.
    pub blobs: BTreeMap<Digest, Want>,
    /// Manifests that have to be there.
    pub required: BTreeSet<Digest>,
    /// Manifests without a name: what they are attached to says where they go.
    pub nameless: Vec<Entry>,
}

impl Plan {
    /// What the names of a layout stand for.
    pub fn new(entries: Vec<Entry>, rules: &[Rule]) -> anyhow::Result<Self> {
        let mut plan = Self::default();
        for entry in entries {
            let has_name = entry.name().is_some();
            let Place { repository, tag } = match place(rules, entry.name()) {
                Ok(place) => place,
                Err(_) if !has_name => {
                    plan.nameless.push(entry);
                    continue;
                }
                Err(no_place) => return Err(no_place.into()),
            };
            // Where everything goes into one repository, what has no name may still be attached to something.
            if !has_name {
                plan.nameless.push(entry);
                continue;
            }
            if let Some(tag) = tag {
                let other = plan.tags.insert((repository.clone(), tag.clone()), entry.digest);
                if other.is_some_and(|other| other != entry.digest) {
                    bail!(
                        "{repository}:{tag} would be two images: bring them in one by one, or under other names with --to"
                    );
                }
            }
            plan.require(&entry, repository);
        }
        Ok(plan)
    }

    /// Wants a manifest in a repository.
    pub fn require(&mut self, entry: &Entry, repository: RepositoryName) {
        self.required.insert(entry.digest);
        self.want_manifest(entry.digest, entry.size_bytes, &entry.media_type, [repository].into());
    }

    /// Is it a manifest that is wanted and was not read yet?
    pub fn awaits(&self, digest: &Digest) -> Option<&Node> {
        self.manifests.get(digest).filter(|node| node.read.is_none())
    }

    /// Reads a manifest that is wanted.
    pub fn read(&mut self, digest: &Digest, bytes: &[u8]) -> anyhow::Result<()> {
        let Some(node) = self.manifests.get_mut(digest) else { return Ok(()) };
        let stated = Some(node.media_type.as_str()).filter(|media_type| !media_type.is_empty());
        let manifest = Manifest::parse(bytes, stated).with_context(|| format!("manifest {digest}"))?;
        manifest.kind.media_type().clone_into(&mut node.media_type);
        node.size_bytes = bytes.len() as u64;
        let repositories = std::mem::take(&mut node.repositories);
        let blobs = manifest.blobs.iter().filter(|blob| !blob.is_foreign);
        node.read = Some(Refers {
            children: manifest.children.iter().map(|child| child.digest).collect(),
            blobs: blobs.map(|blob| (blob.digest, blob.size_bytes)).collect(),
        });
        for child in &manifest.children {
            self.want_manifest(child.digest, child.size_bytes, child.media_type.as_str(), BTreeSet::new());
        }
        self.spread(*digest, repositories);
        Ok(())
    }

    fn want_manifest(
        &mut self,
        digest: Digest,
        size_bytes: u64,
        media_type: &str,
        repositories: BTreeSet<RepositoryName>,
    ) {
        let node = self.manifests.entry(digest).or_insert_with(|| Node {
            size_bytes,
            media_type: media_type.to_owned(),
            ..Node::default()
        });
        if node.media_type.is_empty() {
            media_type.clone_into(&mut node.media_type);
        }
        self.spread(digest, repositories);
    }

    /// A manifest goes to these repositories too, and with it what it refers to.
    fn spread(&mut self, digest: Digest, repositories: BTreeSet<RepositoryName>) {
        let mut waiting = vec![(digest, repositories)];
        while let Some((digest, repositories)) = waiting.pop() {
            let Some(node) = self.manifests.get_mut(&digest) else { continue };
            let added: BTreeSet<RepositoryName> = repositories.difference(&node.repositories).cloned().collect();
            if added.is_empty() {
                continue;
            }
            node.repositories.extend(added.iter().cloned());
            let Some(refers) = &node.read else { continue };
            waiting.extend(refers.children.iter().map(|child| (*child, added.clone())));
            for (blob, size_bytes) in &refers.blobs {
                let want = self.blobs.entry(*blob).or_default();
                want.size_bytes = *size_bytes;
                want.repositories.extend(added.iter().cloned());
            }
        }
    }

    /// The manifests that were read, each behind what it refers to.
    pub fn in_order(&self) -> Vec<Digest> {
        let (mut order, mut seen) = (Vec::new(), HashSet::new());
        for root in self.manifests.keys() {
            // (manifest, how many of its children were looked at)
            let mut path = vec![(*root, 0)];
            while let Some((digest, at)) = path.pop() {
                let Some(refers) = self.manifests.get(&digest).and_then(|node| node.read.as_ref()) else { continue };
                if at == 0 && !seen.insert(digest) {
                    continue;
                }
                match refers.children.get(at) {
                    Some(child) => path.extend([(digest, at + 1), (*child, 0)]),
                    None => order.push(digest),
                }
            }
        }
        order
    }

    /// Manifests that have to be there and were not read.
    pub fn unread(&self) -> Vec<Digest> {
        self.required.iter().filter(|digest| self.awaits(digest).is_some()).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;
    use crate::layout::REF_NAME;
    use crate::oci::Algorithm;

    const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";

    fn digest(bytes: &str) -> Digest {
        Digest::of(Algorithm::Sha256, bytes.as_bytes())
    }

    fn image(layer: &str) -> String {
        let descriptor = json!({"digest": digest(layer).to_string(), "size": layer.len()});
        json!({"schemaVersion": 2, "config": descriptor, "layers": [descriptor]}).to_string()
    }

    fn index(children: &[&str]) -> String {
        let children = children
            .iter()
            .map(|child| json!({"mediaType": IMAGE, "digest": digest(child).to_string(), "size": child.len()}));
        json!({"schemaVersion": 2, "manifests": children.collect::<Vec<_>>()}).to_string()
    }

    fn entry(manifest: &str, media_type: &str, name: Option<&str>) -> Entry {
        Entry {
            media_type: media_type.to_owned(),
            digest: digest(manifest),
            size_bytes: manifest.len() as u64,
            annotations: name.iter().map(|name| (REF_NAME.to_owned(), (*name).to_owned())).collect(),
            rest: Map::new(),
        }
    }

    #[test]
    fn what_two_repositories_share_goes_to_both_in_whatever_order_it_is_read() {
        let (shared, other) = (image("shared"), image("other"));
        let (one, two) = (index(&[&shared, &other]), index(&[&shared]));
        for order in [[&one, &two, &shared, &other], [&two, &shared, &one, &other]] {
            let entries = vec![entry(&one, INDEX, Some("a/one:1")), entry(&two, INDEX, Some("b/two:1"))];
            let mut plan = Plan::new(entries, &[]).unwrap();
            for text in order {
                assert!(plan.awaits(&digest(text)).is_some());
                plan.read(&digest(text), text.as_bytes()).unwrap();
            }
            let places =
                |text| plan.blobs[&digest(text)].repositories.iter().map(ToString::to_string).collect::<Vec<_>>();
            assert_eq!(
                (places("shared"), places("other")),
                (vec!["a/one".into(), "b/two".into()], vec!["a/one".into()])
            );
            let order = plan.in_order();
            let at = |text| order.iter().position(|found| *found == digest(text)).unwrap();
            assert!(at(&shared) < at(&one) && at(&shared) < at(&two) && at(&other) < at(&one));
            assert_eq!(order.len(), 4, "each comes once");
        }
    }

    #[test]
    fn a_child_that_does_not_come_is_missed_by_nobody_and_a_root_is() {
        let child = image("child");
        let root = index(&[&child]);
        let mut plan = Plan::new(vec![entry(&root, INDEX, Some("a/b:1"))], &[]).unwrap();
        assert_eq!(plan.unread(), [digest(&root)]);
        plan.read(&digest(&root), root.as_bytes()).unwrap();
        assert_eq!(plan.unread(), []);
        assert_eq!(plan.in_order(), [digest(&root)]);
    }

    #[test]
    fn one_tag_is_one_image() {
        let (one, two) = (image("1"), image("2"));
        let entries = vec![entry(&one, IMAGE, Some("a/b:1")), entry(&two, IMAGE, Some("c/d:1"))];
        assert!(Plan::new(entries.clone(), &["x/y".parse().unwrap()]).is_err());
        assert_eq!(Plan::new(entries, &["x/".parse().unwrap()]).unwrap().tags.len(), 2);
    }

    #[test]
    fn what_has_no_name_waits_for_what_it_is_attached_to() {
        let signature = image("signature");
        let plan = Plan::new(vec![entry(&signature, IMAGE, None)], &[]).unwrap();
        assert_eq!((plan.nameless.len(), plan.manifests.len()), (1, 0));
    }
}
