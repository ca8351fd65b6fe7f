//! Manifests and tags: what an upstream says, and what it should not.

use std::time::Duration;

use entrepot::oci::ManifestKind;
use entrepot::upstream::{Error, Nonsense, Options, Upstream, Wait};

use super::{REPOSITORY, client, options, reference, repository};
use crate::support::upstream::{FakeUpstream, Fault, Gate, On};

#[tokio::test]
async fn head_and_get_agree_by_tag_and_by_digest() {
    let fake = FakeUpstream::start().await;
    let image = fake.push_image(REPOSITORY, "1", &[b"one layer"]);
    for asked in ["1".to_owned(), image.manifest.to_string()] {
        let head = client(&fake).head_manifest(&repository(), &reference(&asked)).await.unwrap();
        let manifest = client(&fake).fetch_manifest(&repository(), &reference(&asked)).await.unwrap();
        assert_eq!(head.digest, Some(image.manifest));
        assert_eq!(head.size_bytes, Some(image.manifest_bytes.len() as u64));
        assert_eq!(head.content_type.as_deref(), Some(image.media_type));
        assert_eq!(manifest.claimed, Some(image.manifest));
        assert_eq!(manifest.bytes, image.manifest_bytes);
        assert_eq!(manifest.content_type, head.content_type);
        assert_eq!((fake.requests().manifests_headed(&asked), fake.requests().manifests_got(&asked)), (1, 1));
    }
}

#[tokio::test]
async fn every_kind_that_is_kept_is_asked_for_and_nothing_encoded() {
    let fake = FakeUpstream::start().await;
    for kind in ManifestKind::ALL {
        let digest = fake.push_manifest(REPOSITORY, None, kind, format!("{{\"schemaVersion\":2,\"of\":\"{kind:?}\"}}"));
        let manifest = client(&fake).fetch_manifest(&repository(), &reference(&digest.to_string())).await.unwrap();
        assert_eq!(manifest.content_type.as_deref(), Some(kind.media_type()));
        let requests = fake.requests();
        let accept = requests.last().header("accept").unwrap();
        assert!(ManifestKind::ALL.iter().all(|kind| accept.contains(kind.media_type())), "{accept}");
        assert!(!accept.contains('*'), "{accept}");
        assert_eq!(requests.last().header("accept-encoding"), Some("identity"));
        assert_eq!(requests.last().header("user-agent"), Some(concat!("entrepot/", env!("CARGO_PKG_VERSION"))));
    }
}

#[tokio::test]
async fn a_moved_tag_is_seen() {
    let fake = FakeUpstream::start().await;
    let old = fake.push_image(REPOSITORY, "old", &[b"old"]);
    let new = fake.push_image(REPOSITORY, "latest", &[b"new"]);
    let upstream = client(&fake);
    let latest = async || upstream.head_manifest(&repository(), &reference("latest")).await.unwrap().digest;
    assert_eq!(latest().await, Some(new.manifest));
    fake.move_tag(REPOSITORY, "latest", old.manifest);
    assert_eq!(latest().await, Some(old.manifest));
}

#[tokio::test]
async fn an_unknown_manifest_is_not_found_and_asked_for_once() {
    let fake = FakeUpstream::start().await;
    let error = client(&fake).fetch_manifest(&repository(), &reference("none")).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    let expected =
        format!("upstream fake.example: GET {}/v2/{REPOSITORY}/manifests/none: not found there", fake.base_url());
    assert_eq!(error.to_string(), expected);
    assert_eq!(fake.requests().len(), 1);
}

#[tokio::test]
async fn a_web_page_is_no_manifest() {
    let fake = FakeUpstream::start().await;
    fake.push_manifest(REPOSITORY, Some("disguised"), ManifestKind::OciImage, " \n<html>");
    fake.push_image(REPOSITORY, "1", &[]);
    fake.fault(On::manifest("1"), Fault::Html);
    let upstream = client(&fake);
    for tag in ["1", "disguised"] {
        let error = upstream.fetch_manifest(&repository(), &reference(tag)).await.unwrap_err();
        assert!(matches!(error, Error::Nonsense { what: Nonsense::Html, .. }), "{error:?}");
    }
    let error = upstream.head_manifest(&repository(), &reference("1")).await.unwrap_err();
    assert_eq!(error.kind(), "html");
}

