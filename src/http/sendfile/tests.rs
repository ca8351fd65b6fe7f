#![expect(clippy::disallowed_methods, reason = "a test is its own client and makes its own files")]

use std::io::Read as _;
use std::os::unix::net::UnixStream;

use super::*;
use crate::http::sample;
use crate::registry::Standing;

fn table() -> Arc<Mappings> {
    Arc::default()
}

/// Resident kilobytes of the mapping at `address`, as the kernel counts them.
fn touched_kb(address: usize) -> u64 {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let ours = format!("{address:08x}-");
    let mut lines = smaps.lines().skip_while(|line| !line.starts_with(&ours));
    let rss = lines.find(|line| line.starts_with("Rss:")).expect("the mapping is listed");
    rss.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn mapping_shows_exactly_its_range() {
    let bytes = sample::bytes(100_000);
    let blob = sample::blob(&bytes);
    for range in [0..100_000_usize, 0..1, 4096..8192, 4095..4097, 99_999..100_000, 12_345..54_321] {
        let mapping = Mapping::of(&blob, range.start as u64..range.end as u64, &table()).unwrap();
        assert_eq!(mapping.as_ref(), &bytes[range]);
    }
}

#[test]
fn empty_range_is_refused() {
    let blob = sample::blob(b"some bytes");
    for (start, end) in [(0, 0), (5, 5), (5, 4)] {
        assert_eq!(Mapping::of(&blob, start..end, &table()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}

#[test]
fn slices_of_a_mapping_are_recognised_by_address() {
    let blob = sample::blob(&sample::bytes(100_000));
    let mappings = table();
    let frame = Mapping::of(&blob, 5000..90_000, &mappings).unwrap().into_bytes();
    let slice = frame.slice(70..1070);
    let Lead::File(extent) = mappings.lead(&[IoSlice::new(b""), IoSlice::new(&slice)]) else {
        panic!("not recognised");
    };
    assert_eq!((extent.offset_bytes, extent.len), (5070, 1000));
}

#[test]
fn memory_before_a_mapped_slice_goes_first() {
    let blob = sample::blob(&sample::bytes(100_000));
    let mappings = table();
    let frame = Mapping::of(&blob, 0..100_000, &mappings).unwrap().into_bytes();
    let slices = [IoSlice::new(b"head"), IoSlice::new(b"more"), IoSlice::new(&frame), IoSlice::new(b"tail")];
    assert!(matches!(mappings.lead(&slices), Lead::Memory { count: 2, file_follows: true }));
    assert!(matches!(mappings.lead(&slices[3..]), Lead::Memory { count: 1, file_follows: false }));
    assert!(matches!(table().lead(&slices), Lead::Memory { count: 4, file_follows: false }));
}

#[test]
fn mapping_is_registered_until_its_last_slice_is_dropped() {
    let blob = sample::blob(&sample::bytes(100_000));
    let mappings = table();
    let frame = Mapping::of(&blob, 0..100_000, &mappings).unwrap().into_bytes();
    let tail = frame.slice(99_000..);
    drop(frame);
    assert_eq!(mappings.live(), 1);
    drop(tail);
    assert_eq!(mappings.live(), 0);
}

#[test]
fn two_mappings_of_one_connection_are_told_apart() {
    let mappings = table();
    let (one, two) = (sample::blob(&sample::bytes(10_000)), sample::blob(&sample::bytes(20_000)));
    let first = Mapping::of(&one, 0..10_000, &mappings).unwrap().into_bytes();
    let second = Mapping::of(&two, 8192..20_000, &mappings).unwrap().into_bytes();
    drop(first);
    let Lead::File(extent) = mappings.lead(&[IoSlice::new(&second)]) else { panic!("not recognised") };
    assert!(Arc::ptr_eq(&extent.file, &two.file));
    assert_eq!((extent.offset_bytes, extent.len), (8192, 11_808));
}

#[test]
fn sending_a_mapping_touches_none_of_its_pages() {
    let bytes = sample::bytes(1 << 20);
    let mappings = table();
    let frame = Mapping::of(&sample::blob(&bytes), 0..1 << 20, &mappings).unwrap().into_bytes();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let reader = std::thread::spawn(move || {
        let mut received = Vec::new();
        theirs.read_to_end(&mut received).unwrap();
        received
    });
    let mut rest = frame.clone();
    while !rest.is_empty() {
        let Lead::File(extent) = mappings.lead(&[IoSlice::new(&rest)]) else { panic!("not recognised") };
        let sent = mappings.send(&ours, &extent).unwrap();
        rest = rest.slice(sent..);
    }
    drop(ours);
    assert!(reader.join().unwrap() == bytes, "other bytes arrived");
    assert_eq!(mappings.carried_bytes(), 1 << 20);
    assert_eq!(touched_kb(frame.as_ptr().addr()), 0);
    assert_eq!(frame[0], bytes[0]);
    assert_ne!(touched_kb(frame.as_ptr().addr()), 0, "the count notices a touched page");
}

#[test]
fn a_file_that_shrank_is_an_error() {
    let mappings = table();
    let extent = Extent { file: sample::file(b"short"), offset_bytes: 5, len: 10, standing: Standing::default() };
    let (ours, _theirs) = UnixStream::pair().unwrap();
    assert_eq!(mappings.send(&ours, &extent).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn a_piece_that_was_given_away_before_its_blob_was_found_damaged_is_not_sent() {
    let (blob, mappings) = (sample::blob(&sample::bytes(1 << 20)), table());
    let frame = Mapping::of(&blob, 0..1 << 20, &mappings).unwrap().into_bytes();
    let Lead::File(extent) = mappings.lead(&[IoSlice::new(&frame)]) else { panic!("the frame is not recognised") };
    blob.standing.condemn();
    let (ours, _theirs) = UnixStream::pair().unwrap();
    assert_eq!(mappings.send(&ours, &extent).unwrap_err().kind(), io::ErrorKind::InvalidData);
}

#[test]
fn bytes_just_written_are_resident() {
    let blob = sample::blob(&sample::bytes(3 << 20));
    let mapping = Mapping::of(&blob, 4097..3 << 20, &table()).unwrap();
    assert!(mapping.resident());
    assert!(mapping.in_core());
}

#[test]
fn a_hole_is_not_resident() {
    let file = sample::file(b"");
    file.set_len(8 << 20).unwrap();
    let mapping = Mapping::of(&BlobReader::whole(Arc::clone(&file), 8 << 20), 0..8 << 20, &table()).unwrap();
    assert!(!cached(&file, &(0..8 << 20)));
    assert!(!mapping.in_core());
    assert!(!mapping.resident());
}

#[test]
fn cached_bytes_are_read_without_waiting() {
    let bytes = sample::bytes(10_000);
    let file = sample::file(&bytes);
    assert_eq!(read_cached(&file, 100, 500).unwrap(), bytes[100..600]);
    assert_eq!(read_cached(&file, 9_990, 500).unwrap(), bytes[9_990..]);
    assert!(read_cached(&file, 10_000, 500).unwrap().is_empty());
}
