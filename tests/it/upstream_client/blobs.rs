//! Blobs: whole, in part, cut, stalled and mislabelled.

use std::time::Duration;

use entrepot::oci::{Algorithm, Digest};
use entrepot::upstream::{Error, Fetch, Nonsense, Options, Upstream, Wait};

use super::{REPOSITORY, client, content, fetch_whole, options, read, repository};
use crate::support::upstream::{FakeUpstream, Fault, Gate, On};

#[tokio::test]
async fn a_blob_comes_whole_with_its_length() {
    let fake = FakeUpstream::start().await;
    let bytes = content(300_000);
    let digest = fake.push_blob(REPOSITORY, bytes.clone());
    let upstream = client(&fake);
    assert_eq!(upstream.head_blob(&repository(), &digest).await.unwrap().size_bytes, Some(300_000));
    for part in [Fetch::Whole, Fetch::From(0)] {
        let stream = upstream.fetch_blob(&repository(), &digest, part).await.unwrap();
        assert_eq!((stream.start, stream.total_bytes), (0, Some(300_000)));
        assert!(read(stream).await.unwrap() == bytes);
        assert_eq!(fake.requests().last().header("range"), None);
    }
    assert_eq!(fake.requests().blobs_got(&digest), 2);
    fake.until(|requests| requests.last().bytes_sent == 300_000).await;
}

#[tokio::test]
async fn the_blobs_of_an_image_are_there() {
    let fake = FakeUpstream::start().await;
    let image = fake.push_image(REPOSITORY, "1", &[b"first", b"second"]);
    for (digest, expected) in image.layers.iter().zip(["first", "second"]) {
        assert_eq!(fetch_whole(&client(&fake), digest).await.unwrap(), expected.as_bytes());
    }
    let config = fetch_whole(&client(&fake), &image.config).await.unwrap();
    assert_eq!(Digest::of(Algorithm::Sha256, &config), image.config);
}

#[tokio::test]
async fn every_operation_can_run_in_a_task_of_its_own() {
    let fake = FakeUpstream::start().await;
    let image = fake.push_image(REPOSITORY, "1", &[b"layer"]);
    let upstream = client(&fake);
    let task = tokio::spawn(async move {
        let (name, tag) = (repository(), "1".parse().unwrap());
        let head = upstream.head_manifest(&name, &tag).await?;
        let manifest = upstream.fetch_manifest(&name, &tag).await?;
        let page = upstream.list_tags(&name, None, None).await?;
        let layer = image.layers[0];
        upstream.head_blob(&name, &layer).await?;
        let bytes = fetch_whole(&upstream, &layer).await?;
        Ok::<_, Error>((head.digest == manifest.claimed, page.tags.len(), bytes))
    });
    assert_eq!(task.await.unwrap().unwrap(), (true, 1, b"layer".to_vec()));
}

#[tokio::test]
async fn an_empty_blob_is_a_blob() {
    let fake = FakeUpstream::start().await;
    let digest = fake.push_blob(REPOSITORY, "");
    assert_eq!(fetch_whole(&client(&fake), &digest).await.unwrap(), b"");
}

#[tokio::test]
async fn parts_of_a_blob_are_the_parts_asked_for() {
    let fake = FakeUpstream::start().await;
    let bytes = content(1000);
    let digest = fake.push_blob(REPOSITORY, bytes.clone());
    for (part, start, expected) in [
        (Fetch::From(990), 990, &bytes[990..]),
        (Fetch::Between { first: 10, last: 19 }, 10, &bytes[10..20]),
        (Fetch::Between { first: 999, last: 5000 }, 999, &bytes[999..]),
    ] {
        let mut stream = client(&fake).fetch_blob(&repository(), &digest, part).await.unwrap();
        assert_eq!((stream.start, stream.total_bytes, stream.position()), (start, Some(1000), start));
        let mut got = Vec::new();
        while let Some(piece) = stream.next().await.unwrap() {
            got.extend_from_slice(&piece);
        }
        assert_eq!(got, expected);
        assert_eq!(stream.position(), start + expected.len() as u64);
        assert_eq!(stream.next().await.unwrap(), None, "the end stays the end");
    }
}

