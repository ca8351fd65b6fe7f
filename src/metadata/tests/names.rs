//! The record of names against the index it is kept beside.

use std::io;
use std::sync::Mutex;

use super::*;
use Provenance::{Cached, Pushed};

/// A record in memory that can be told to fail.
#[derive(Debug, Default)]
struct InMemory {
    text: Mutex<Option<Vec<u8>>>,
    fails: Mutex<bool>,
}

impl InMemory {
    fn names(&self) -> Names {
        Names::parse(self.text.lock().unwrap().as_deref().unwrap_or_default())
    }

    fn change(&self, change: impl FnOnce(&mut Option<Vec<u8>>)) -> io::Result<()> {
        if *self.fails.lock().unwrap() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        change(&mut self.text.lock().unwrap());
        Ok(())
    }
}

impl NameRecord for InMemory {
    fn read(&self) -> io::Result<Option<Vec<u8>>> {
        Ok(self.text.lock().unwrap().clone())
    }

    fn append(&self, lines: &[u8]) -> io::Result<()> {
        self.change(|text| text.get_or_insert_default().extend_from_slice(lines))
    }

    fn replace(&self, lines: &[u8]) -> io::Result<()> {
        self.change(|text| *text = Some(lines.to_vec()))
    }
}

async fn open_with(folder: &Path, record: &Arc<InMemory>) -> Metadata {
    let names: Arc<dyn NameRecord> = Arc::clone(record) as _;
    let options = Options { names: Some(names), ..Options::new(folder.join("index.sqlite")) };
    Metadata::open(options).await.unwrap()
}

async fn push(index: &Metadata, name: &str, tags: &[Tag], provenance: Provenance) -> Result<BlobChange, Error> {
    index.put_manifest(put(&repo("r"), name, &image(&["a"]), provenance, tags)).await
}

#[tokio::test]
async fn what_was_acknowledged_is_in_the_record_and_nothing_else() {
    let (folder, record) = (tempfile::tempdir().unwrap(), Arc::new(InMemory::default()));
    let index = open_with(folder.path(), &record).await;
    push(&index, "m", &[tag("1"), tag("2")], Pushed).await.unwrap();
    push(&index, "n", &[tag("2")], Pushed).await.unwrap();
    push(&index, "c", &[tag("cached")], Cached).await.unwrap();
    index.put_tag(&repo("r"), &tag("3"), &digest("c"), Pushed, 1).await.unwrap();
    index.commit_blob(&repo("blobs/only"), &digest("b"), 1, 1, Pushed, 1).await.unwrap();
    let names = record.names();
    assert_eq!(names.private, [repo("blobs/only"), repo("r")].into());
    assert_eq!(names.manifests.keys().cloned().collect::<Vec<_>>(), {
        let mut both = vec![(repo("r"), digest("m")), (repo("r"), digest("n"))];
        both.sort();
        both
    });
    let tags = [("1", "m"), ("2", "n"), ("3", "c")].map(|(name, of)| ((repo("r"), tag(name)), digest(of)));
    assert_eq!(names.tags, tags.into());

    index.delete_tag(&repo("r"), &tag("1")).await.unwrap();
    index.delete_manifest(&repo("r"), &digest("n")).await.unwrap();
    let names = record.names();
    assert_eq!(names.tags.keys().cloned().collect::<Vec<_>>(), [(repo("r"), tag("3"))], "tags go with their manifest");
    assert_eq!(names.manifests.len(), 1);
    assert_eq!(names.unreadable, 0);
}

#[tokio::test]
async fn pushing_what_is_there_already_writes_nothing() {
    let (folder, record) = (tempfile::tempdir().unwrap(), Arc::new(InMemory::default()));
    let index = open_with(folder.path(), &record).await;
    push(&index, "m", &[tag("1")], Pushed).await.unwrap();
    let before = record.read().unwrap();
    push(&index, "m", &[tag("1")], Pushed).await.unwrap();
    index.touch(&[(digest("m"), 9)]).await.unwrap();
    assert_eq!(record.read().unwrap(), before);
}

#[tokio::test]
async fn a_push_whose_name_cannot_be_recorded_is_not_acknowledged_and_leaves_nothing() {
    let (folder, record) = (tempfile::tempdir().unwrap(), Arc::new(InMemory::default()));
    let index = open_with(folder.path(), &record).await;
    push(&index, "m", &[tag("1")], Pushed).await.unwrap();
    *record.fails.lock().unwrap() = true;
    assert!(push(&index, "n", &[tag("1")], Pushed).await.is_err());
    index.touch(&[(digest("m"), 9)]).await.expect("what changes no name goes on");
    *record.fails.lock().unwrap() = false;
    assert_eq!(index.find_tag(&repo("r"), &tag("1")).await.unwrap().unwrap().digest, digest("m"));
    push(&index, "n", &[tag("1")], Pushed).await.unwrap();
    assert_eq!(record.names().tags[&(repo("r"), tag("1"))], digest("n"));
}

