use std::os::unix::fs::FileExt as _;

use futures::stream;

use super::*;
use crate::oci::Algorithm;

fn blobs() -> (tempfile::TempDir, Blobs) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), true).unwrap();
    (folder, Blobs::new(Arc::new(store)))
}

fn no_lease() -> Lease {
    Arc::new(())
}

async fn commit(writer: BlobWriter, digest: Digest) -> Result<Committed, Error> {
    writer.prove(digest).await?.name().await
}

async fn pour(writer: &mut BlobWriter, chunks: &[&[u8]]) {
    let chunks: Vec<Result<Bytes, ()>> = chunks.iter().map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
    let mut source = stream::iter(chunks);
    writer.pour(Pin::new(&mut source)).await.unwrap();
}

use std::pin::Pin;

#[tokio::test]
async fn poured_bytes_become_the_blob_of_their_digest() {
    let (_folder, blobs) = blobs();
    let digest = Digest::of(Algorithm::Sha256, b"hello world");
    let staging = blobs.stage_fill(digest).await.unwrap();
    let mut writer = BlobWriter::continue_from(staging, &digest, no_lease()).await.unwrap();
    pour(&mut writer, &[b"hello ", b"", b"world"]).await;
    let committed = commit(writer, digest).await.unwrap();
    assert_eq!(committed.size_bytes, 11);
    assert_eq!(blobs.read(digest, 11).await.unwrap().unwrap(), "hello world");
    assert!(blobs.store().list_partial_fills().unwrap().is_empty());
}

#[tokio::test]
async fn bytes_of_another_digest_are_never_committed() {
    let (_folder, blobs) = blobs();
    let expected = Digest::of(Algorithm::Sha512, b"right");
    let staging = blobs.stage_fill(expected).await.unwrap();
    let mut writer = BlobWriter::continue_from(staging, &expected, no_lease()).await.unwrap();
    pour(&mut writer, &[b"wrong"]).await;
    assert!(matches!(commit(writer, expected).await, Err(Error::Mismatch { .. })));
    assert!(blobs.open(expected, 5).await.unwrap().is_none());
    assert!(blobs.store().list_partial_fills().unwrap().is_empty());
    assert!(matches!(blobs.put(expected, Bytes::from_static(b"wrong")).await, Err(Error::Mismatch { .. })));
    assert!(blobs.open(expected, 5).await.unwrap().is_none());
}

#[tokio::test]
async fn a_writer_goes_on_where_another_was_dropped() {
    let (_folder, blobs) = blobs();
    let digest = Digest::of(Algorithm::Sha256, b"hello world");
    let mut first =
        BlobWriter::continue_from(blobs.stage_fill(digest).await.unwrap(), &digest, no_lease()).await.unwrap();
    pour(&mut first, &[b"hello "]).await;
    drop(first);
    let staging = blobs.stage_fill(digest).await.unwrap();
    assert_eq!(staging.length_bytes(), 6);
    let mut second = BlobWriter::continue_from(staging, &digest, no_lease()).await.unwrap();
    pour(&mut second, &[b"world"]).await;
    commit(second, digest).await.unwrap();
}

#[tokio::test]
async fn an_upload_is_proven_by_the_algorithm_of_its_digest() {
    let (_folder, blobs) = blobs();
    let id = UploadId::random();
    let started = BlobWriter::suspended_start(Algorithm::Sha256);
    let mut writer = BlobWriter::resume(blobs.stage_upload(id).await.unwrap(), Some(started), no_lease());
    pour(&mut writer, &[b"ab"]).await;
    let suspended = writer.suspend().await.unwrap();
    let mut writer = BlobWriter::resume(blobs.stage_upload(id).await.unwrap(), suspended, no_lease());
    pour(&mut writer, &[b"c"]).await;
    commit(writer, Digest::of(Algorithm::Sha512, b"abc")).await.unwrap();
}

#[tokio::test]
async fn readers_hear_of_every_write_but_get_the_last_piece_only_after_the_proof() {
    let (_folder, blobs) = blobs();
    let bytes = vec![7; 10_000];
    let digest = Digest::of(Algorithm::Sha256, &bytes);
    let mut writer =
        BlobWriter::continue_from(blobs.stage_fill(digest).await.unwrap(), &digest, no_lease()).await.unwrap();
    let (growth, mut heard) = tokio::sync::watch::channel(Growth::Filling { servable_bytes: 0 });
    writer.announce(growth, Some(10_000));
    pour(&mut writer, &[&bytes[..5000]]).await;
    assert!(matches!(*heard.borrow_and_update(), Growth::Filling { servable_bytes: 5000 }));
    pour(&mut writer, &[&bytes[5000..]]).await;
    assert!(matches!(*heard.borrow_and_update(), Growth::Filling { servable_bytes: 5904 }));
    commit(writer, digest).await.unwrap();
    assert!(matches!(*heard.borrow_and_update(), Growth::Verified { size_bytes: 10_000 }));
}