#[tokio::test]
async fn a_manifest_over_the_limit_is_refused_announced_or_not() {
    let fake = FakeUpstream::start().await;
    fake.push_manifest(REPOSITORY, Some("fits"), ManifestKind::OciImage, vec![b'{'; 1000]);
    fake.push_manifest(REPOSITORY, Some("long"), ManifestKind::OciImage, vec![b'{'; 1001]);
    fake.push_manifest(REPOSITORY, Some("endless"), ManifestKind::OciImage, "{}");
    fake.fault(On::manifest("endless"), Fault::Endless);
    let upstream = Upstream::new(Options { manifest_bytes_max: 1000, ..options(&fake) }).unwrap();
    assert!(upstream.fetch_manifest(&repository(), &reference("fits")).await.is_ok());
    for tag in ["long", "endless"] {
        let error = upstream.fetch_manifest(&repository(), &reference(tag)).await.unwrap_err();
        assert!(matches!(error, Error::Nonsense { what: Nonsense::TooLarge { max_bytes: 1000 }, .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_partial_manifest_is_refused() {
    let fake = FakeUpstream::start().await;
    fake.push_image(REPOSITORY, "1", &[]);
    fake.fault(On::manifest("1"), Fault::ContentRange("bytes 0-9/10".to_owned()));
    let error = client(&fake).fetch_manifest(&repository(), &reference("1")).await.unwrap_err();
    assert!(matches!(error, Error::Nonsense { what: Nonsense::PartialUnasked, .. }), "{error:?}");
}

#[tokio::test]
async fn a_cut_manifest_is_fetched_again_and_a_chunked_one_is_whole() {
    let fake = FakeUpstream::start().await;
    let image = fake.push_image(REPOSITORY, "1", &[b"layer"]);
    for fault in [Fault::CutAfter(20), Fault::LengthOff(7), Fault::ResetAfter(20), Fault::Chunked] {
        fake.fault(On::manifest("1").get().times(1), fault);
        let manifest = client(&fake).fetch_manifest(&repository(), &reference("1")).await.unwrap();
        assert_eq!(manifest.bytes, image.manifest_bytes);
    }
    assert_eq!(fake.requests().manifests_got("1"), 7);
}

#[tokio::test]
async fn a_length_that_stays_wrong_is_an_error() {
    let fake = FakeUpstream::start().await;
    let image = fake.push_image(REPOSITORY, "1", &[]);
    fake.fault(On::manifest("1"), Fault::LengthOff(1));
    let error = client(&fake).fetch_manifest(&repository(), &reference("1")).await.unwrap_err();
    let length = image.manifest_bytes.len() as u64;
    assert!(matches!(error, Error::Cut { at, .. } if at == length), "{error:?}");
    assert_eq!(fake.requests().manifests_got("1"), 4);
}

#[tokio::test]
async fn a_stalled_manifest_ends_at_the_progress_limit() {
    let fake = FakeUpstream::start().await;
    fake.push_image(REPOSITORY, "1", &[]);
    fake.fault(On::manifest("1"), Fault::Drip(Gate::closed(), 10));
    let limits = Options { no_progress_timeout: Duration::from_millis(100), retries: 0, ..options(&fake) };
    let error = Upstream::new(limits).unwrap().fetch_manifest(&repository(), &reference("1")).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { what: Wait::Progress, .. }), "{error:?}");
}

#[tokio::test]
async fn tags_are_listed_page_by_page() {
    let fake = FakeUpstream::start().await;
    for tag in ["a", "b", "c"] {
        fake.push_image(REPOSITORY, tag, &[]);
    }
    let upstream = client(&fake);
    let list = async |n: Option<usize>, last: Option<&str>| {
        let page = upstream.list_tags(&repository(), n, last).await.unwrap();
        (page.tags.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "), page.next)
    };
    assert_eq!(list(None, None).await, ("a b c".to_owned(), None));
    assert_eq!(list(Some(2), None).await, ("a b".to_owned(), Some("b".to_owned())));
    assert_eq!(list(Some(2), Some("b")).await, ("c".to_owned(), None));
    assert_eq!(fake.requests().last().query, "n=2&last=b");
    fake.fault(On::any(), Fault::Html);
    let error = upstream.list_tags(&repository(), None, None).await.unwrap_err();
    assert_eq!(error.kind(), "tag_list");
}