#[tokio::test]
async fn a_record_that_is_gone_or_behind_or_torn_is_written_anew() {
    let (folder, record) = (tempfile::tempdir().unwrap(), Arc::new(InMemory::default()));
    let index = open_with(folder.path(), &record).await;
    push(&index, "m", &[tag("1")], Pushed).await.unwrap();
    let older = record.read().unwrap().unwrap();
    push(&index, "n", &[tag("2")], Pushed).await.unwrap();
    index.close().await;
    let sound = record.names();
    let mut torn = record.read().unwrap().unwrap();
    torn.truncate(torn.len() - 9);
    for damaged in [None, Some(older), Some(torn), Some(b"\xff\0 nonsense\n".to_vec())] {
        *record.text.lock().unwrap() = damaged;
        let index = open_with(folder.path(), &record).await;
        assert_eq!(index.names_to_learn(), None);
        index.try_writer().await.unwrap();
        index.close().await;
        let names = record.names();
        assert_eq!((&names.tags, &names.manifests), (&sound.tags, &sound.manifests));
        assert!(names.is_complete());
    }
}

#[tokio::test]
async fn a_record_that_is_ahead_is_learnt_before_it_is_written_again() {
    let (folder, record) = (tempfile::tempdir().unwrap(), Arc::new(InMemory::default()));
    let index = open_with(folder.path(), &record).await;
    push(&index, "m", &[tag("1"), tag("old")], Pushed).await.unwrap();
    let copy = folder.path().join("copy.sqlite");
    index.back_up(&copy).await.unwrap();
    push(&index, "n", &[tag("1")], Pushed).await.unwrap();
    index.delete_tag(&repo("r"), &tag("old")).await.unwrap();
    index.close().await;
    let known = record.read().unwrap();
    std::fs::rename(copy, folder.path().join("index.sqlite")).unwrap();

    let index = open_with(folder.path(), &record).await;
    let names = index.names_to_learn().expect("the index is older");
    assert_eq!(names.tags[&(repo("r"), tag("1"))], digest("n"));
    assert!(names.is_complete() && names.tags.len() == 1, "{names:?}");
    push(&index, "n", &[tag("1")], Pushed).await.unwrap();
    assert_eq!(record.read().unwrap(), known, "nothing is written while there is something to learn");
    index.delete_tag(&repo("r"), &tag("old")).await.unwrap();
    index.names_learnt(names.batch).await.unwrap();
    let after = record.names();
    assert!(after.batch > names.batch);
    assert_eq!((&after.tags, &after.manifests), (&names.tags, &names.manifests));
    let known = index.pushed_names().await.unwrap();
    assert_eq!((known.tags, known.manifests, known.private), (after.tags, after.manifests, after.private));
    index.close().await;
    assert_eq!(open_with(folder.path(), &record).await.names_to_learn(), None);
}

#[tokio::test]
async fn a_damaged_index_is_told_from_one_that_cannot_be_opened() {
    let index = Index::new().await;
    for number in 0..200 {
        let name = format!("{number}");
        index.commit_blob(&repo(&name), &digest(&name), 10, 4096, Pushed, 1).await.unwrap();
    }
    let Index { folder, metadata } = index;
    metadata.close().await;
    let path = folder.path().join("index.sqlite");
    let sound = std::fs::read(&path).unwrap();
    let mut garbage = sound.clone();
    garbage[..64].fill(7);
    let mut page = sound.clone();
    let middle = sound.len() / 2 / 4096 * 4096;
    page[middle..middle + 4096].fill(0xa5);
    let half = sound[..sound.len() / 2].to_vec();
    for (what, damaged) in [("header", garbage), ("page", page), ("half", half)] {
        std::fs::write(&path, &damaged).unwrap();
        let error = open(folder.path()).await.expect_err(what);
        assert!(error.is_damage(), "{what}: {error}");
        assert!(error.to_string().contains("entrepot scrub --repair"), "{what}: {error}");
        assert!(std::fs::read(&path).unwrap() == damaged, "{what}: the file was changed");
    }
    std::fs::write(&path, sound).unwrap();
    assert!(!open(&folder.path().join("absent")).await.unwrap_err().is_damage());
    open(folder.path()).await.unwrap();
}

#[tokio::test]
async fn a_repository_that_is_nobodys_again_is_nobodys_in_the_record_too() {
    let (folder, record) = (tempfile::tempdir().unwrap(), Arc::new(InMemory::default()));
    let index = open_with(folder.path(), &record).await;
    push(&index, "m", &[], Pushed).await.unwrap();
    assert_eq!(record.names().private, [repo("r")].into());
    index.delete_manifest(&repo("r"), &digest("m")).await.unwrap();
    for blob in ["m", "a"] {
        index.unlink_blob(&repo("r"), &digest(blob)).await.unwrap();
    }
    assert!(index.delete_empty_repository(&repo("r")).await.unwrap());
    assert!(record.names().private.is_empty(), "its upstream would never be asked again once the index is lost");
}
