//! Random changes to a small world, checked against a model that is nothing but maps.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use Provenance::{Cached, Pushed};

const REPOSITORIES: [&str; 2] = ["a/x", "a-x"];
const TAGS: [&str; 3] = ["B", "a", "a-b"];
/// Manifests are named by number; number n refers to blob n, has subject n - 1, and is a blob itself.
const MANIFESTS: [&str; 3] = ["manifest 0", "manifest 1", "manifest 2"];
const BLOBS: [&str; 3] = ["blob 0", "blob 1", "blob 2"];
const STORED_BYTES: u64 = 4096;

#[derive(Clone, Debug)]
enum Change {
    CommitBlob { repo: usize, blob: usize, provenance: Provenance },
    LinkBlob { repo: usize, content: usize, provenance: Provenance },
    UnlinkBlob { repo: usize, content: usize },
    PutManifest { repo: usize, manifest: usize, provenance: Provenance, tags: Vec<usize> },
    DeleteManifest { repo: usize, manifest: usize },
    PutTag { repo: usize, tag: usize, manifest: usize, provenance: Provenance },
    DeleteTag { repo: usize, tag: usize },
    MarkDeleting { content: usize },
    MarkAbsent { content: usize },
    MarkLost { content: usize },
    Reopen,
}

fn change() -> impl Strategy<Value = Change> {
    let provenance = || prop_oneof![3 => Just(Cached), 1 => Just(Pushed)];
    let content = 0..BLOBS.len() + MANIFESTS.len();
    let (repo, tag) = (0..REPOSITORIES.len(), 0..TAGS.len());
    let (blob, manifest) = (0..BLOBS.len(), 0..MANIFESTS.len());
    prop_oneof![
        4 => (repo.clone(), blob, provenance())
            .prop_map(|(repo, blob, provenance)| Change::CommitBlob { repo, blob, provenance }),
        3 => (repo.clone(), content.clone(), provenance())
            .prop_map(|(repo, content, provenance)| Change::LinkBlob { repo, content, provenance }),
        2 => (repo.clone(), content.clone()).prop_map(|(repo, content)| Change::UnlinkBlob { repo, content }),
        6 => (repo.clone(), manifest.clone(), provenance(), prop::collection::vec(tag.clone(), 0..3))
            .prop_map(|(repo, manifest, provenance, tags)| Change::PutManifest { repo, manifest, provenance, tags }),
        2 => (repo.clone(), manifest.clone()).prop_map(|(repo, manifest)| Change::DeleteManifest { repo, manifest }),
        4 => (repo.clone(), tag.clone(), manifest, provenance())
            .prop_map(|(repo, tag, manifest, provenance)| Change::PutTag { repo, tag, manifest, provenance }),
        1 => (repo, tag).prop_map(|(repo, tag)| Change::DeleteTag { repo, tag }),
        3 => content.clone().prop_map(|content| Change::MarkDeleting { content }),
        2 => content.clone().prop_map(|content| Change::MarkAbsent { content }),
        1 => content.prop_map(|content| Change::MarkLost { content }),
        1 => Just(Change::Reopen),
    ]
}

fn content(number: usize) -> Digest {
    BLOBS.get(number).map_or_else(|| digest(MANIFESTS[number - BLOBS.len()]), |blob| digest(blob))
}

fn manifest(number: usize) -> Manifest {
    let mut manifest = image(&[BLOBS[number]]);
    manifest.subject = number.checked_sub(1).map(|subject| digest(MANIFESTS[subject]));
    manifest
}

#[derive(Default)]
struct Model {
    /// Whether each repository that exists is private.
    repositories: BTreeMap<usize, bool>,
    blobs: BTreeMap<Digest, (BlobState, bool)>,
    links: BTreeSet<(usize, Digest)>,
    manifests: BTreeMap<(usize, Digest), Provenance>,
    tags: BTreeMap<(usize, usize), (Digest, Provenance, i64)>,
}

impl Model {
    fn ensure(&mut self, repo: usize, provenance: Provenance) {
        *self.repositories.entry(repo).or_default() |= provenance.is_pushed();
    }

    fn store(&mut self, repo: usize, digest: Digest, provenance: Provenance) {
        self.ensure(repo, provenance);
        let (state, pushed) = self.blobs.entry(digest).or_insert((BlobState::Present, false));
        *state = BlobState::Present;
        *pushed |= provenance.is_pushed();
        self.links.insert((repo, digest));
    }

    fn state(&self, digest: Digest) -> Option<BlobState> {
        self.blobs.get(&digest).map(|(state, _)| *state)
    }

