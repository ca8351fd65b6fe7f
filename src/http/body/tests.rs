use futures::FutureExt as _;
use http_body::Body as _;
use http_body_util::BodyExt as _;

use super::*;
use crate::http::sample;

const MIB: usize = 1 << 20;

fn sendfile() -> (Transport, Arc<Mappings>) {
    let mappings = Arc::<Mappings>::default();
    (Transport::Sendfile(Arc::clone(&mappings)), mappings)
}

async fn next(body: &mut FileBody) -> Bytes {
    body.frame().await.expect("a frame").expect("no error").into_data().expect("data")
}

/// The rest of a body: what it yields, and the error it ends with if any.
async fn rest(body: &mut FileBody) -> (Vec<u8>, Option<io::Error>) {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => bytes.extend_from_slice(&frame.into_data().unwrap()),
            Err(error) => return (bytes, Some(error)),
        }
    }
    (bytes, None)
}

fn reason(error: io::Error) -> BodyError {
    *error.into_inner().expect("a typed error").downcast().expect("a body error")
}

#[tokio::test]
async fn any_range_comes_out_as_it_is_in_the_file_on_both_ways() {
    let bytes = sample::bytes(5 * MIB + 123);
    let blob = sample::blob(&bytes);
    let end = bytes.len();
    for range in [0..end, 0..1, 0..0, end - 1..end, 2 * MIB - 1..2 * MIB + 1, 4 * MIB..end, 77..3 * MIB + 5] {
        for transport in [Transport::Copy, sendfile().0] {
            let in_file = range.start as u64..range.end as u64;
            let mut body = FileBody::range(blob.clone(), in_file, transport);
            assert_eq!(body.size_hint().exact(), Some(range.len() as u64));
            let (received, error) = rest(&mut body).await;
            assert!(error.is_none(), "{range:?}: {error:?}");
            assert!(received == bytes[range.clone()], "{range:?}: other bytes");
            assert!(body.is_end_stream());
        }
    }
}

#[tokio::test]
async fn the_last_piece_is_announced_as_the_last_so_that_its_end_is_not_held_back() {
    let bytes = sample::bytes(8 * MIB + 1000);
    let (transport, mappings) = sendfile();
    let mut body = FileBody::whole(sample::blob(&bytes), transport);
    let mut announced = Vec::new();
    while body.frame().await.is_some() {
        announced.push(mappings.more_follows());
    }
    assert_eq!(announced, [true, true, false]);
}

#[tokio::test]
async fn size_hint_counts_down() {
    let bytes = sample::bytes(MIB);
    let mut body = FileBody::whole(sample::blob(&bytes), Transport::Copy);
    let first = next(&mut body).await;
    assert_eq!(body.size_hint().exact(), Some((MIB - first.len()) as u64));
}

#[tokio::test]
async fn copied_pieces_are_bounded() {
    let bytes = sample::bytes(2 * MIB);
    let mut body = FileBody::range(sample::blob(&bytes), 100..2 * MIB as u64, Transport::Copy);
    while !body.is_end_stream() {
        assert!(next(&mut body).await.len() <= 256 * 1024);
    }
}

#[tokio::test]
async fn small_bodies_are_copied_and_large_ones_mapped() {
    let blob = sample::blob(&sample::bytes(MIB));
    let (transport, mappings) = sendfile();
    let small = next(&mut FileBody::range(blob.clone(), 0..1000, transport.clone())).await;
    assert_eq!(mappings.live(), 0);
    let large = next(&mut FileBody::whole(blob, transport)).await;
    assert_eq!(mappings.live(), 1);
    drop((small, large));
    assert_eq!(mappings.live(), 0);
}

