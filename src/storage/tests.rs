use std::fs;

use super::*;
use crate::oci::Algorithm;

fn complete_store(root: &Path) -> Store {
    let store = Store::open(root, true).unwrap();
    fs::write(store.index_path(), b"index").unwrap();
    store.mark_complete().unwrap();
    store
}

#[test]
fn a_new_store_opens_again() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("deep/data");
    drop(complete_store(&root));
    Store::open(&root, false).unwrap();
}

#[test]
fn a_store_whose_making_was_interrupted_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    drop(Store::open(folder.path(), true).unwrap());
    complete_store(folder.path());
}

#[test]
fn a_store_that_crashed_while_its_marker_was_written_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    drop(Store::open(folder.path(), true).unwrap());
    fs::write(folder.path().join("index.sqlite"), b"").unwrap();
    fs::write(folder.path().join("entrepot.new"), b"{").unwrap();
    complete_store(folder.path());
}

#[test]
fn a_name_is_noted_until_somebody_has_recorded_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = complete_store(folder.path());
    let digest = Digest::of(Algorithm::Sha256, b"bytes");
    let staged = store.put_path();
    let (file, _) = store.open_staging(&staged).unwrap();
    store.name(&file, &staged, &digest).unwrap();
    fs::write(folder.path().join("staging/naming/foreign"), b"").unwrap();
    assert_eq!(store.list_noted().unwrap(), [digest]);
    store.forget_note(&digest).unwrap();
    assert!(store.list_noted().unwrap().is_empty());
    assert_eq!(fs::read_dir(folder.path().join("staging/naming")).unwrap().count(), 0);
}

#[test]
fn a_second_process_is_kept_out() {
    let folder = tempfile::tempdir().unwrap();
    let first = complete_store(folder.path());
    assert!(matches!(Store::open(folder.path(), true), Err(Error::Locked { .. })));
    drop(first);
    Store::open(folder.path(), true).unwrap();
}

#[test]
fn a_foreign_folder_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("thesis.txt"), b"mine").unwrap();
    let error = Store::open(folder.path(), true).unwrap_err();
    assert!(error.to_string().contains("is no entrepot store"), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_store_of_a_later_format_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    drop(complete_store(folder.path()));
    fs::write(folder.path().join("entrepot.json"), br#"{"store":"entrepot","format":2}"#).unwrap();
    assert!(matches!(Store::open(folder.path(), true), Err(Error::Format { found: 2, known: 1, .. })));
    fs::write(folder.path().join("entrepot.json"), b"{").unwrap();
    assert!(matches!(Store::open(folder.path(), true), Err(Error::Marker { .. })));
}

#[test]
fn an_expected_store_that_is_missing_is_not_made() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(Store::open(&folder.path().join("unmounted"), false), Err(Error::Missing { .. })));
    assert!(!folder.path().join("unmounted").exists());
}

#[test]
fn a_store_without_its_index_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    drop(complete_store(folder.path()));
    for is_there in [true, false] {
        if is_there {
            // The database would take it for a new one.
            fs::write(folder.path().join("index.sqlite"), b"").unwrap();
        } else {
            fs::remove_file(folder.path().join("index.sqlite")).unwrap();
        }
        let error = Store::open(folder.path(), true).unwrap_err();
        assert!(matches!(error, Error::IndexMissing { .. }) && error.to_string().contains("scrub --repair"), "{error}");
        let store = Store::open_unserved(folder.path()).unwrap();
        assert!(!store.has_index());
    }
    assert!(matches!(Store::open_unserved(&folder.path().join("blobs")), Err(Error::Foreign { .. })));
    assert!(matches!(Store::open_unserved(&folder.path().join("absent")), Err(Error::NoStore { .. })));
}

#[test]
fn committed_bytes_have_their_digests_name_and_no_staging_file_remains() {
    let folder = tempfile::tempdir().unwrap();
    let store = complete_store(folder.path());
    let digest = Digest::of(Algorithm::Sha256, b"bytes");
    let staged = store.put_path();
    let (file, length) = store.open_staging(&staged).unwrap();
    assert_eq!(length, 0);
    std::os::unix::fs::FileExt::write_all_at(&file, b"bytes", 0).unwrap();
    store.sync(&file, &staged).unwrap();
    let stored = store.name(&file, &staged, &digest).unwrap();
    assert!(stored >= 5 && stored.is_multiple_of(512));
    assert_eq!(fs::read(store.blob_path(&digest)).unwrap(), b"bytes");
    assert!(!staged.exists());
}

#[test]
fn preallocation_takes_space_and_keeps_the_length() {
    let folder = tempfile::tempdir().unwrap();
    let store = complete_store(folder.path());
    let path = store.fill_path(&Digest::of(Algorithm::Sha256, b"x"));
    let (file, _) = store.open_staging(&path).unwrap();
    store.preallocate(&file, &path, 1 << 20).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 0);
    let partial = store.list_partial_fills().unwrap();
    assert_eq!(partial.len(), 1);
    assert_eq!(partial[0].stored_bytes, allocated_bytes(&file, &path).unwrap());
}

#[test]
fn a_record_is_added_to_and_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let store = complete_store(folder.path());
    assert_eq!(store.read_names().unwrap(), None);
    store.append_names(b"one\n").unwrap();
    store.append_names(b"two\n").unwrap();
    assert_eq!(store.read_names().unwrap().unwrap(), b"one\ntwo\n");
    store.replace_names(b"three\n").unwrap();
    store.append_names(b"four\n").unwrap();
    assert_eq!(store.read_names().unwrap().unwrap(), b"three\nfour\n");
}