    fn point(&mut self, repo: usize, tag: usize, digest: Digest, provenance: Provenance, now_ms: i64) -> bool {
        let held = self.tags.get(&(repo, tag)).is_some_and(|(_, by, _)| *by == Pushed);
        if held && provenance == Cached {
            return false;
        }
        self.tags.insert((repo, tag), (digest, provenance, now_ms));
        true
    }

    fn turn(&mut self, digest: Digest, from: BlobState, to: BlobState, only_cached: bool) -> bool {
        let Some((state, pushed)) = self.blobs.get_mut(&digest) else { return false };
        if *state != from || (only_cached && *pushed) {
            return false;
        }
        *state = to;
        true
    }

    fn put(&mut self, repo: usize, number: usize, provenance: Provenance, tags: &[usize], now_ms: i64) {
        let digest = digest(MANIFESTS[number]);
        self.store(repo, digest, provenance);
        let blob = super::digest(BLOBS[number]);
        self.blobs.entry(blob).or_insert((BlobState::Absent, false));
        let known = self.manifests.entry((repo, digest)).or_insert(provenance);
        if provenance == Pushed {
            *known = Pushed;
        }
        for tag in tags {
            self.point(repo, *tag, digest, provenance, now_ms);
        }
    }

    /// Makes the change; what the index should answer to it.
    fn change(&mut self, change: &Change, now_ms: i64) -> bool {
        match *change {
            Change::CommitBlob { repo, blob, provenance } => {
                self.store(repo, digest(BLOBS[blob]), provenance);
                true
            }
            Change::LinkBlob { repo, content: number, provenance } => {
                let present = self.state(content(number)) == Some(BlobState::Present);
                if present {
                    self.store(repo, content(number), provenance);
                }
                present
            }
            Change::UnlinkBlob { repo, content: number } => self.links.remove(&(repo, content(number))),
            Change::PutManifest { repo, manifest, provenance, ref tags } => {
                self.put(repo, manifest, provenance, tags, now_ms);
                true
            }
            Change::DeleteManifest { repo, manifest } => {
                let digest = digest(MANIFESTS[manifest]);
                let known = self.manifests.remove(&(repo, digest)).is_some();
                if known {
                    self.links.remove(&(repo, digest));
                    self.tags.retain(|(of, _), (named, _, _)| (*of, *named) != (repo, digest));
                }
                known
            }
            Change::PutTag { repo, tag, manifest, provenance } => {
                let digest = digest(MANIFESTS[manifest]);
                if !self.manifests.contains_key(&(repo, digest)) {
                    return false;
                }
                self.ensure(repo, provenance);
                self.point(repo, tag, digest, provenance, now_ms)
            }
            Change::DeleteTag { repo, tag } => self.tags.remove(&(repo, tag)).is_some(),
            Change::MarkDeleting { content: number } => {
                self.turn(content(number), BlobState::Present, BlobState::Deleting, true)
            }
            Change::MarkAbsent { content: number } => {
                self.turn(content(number), BlobState::Deleting, BlobState::Absent, false);
                true
            }
            Change::MarkLost { content: number } => {
                self.turn(content(number), BlobState::Present, BlobState::Absent, false)
            }
            Change::Reopen => true,
        }
    }
}

async fn apply(index: &Metadata, change: &Change, now_ms: i64) -> Result<bool, Error> {
    let name = |repo: usize| repo_named(repo);
    match *change {
        Change::CommitBlob { repo, blob, provenance } => {
            let digest = digest(BLOBS[blob]);
            index.commit_blob(&name(repo), &digest, 10, STORED_BYTES, provenance, now_ms).await.map(|_| true)
        }
        Change::LinkBlob { repo, content: number, provenance } => {
            index.link_blob(&name(repo), &content(number), provenance, now_ms).await.map(|change| change.is_some())
        }
        Change::UnlinkBlob { repo, content: number } => index.unlink_blob(&name(repo), &content(number)).await,
        Change::PutManifest { repo, manifest: number, provenance, ref tags } => {
            let (repo, parsed) = (name(repo), manifest(number));
            let tags: Vec<Tag> = tags.iter().map(|number| tag(TAGS[*number])).collect();
            let new = NewManifest { now_ms, ..put(&repo, MANIFESTS[number], &parsed, provenance, &tags) };
            index.put_manifest(new).await.map(|_| true)
        }
        Change::DeleteManifest { repo, manifest } => {
            index.delete_manifest(&name(repo), &digest(MANIFESTS[manifest])).await
        }
        Change::PutTag { repo, tag: number, manifest, provenance } => {
            index.put_tag(&name(repo), &tag(TAGS[number]), &digest(MANIFESTS[manifest]), provenance, now_ms).await
        }
        Change::DeleteTag { repo, tag: number } => index.delete_tag(&name(repo), &tag(TAGS[number])).await,
        Change::MarkDeleting { content: number } => {
            index.mark_deleting(&[content(number)]).await.map(|rows| !rows.is_empty())
        }
        Change::MarkAbsent { content: number } => index.mark_absent(&[content(number)]).await.map(|()| true),
        Change::MarkLost { content: number } => index.mark_lost(&content(number), "digest", 9).await,
        Change::Reopen => Ok(true),
    }
}