#[tokio::test]
async fn a_lease_is_held_until_the_last_write_has_ended() {
    let (_folder, blobs) = blobs();
    let lease = Arc::new(());
    let staging = blobs.stage_upload(UploadId::random()).await.unwrap();
    let mut writer = BlobWriter::resume(staging, None, lease.clone());
    pour(&mut writer, &[&vec![1; 3 << 20]]).await;
    drop(writer);
    assert_eq!(Arc::strong_count(&lease), 1);
}

fn rewrite(blobs: &Blobs, digest: &Digest, bytes: &[u8]) {
    let path = blobs.store().blob_path(digest);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn every_kind_of_damage_is_found_and_set_aside() {
    let (_folder, blobs) = blobs();
    let bytes = vec![7; 2_500_000];
    let digest = Digest::of(Algorithm::Sha256, &bytes);
    let mut rate = ReadRate::new(1 << 40);
    let mut flipped = bytes.clone();
    flipped[2_400_000] ^= 1;
    let actual = Digest::of(Algorithm::Sha256, &flipped);
    for (found, damage) in [
        (Some(bytes.as_slice()), None),
        (Some(&flipped), Some(Damage::Digest { actual })),
        (Some(&bytes[..9]), Some(Damage::Length { actual_bytes: 9 })),
        (None, Some(Damage::Missing)),
    ] {
        blobs.put(digest, Bytes::copy_from_slice(&bytes)).await.unwrap();
        match found {
            Some(found) => rewrite(&blobs, &digest, found),
            None => std::fs::remove_file(blobs.store().blob_path(&digest)).unwrap(),
        }
        let checked = blobs.check(digest, bytes.len() as u64, &mut rate).await.unwrap();
        assert_eq!(checked.damage, damage);
        if damage.is_some() {
            let aside = blobs.quarantine(digest, checked, 5).await.unwrap();
            assert_eq!(aside.unwrap() > 0, found.is_some(), "{damage:?}");
            assert!(blobs.open(digest, bytes.len() as u64).await.unwrap().is_none());
        }
    }
    assert_eq!(blobs.list_quarantined().await.unwrap().len(), 1, "one of one moment");
}

#[tokio::test]
async fn a_file_that_took_the_place_of_a_damaged_one_is_not_set_aside_for_it() {
    let (_folder, blobs) = blobs();
    let digest = Digest::of(Algorithm::Sha256, b"abc");
    for wrong in [Some(b"abd"), None] {
        blobs.put(digest, Bytes::from_static(b"abc")).await.unwrap();
        match wrong {
            Some(wrong) => rewrite(&blobs, &digest, wrong),
            None => std::fs::remove_file(blobs.store().blob_path(&digest)).unwrap(),
        }
        let checked = blobs.check(digest, 3, &mut ReadRate::new(1 << 40)).await.unwrap();
        assert!(checked.damage.is_some());
        blobs.put(digest, Bytes::from_static(b"abc")).await.unwrap();
        assert_eq!(blobs.quarantine(digest, checked, 5).await.unwrap(), None);
        assert_eq!(blobs.read(digest, 3).await.unwrap().unwrap(), "abc");
    }
}

#[tokio::test]
async fn a_blob_is_read_no_faster_than_its_rate() {
    let (_folder, blobs) = blobs();
    let bytes = vec![1; 4 << 20];
    let digest = Digest::of(Algorithm::Sha256, &bytes);
    blobs.put(digest, bytes.into()).await.unwrap();
    let began = tokio::time::Instant::now();
    blobs.check(digest, 4 << 20, &mut ReadRate::new(40 << 20)).await.unwrap();
    assert!(began.elapsed() >= std::time::Duration::from_millis(100), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_blob_of_another_length_than_recorded_is_not_opened() {
    let (_folder, blobs) = blobs();
    let digest = Digest::of(Algorithm::Sha256, b"abc");
    blobs.put(digest, Bytes::from_static(b"abc")).await.unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(blobs.store().blob_path(&digest)).unwrap();
    file.write_all_at(b"d", 3).unwrap();
    assert!(matches!(blobs.open(digest, 3).await, Err(Error::Length { actual_bytes: 4, .. })));
}