#[tokio::test]
async fn a_part_outside_of_the_blob_is_told_apart_from_a_missing_blob() {
    let fake = FakeUpstream::start().await;
    let digest = fake.push_blob(REPOSITORY, content(10));
    let upstream = client(&fake);
    let error = upstream.fetch_blob(&repository(), &digest, Fetch::From(10)).await.err().unwrap();
    assert!(matches!(error, Error::RangeUnsatisfiable { .. }), "{error:?}");
    let missing = Digest::of(Algorithm::Sha512, b"missing");
    assert_eq!(fetch_whole(&upstream, &missing).await.unwrap_err().kind(), "not_found");
    assert_eq!(upstream.head_blob(&repository(), &missing).await.unwrap_err().kind(), "not_found");
    assert_eq!(fake.requests().len(), 3);
}

#[tokio::test]
async fn an_upstream_without_ranges_starts_at_zero() {
    let fake = FakeUpstream::start().await;
    let bytes = content(1000);
    let digest = fake.push_blob(REPOSITORY, bytes.clone());
    fake.fault(On::blob(&digest), Fault::NoRange);
    let stream = client(&fake).fetch_blob(&repository(), &digest, Fetch::From(600)).await.unwrap();
    assert_eq!((stream.start, stream.total_bytes), (0, Some(1000)));
    assert_eq!(read(stream).await.unwrap(), bytes);
}

#[tokio::test]
async fn a_part_that_is_not_the_one_asked_for_is_nonsense() {
    let fake = FakeUpstream::start().await;
    let digest = fake.push_blob(REPOSITORY, content(1000));
    for (value, part, expected) in [
        ("bytes 500-999/1000", Fetch::From(600), Nonsense::ContentRange),
        ("bytes 600-998/1000", Fetch::From(600), Nonsense::ContentRange),
        ("garbage", Fetch::From(600), Nonsense::ContentRange),
        ("bytes 600-1099/1100", Fetch::From(600), Nonsense::Length),
        ("bytes 0-999/1000", Fetch::Whole, Nonsense::PartialUnasked),
    ] {
        fake.heal();
        fake.fault(On::blob(&digest), Fault::ContentRange(value.to_owned()));
        let error = client(&fake).fetch_blob(&repository(), &digest, part).await.err().unwrap();
        assert!(matches!(&error, Error::Nonsense { what, .. } if *what == expected), "{value}: {error:?}");
    }
    assert_eq!(fake.requests().blobs_got(&digest), 5, "nonsense is not asked for again");
}

#[tokio::test]
async fn a_cut_blob_says_where_to_go_on() {
    let fake = FakeUpstream::start().await;
    let bytes = content(100_000);
    let digest = fake.push_blob(REPOSITORY, bytes.clone());
    let upstream = client(&fake);
    fake.fault(On::blob(&digest).times(1), Fault::CutAfter(1000));
    fake.fault(On::blob(&digest).times(1), Fault::CutAfter(500));
    let error = fetch_whole(&upstream, &digest).await.unwrap_err();
    assert!(matches!(error, Error::Cut { at: 1000, .. }), "{error:?}");
    assert!(error.is_transient());
    let stream = upstream.fetch_blob(&repository(), &digest, Fetch::From(1000)).await.unwrap();
    let error = read(stream).await.unwrap_err();
    assert!(matches!(error, Error::Cut { at: 1500, .. }), "offsets count from the blob's start: {error:?}");
    let stream = upstream.fetch_blob(&repository(), &digest, Fetch::From(1500)).await.unwrap();
    assert_eq!(read(stream).await.unwrap(), &bytes[1500..]);
}

#[tokio::test]
async fn a_reset_connection_is_a_cut() {
    let fake = FakeUpstream::start().await;
    let digest = fake.push_blob(REPOSITORY, content(100_000));
    fake.fault(On::blob(&digest), Fault::ResetAfter(50_000));
    let options = Options { retries: 0, ..options(&fake) };
    let error = fetch_whole(&Upstream::new(options).unwrap(), &digest).await.unwrap_err();
    // A reset may overtake all that was sent, the head included.
    assert!(matches!(error, Error::Cut { at: 0..=50_000, .. } | Error::Dropped { .. }), "{error:?}");
}