fn repo_named(number: usize) -> RepositoryName {
    repo(REPOSITORIES[number])
}

async fn assert_same(index: &Metadata, model: &Model) {
    for repo in 0..REPOSITORIES.len() {
        let name = repo_named(repo);
        let private = index.repository(&name).await.unwrap().map(|row| row.private);
        assert_eq!(private, model.repositories.get(&repo).copied());
        assert_same_contents(index, model, repo, &name).await;
        assert_same_tags(index, model, repo, &name).await;
    }
    let holds =
        |repo: &usize| model.links.iter().any(|(of, _)| of == repo) || model.manifests.keys().any(|(of, _)| of == repo);
    let mut listed: Vec<RepositoryName> =
        model.repositories.keys().filter(|repo| holds(repo)).map(|r| repo_named(*r)).collect();
    listed.sort();
    assert_eq!(index.list_repositories(None, 9).await.unwrap(), listed);
    assert_same_totals(index, model).await;
}

async fn assert_same_contents(index: &Metadata, model: &Model, repo: usize, name: &RepositoryName) {
    for digest in (0..BLOBS.len() + MANIFESTS.len()).map(content) {
        let found = match index.find_link(name, &digest).await.unwrap() {
            Link::Linked(row) => (true, Some((row.state, row.pushed))),
            Link::Unlinked(row) => (false, Some((row.state, row.pushed))),
            Link::Unknown => (false, None),
        };
        let linked = model.links.contains(&(repo, digest));
        let row = model.blobs.get(&digest).copied();
        assert_eq!(found, (linked, row.filter(|(state, _)| linked || *state == BlobState::Present)));
    }
    for (number, text) in MANIFESTS.iter().enumerate() {
        let digest = digest(text);
        let found = index.find_manifest(name, &digest).await.unwrap().map(|(row, state)| (row.provenance, state));
        let known = model.manifests.get(&(repo, digest));
        assert_eq!(found, known.map(|provenance| (*provenance, model.state(digest).expect("stored once"))));
        let referrers = index.list_referrers(name, &digest, None, None, 9).await.unwrap();
        let expected = MANIFESTS.get(number + 1).map(|next| super::digest(next));
        let expected: Vec<Digest> =
            expected.into_iter().filter(|next| model.manifests.contains_key(&(repo, *next))).collect();
        assert_eq!(referrers.iter().map(|row| row.digest).collect::<Vec<_>>(), expected);
    }
}

async fn assert_same_tags(index: &Metadata, model: &Model, repo: usize, name: &RepositoryName) {
    let mut listed = Vec::new();
    for (number, text) in TAGS.iter().enumerate() {
        let found = index.find_tag(name, &tag(text)).await.unwrap();
        let found = found.map(|row| (row.digest, row.provenance, row.updated_ms));
        assert_eq!(found, model.tags.get(&(repo, number)).copied());
        listed.extend(found.map(|_| tag(text)));
    }
    assert_eq!(index.list_tags(name, None, 9).await.unwrap(), listed);
}

async fn assert_same_totals(index: &Metadata, model: &Model) {
    let sum = |wanted: &dyn Fn(BlobState, bool) -> bool| {
        model.blobs.values().filter(|(state, pushed)| wanted(*state, *pushed)).count() as u64
    };
    let expected = Totals {
        cached_bytes: STORED_BYTES * sum(&|state, pushed| state == BlobState::Present && !pushed),
        pushed_bytes: STORED_BYTES * sum(&|state, pushed| state == BlobState::Present && pushed),
        deleting_bytes: STORED_BYTES * sum(&|state, _| state == BlobState::Deleting),
        n_blobs: sum(&|state, _| state == BlobState::Present),
        n_manifests: model.manifests.len() as u64,
        n_repositories: model.repositories.len() as u64,
    };
    assert_eq!(index.totals().await.unwrap(), expected);
    assert!(!index.recount().await.unwrap());
}

async fn run(changes: Vec<Change>) {
    let mut index = Index::new().await;
    let mut model = Model::default();
    for (now_ms, change) in (1..).zip(&changes) {
        if matches!(change, Change::Reopen) {
            index = index.reopen().await;
        }
        let answer = apply(&index, change, now_ms).await.unwrap();
        assert_eq!(answer, model.change(change, now_ms), "{change:?}");
    }
    assert_same(&index, &model).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_changes_leave_what_the_model_says(changes in prop::collection::vec(change(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(changes));
    }
}