#[tokio::test]
async fn a_file_that_is_not_in_memory_arrives_whole() {
    let bytes = sample::bytes(9 * MIB + 1);
    for transport in [Transport::Copy, sendfile().0] {
        let blob = sample::blob(&bytes);
        blob.file.sync_all().unwrap();
        rustix::fs::fadvise(&blob.file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        let (received, error) = rest(&mut FileBody::whole(blob, transport)).await;
        assert!(error.is_none(), "{error:?}");
        assert!(received == bytes, "other bytes");
    }
}

#[tokio::test]
async fn a_blob_found_damaged_ends_its_bodies_before_their_last_piece() {
    for transport in [Transport::Copy, sendfile().0] {
        let blob = sample::blob(&sample::bytes(9 * MIB));
        let mut body = FileBody::whole(blob.clone(), transport);
        next(&mut body).await;
        blob.standing.condemn();
        let (received, error) = rest(&mut body).await;
        assert!(received.is_empty(), "bytes were sent after all");
        assert!(matches!(reason(error.expect("an error")), BodyError::Condemned));
    }
}

#[tokio::test]
async fn the_pin_outlives_the_body_until_the_last_frame_is_sent() {
    let (blob, mut dropped) = sample::pinned(sample::blob(&sample::bytes(MIB)));
    let mut body = FileBody::whole(blob, sendfile().0);
    let frame = next(&mut body).await;
    drop(body);
    assert!((&mut dropped).now_or_never().is_none(), "unpinned while bytes wait to be sent");
    drop(frame);
    sample::unpinned(dropped).await;
}

#[tokio::test]
async fn a_growing_blob_is_sent_only_as_far_as_servable() {
    let bytes = sample::bytes(MIB);
    for transport in [Transport::Copy, sendfile().0] {
        let (fill, blob) = sample::fill(Some(MIB as u64));
        let mut body = FileBody::whole(blob, transport);
        assert!(body.frame().now_or_never().is_none(), "nothing is servable yet");
        fill.write(&bytes, 0);
        fill.publish(100_000);
        let mut received = next(&mut body).await.to_vec();
        assert_eq!(received.len(), 64 * 1024, "many may wait at the front of a fill, each with a piece");
        received.extend_from_slice(&next(&mut body).await);
        assert_eq!(received.len(), 100_000);
        assert!(body.frame().now_or_never().is_none(), "the rest is in the file but not servable");
        fill.publish(900_000);
        while received.len() < 900_000 {
            received.extend_from_slice(&next(&mut body).await);
        }
        assert!(body.frame().now_or_never().is_none(), "the last piece waits for the proof");
        fill.verify(MIB);
        let (tail, error) = rest(&mut body).await;
        received.extend(tail);
        assert!(error.is_none(), "{error:?}");
        assert!(received == bytes, "other bytes");
    }
}

#[tokio::test]
async fn a_fill_of_unknown_length_ends_where_it_is_verified() {
    let bytes = sample::bytes(MIB);
    let (fill, blob) = sample::fill(None);
    let mut body = FileBody::whole(blob, Transport::Copy);
    assert_eq!(body.size_hint().exact(), None);
    fill.write(&bytes, 0);
    fill.publish(50_000);
    assert_eq!(next(&mut body).await.len(), 50_000);
    fill.verify(MIB);
    let (tail, error) = rest(&mut body).await;
    assert!(error.is_none() && tail == bytes[50_000..]);
    assert!(body.is_end_stream());
}

#[tokio::test]
async fn an_empty_blob_of_unknown_length_ends_when_verified() {
    let (fill, blob) = sample::fill(None);
    let mut body = FileBody::whole(blob, Transport::Copy);
    assert!(body.frame().now_or_never().is_none());
    fill.verify(0);
    assert!(body.frame().await.is_none());
}

#[tokio::test]
async fn a_range_that_is_servable_does_not_wait_for_the_fill() {
    let bytes = sample::bytes(MIB);
    let (fill, blob) = sample::fill(None);
    fill.write(&bytes, 0);
    fill.publish(MIB / 2);
    let mut body = FileBody::range(blob, 1000..2000, Transport::Copy);
    let (received, error) = rest(&mut body).await;
    assert!(error.is_none() && received == bytes[1000..2000]);
}

#[tokio::test]
async fn a_failed_fill_is_an_error_with_its_reason() {
    for size in [Some(MIB as u64), None] {
        let (fill, blob) = sample::fill(size);
        let mut body = FileBody::whole(blob, Transport::Copy);
        fill.write(b"begin", 0);
        fill.publish(5);
        assert_eq!(next(&mut body).await, "begin");
        fill.fail("digest mismatch");
        let (_, error) = rest(&mut body).await;
        let BodyError::FillFailed { reason } = reason(error.expect("an error")) else { panic!("another reason") };
        assert_eq!(&*reason, "digest mismatch");
        assert!(body.frame().await.is_none(), "an error is final");
    }
}

#[tokio::test]
async fn a_fill_that_vanishes_counts_as_failed() {
    let (fill, blob) = sample::fill(None);
    let mut body = FileBody::whole(blob, Transport::Copy);
    fill.write(b"begin", 0);
    fill.publish(5);
    drop(fill);
    assert_eq!(next(&mut body).await, "begin");
    let (_, error) = rest(&mut body).await;
    assert!(matches!(reason(error.expect("an error")), BodyError::FillAbandoned));
}

#[tokio::test]
async fn an_outcome_published_just_before_the_writer_went_still_counts() {
    let (fill, blob) = sample::fill(None);
    let mut body = FileBody::whole(blob, Transport::Copy);
    assert!(body.frame().now_or_never().is_none());
    fill.write(b"all of it", 0);
    fill.verify(9);
    drop(fill);
    let (received, error) = rest(&mut body).await;
    assert!(error.is_none());
    assert_eq!(received, b"all of it");
}

#[tokio::test]
async fn less_than_promised_is_an_error() {
    let (fill, blob) = sample::fill(Some(100));
    fill.write(&[1; 60], 0);
    fill.verify(60);
    let (_, error) = rest(&mut FileBody::whole(blob, Transport::Copy)).await;
    assert!(matches!(reason(error.expect("an error")), BodyError::Short { at_byte: 60 }));

    let short_file = BlobReader::whole(sample::file(&[1; 60]), 100);
    let (received, error) = rest(&mut FileBody::whole(short_file, Transport::Copy)).await;
    assert_eq!(received.len(), 60);
    assert!(matches!(reason(error.expect("an error")), BodyError::Short { at_byte: 60 }));
}

#[test]
fn only_http1_with_mappings_uses_sendfile() {
    let table = || Some(Arc::<Mappings>::default());
    assert!(matches!(Transport::of(http::Version::HTTP_11, None), Transport::Copy));
    assert!(matches!(Transport::of(http::Version::HTTP_11, table()), Transport::Sendfile(_)));
    assert!(matches!(Transport::of(http::Version::HTTP_10, table()), Transport::Sendfile(_)));
    assert!(matches!(Transport::of(http::Version::HTTP_2, table()), Transport::Copy));
}