#[tokio::test]
async fn a_body_never_passes_its_length_and_never_falls_short_of_it() {
    let fake = FakeUpstream::start().await;
    let bytes = content(1000);
    let digest = fake.push_blob(REPOSITORY, bytes.clone());
    fake.fault(On::blob(&digest).times(1), Fault::LengthOff(-10));
    fake.fault(On::blob(&digest).times(1), Fault::LengthOff(10));
    let upstream = client(&fake);
    assert_eq!(fetch_whole(&upstream, &digest).await.unwrap(), &bytes[..990]);
    let error = fetch_whole(&upstream, &digest).await.unwrap_err();
    assert!(matches!(error, Error::Cut { at: 1000, .. }), "{error:?}");
}

#[tokio::test]
async fn a_chunked_blob_has_no_length_and_ends() {
    let fake = FakeUpstream::start().await;
    let bytes = content(5000);
    let digest = fake.push_blob(REPOSITORY, bytes.clone());
    fake.fault(On::blob(&digest), Fault::Chunked);
    let stream = client(&fake).fetch_blob(&repository(), &digest, Fetch::Whole).await.unwrap();
    assert_eq!(stream.total_bytes, None);
    assert_eq!(read(stream).await.unwrap(), bytes);
}

#[tokio::test]
async fn wrong_bytes_are_passed_on_for_the_cache_to_find() {
    let fake = FakeUpstream::start().await;
    let bytes = content(1000);
    let digest = fake.push_blob(REPOSITORY, bytes.clone());
    fake.fault(On::blob(&digest), Fault::WrongBytes);
    let got = fetch_whole(&client(&fake), &digest).await.unwrap();
    assert_eq!(got.len(), bytes.len());
    assert_ne!(got, bytes);
}

#[tokio::test]
async fn bytes_are_handed_on_as_they_come_and_a_stall_is_noticed() {
    let fake = FakeUpstream::start().await;
    let bytes = content(30);
    let digest = fake.push_blob(REPOSITORY, bytes.clone());
    let gate = Gate::closed();
    fake.fault(On::blob(&digest), Fault::Drip(gate.clone(), 10));
    let options = Options { no_progress_timeout: Duration::from_millis(300), ..options(&fake) };
    let mut stream = Upstream::new(options).unwrap().fetch_blob(&repository(), &digest, Fetch::Whole).await.unwrap();
    for piece in bytes.chunks(10).take(2) {
        gate.let_pass(1);
        assert_eq!(stream.next().await.unwrap().unwrap(), piece);
    }
    let error = stream.next().await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { what: Wait::Progress, .. }), "{error:?}");
    assert_eq!(stream.position(), 20);
}

#[tokio::test]
async fn a_cancelled_read_loses_no_byte() {
    let fake = FakeUpstream::start().await;
    let bytes = content(20);
    let digest = fake.push_blob(REPOSITORY, bytes.clone());
    let gate = Gate::closed();
    fake.fault(On::blob(&digest), Fault::Drip(gate.clone(), 10));
    let mut stream = client(&fake).fetch_blob(&repository(), &digest, Fetch::Whole).await.unwrap();
    let cancelled = futures::poll!(std::pin::pin!(stream.next())).is_pending();
    assert!(cancelled, "nothing was let through yet");
    gate.let_pass(2);
    assert_eq!(read(stream).await.unwrap(), bytes);
}

#[tokio::test]
async fn an_endless_blob_stops_with_its_reader() {
    let fake = FakeUpstream::start().await;
    let digest = fake.push_blob(REPOSITORY, "short");
    fake.fault(On::blob(&digest), Fault::Endless);
    let mut stream = client(&fake).fetch_blob(&repository(), &digest, Fetch::Whole).await.unwrap();
    while stream.position() < 100_000 {
        assert!(stream.next().await.unwrap().is_some());
    }
}
