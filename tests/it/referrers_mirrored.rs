//! What is attached to a manifest of an upstream: its list and ours as one, kept, and never empty because of an outage.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use entrepot::oci::{Digest, ManifestKind};
use futures::future::join_all;
use serde_json::json;

use crate::support::client::Answer;
use crate::support::push::{IMAGE, INDEX, descriptor, digest_of, image};
use crate::support::registry::{Builder, HUB, TestRegistry, manifest_path};
use crate::support::upstream::{FakeUpstream, Fault, Gate, On};

const REPOSITORY: &str = "team/app";
const SUBJECT: &[u8] = b"the subject";
const SIGNATURE: &str = "application/vnd.example.signature";
const MINUTE: Duration = Duration::from_mins(1);

/// An artifact attached to [`SUBJECT`]; another `seed`, another digest.
fn artifact(kind: &str, seed: usize) -> Bytes {
    let mut manifest = image(b"{}", &[]);
    manifest["subject"] = descriptor(IMAGE, SUBJECT);
    manifest["artifactType"] = json!(kind);
    manifest["annotations"] = json!({ "seed": seed.to_string() });
    Bytes::from(manifest.to_string())
}

fn attach(fake: &FakeUpstream, kind: &str, seed: usize) -> Digest {
    fake.push_manifest(REPOSITORY, None, ManifestKind::OciImage, artifact(kind, seed))
}

/// The index under the tag that stands for the referrers where there is no API.
fn attach_by_tag(fake: &FakeUpstream, kind: &str, seed: usize) -> Digest {
    let bytes = artifact(kind, seed);
    let mut entry = descriptor(IMAGE, &bytes);
    entry["artifactType"] = json!(kind);
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] }).to_string();
    let tag = digest_of(SUBJECT).to_string().replace(':', "-");
    fake.push_manifest(REPOSITORY, Some(&tag), ManifestKind::OciIndex, index);
    fake.push_manifest(REPOSITORY, None, ManifestKind::OciImage, bytes)
}

fn over(fake: &FakeUpstream) -> Builder {
    TestRegistry::builder().default_upstream(HUB, fake).revalidate_after(10 * MINUTE)
}

fn path() -> String {
    format!("/v2/{REPOSITORY}/referrers/{}", digest_of(SUBJECT))
}

async fn list(registry: &TestRegistry) -> Answer {
    registry.get(&path()).await
}

/// The digests listed, in the order in which they stand.
fn digests(answer: &Answer) -> Vec<String> {
    assert_eq!((answer.status(), answer.header("content-type")), (200, Some(INDEX)), "{:?}", answer.body);
    let entries = answer.json()["manifests"].as_array().expect("a list").clone();
    entries.iter().map(|entry| entry["digest"].as_str().expect("text").to_owned()).collect()
}

fn sorted(digests: impl IntoIterator<Item = Digest>) -> Vec<String> {
    let digests: BTreeSet<Digest> = digests.into_iter().collect();
    digests.iter().map(ToString::to_string).collect()
}

fn assert_stale(answer: &Answer, expected: &[String]) {
    assert_eq!(digests(answer), expected);
    assert_eq!(answer.cache(), "stale");
    assert!(answer.header("warning").is_some_and(|warning| warning.starts_with("299 - \"")), "{:?}", answer.head);
}

#[tokio::test]
async fn the_upstreams_referrers_and_ours_are_one_list_in_one_order() {
    let fake = FakeUpstream::start().await;
    let theirs: Vec<Digest> = (0..5).map(|seed| attach(&fake, SIGNATURE, seed)).collect();
    let registry = over(&fake).config(|config| config.overlay = vec!["team/**".to_owned()]).start().await;
    registry.push_blob(REPOSITORY, "{}").await;
    let ours = artifact(SIGNATURE, 100);
    // One of theirs was pulled, so that it is kept here too; one of ours was pushed.
    registry.get(&manifest_path(REPOSITORY, theirs[0])).await;
    registry.push_manifest(REPOSITORY, &digest_of(&ours).to_string(), IMAGE, ours.clone()).await;
    let answer = list(&registry).await;
    assert_eq!(digests(&answer), sorted(theirs.into_iter().chain([digest_of(&ours)])));
    assert_eq!((answer.cache(), answer.header("warning")), ("miss", None));
    let first = answer.json()["manifests"][0].clone();
    assert_eq!((&first["mediaType"], &first["artifactType"]), (&json!(IMAGE), &json!(SIGNATURE)));
    assert!(first["annotations"]["seed"].is_string() && first["size"].as_u64().is_some_and(|size| size > 100));
    registry.finish().await;
}

#[tokio::test]
async fn every_page_of_the_upstream_is_followed_by_its_link_and_at_its_own_host() {
    let fake = FakeUpstream::start().await;
    let theirs: Vec<Digest> = (0..7).map(|seed| attach(&fake, SIGNATURE, seed)).collect();
    fake.page_max(3);
    let registry = over(&fake).start().await;
    assert_eq!(digests(&list(&registry).await), sorted(theirs));
    assert_eq!(fake.requests().referrers_listed(), 3);
    registry.finish().await;
}

#[tokio::test]
async fn filters_are_applied_here_over_one_list() {
    let fake = FakeUpstream::start().await;
    let signature = attach(&fake, SIGNATURE, 1);
    attach(&fake, "application/vnd.example.sbom", 2);
    let registry = over(&fake).start().await;
    let filtered = registry.get(&format!("{}?artifactType={SIGNATURE}", path())).await;
    assert_eq!(filtered.header("oci-filters-applied"), Some("artifactType"));
    assert_eq!(digests(&filtered), [signature.to_string()]);
    let none = registry.get(&format!("{}?artifactType=a/none", path())).await;
    assert_eq!((digests(&none).len(), none.cache()), (0, "hit"));
    assert_eq!(digests(&list(&registry).await).len(), 2);
    assert_eq!((fake.requests().len(), fake.requests().last().query.as_str()), (1, ""));
    registry.finish().await;
}

#[tokio::test]
async fn a_long_list_comes_in_pages_of_ours() {
    let fake = FakeUpstream::start().await;
    let theirs = sorted((0..105).map(|seed| attach(&fake, SIGNATURE, seed)));
    let registry = over(&fake).start().await;
    let first = list(&registry).await;
    assert_eq!(digests(&first), theirs[..100]);
    let next = first.header("link").expect("there is more")[1..].split_once('>').unwrap().0.to_owned();
    let second = registry.get(&next).await;
    assert_eq!((digests(&second).as_slice(), second.header("link")), (&theirs[100..], None));
    assert_eq!(fake.requests().len(), 1);
    registry.finish().await;
}

#[tokio::test]
async fn without_an_api_the_tag_of_the_subject_lists_them() {
    for unsupported in [None, Some(405), Some(501)] {
        let fake = FakeUpstream::start().await;
        let theirs = attach_by_tag(&fake, SIGNATURE, 1);
        match unsupported {
            None => fake.without_referrers_api(),
            Some(status) => fake.fault(On::referrers(), Fault::status(status)),
        }
        let registry = over(&fake).start().await;
        let answer = registry.get(&format!("{}?artifactType={SIGNATURE}", path())).await;
        assert_eq!(digests(&answer), [theirs.to_string()]);
        assert_eq!(list(&registry).await.cache(), "hit");
        assert_eq!(fake.requests().len(), 2);
        registry.finish().await;
    }
}

#[tokio::test]
async fn nothing_attached_is_an_empty_list_that_is_remembered_briefly() {
    for has_api in [true, false] {
        let fake = FakeUpstream::start().await;
        if !has_api {
            fake.without_referrers_api();
        }
        let registry = over(&fake).start().await;
        for outcome in ["miss", "hit"] {
            let answer = list(&registry).await;
            assert_eq!((digests(&answer).len(), answer.cache()), (0, outcome));
        }
        let asked = fake.requests().len();
        assert_eq!(asked, if has_api { 1 } else { 2 });
        let signature = if has_api { attach(&fake, SIGNATURE, 1) } else { attach_by_tag(&fake, SIGNATURE, 1) };
        registry.advance(Duration::from_secs(10));
        assert_eq!(digests(&list(&registry).await), [signature.to_string()], "a signature made after the image");
        registry.finish().await;
    }
}

#[tokio::test]
async fn a_list_is_fresh_like_a_tag_then_asked_for_once() {
    let fake = FakeUpstream::start().await;
    let first = attach(&fake, SIGNATURE, 1);
    let registry = over(&fake).start().await;
    for outcome in ["miss", "hit"] {
        assert_eq!(list(&registry).await.cache(), outcome);
    }
    let second = attach(&fake, SIGNATURE, 2);
    registry.advance((10 * MINUTE).saturating_sub(Duration::from_millis(1)));
    assert_eq!(digests(&list(&registry).await), [first.to_string()]);
    registry.advance(Duration::from_millis(1));
    let answer = list(&registry).await;
    assert_eq!((digests(&answer), answer.cache()), (sorted([first, second]), "revalidated"));
    assert_eq!(fake.requests().len(), 2);
    registry.finish().await;
}

#[tokio::test]
async fn a_hundred_clients_ask_the_upstream_once() {
    let fake = FakeUpstream::start().await;
    let signature = attach(&fake, SIGNATURE, 1);
    let gate = Gate::closed();
    fake.fault(On::referrers(), Fault::SlowFirstByte(gate.clone()));
    let registry = over(&fake).start().await;
    let clients = join_all((0..100).map(|_| list(&registry)));
    let open = async {
        fake.until(|requests| requests.len() == 1).await;
        gate.let_pass(100);
    };
    let (answers, ()) = tokio::join!(clients, open);
    assert!(answers.iter().all(|answer| digests(answer) == [signature.to_string()]));
    assert_eq!(fake.requests().len(), 1);
    registry.finish().await;
}

#[tokio::test]
async fn an_outage_is_never_an_empty_list() {
    for (trouble, status) in [
        (Fault::status(500), 502),
        (Fault::status(401), 502),
        (Fault::status(403), 502),
        (Fault::rate_limited(7), 429),
        (Fault::Html, 502),
        (Fault::NotHttp, 502),
        (Fault::Hangup, 504),
    ] {
        let fake = FakeUpstream::start().await;
        attach(&fake, SIGNATURE, 1);
        fake.fault(On::any(), trouble);
        let registry = over(&fake).start().await;
        let answer = list(&registry).await;
        assert_eq!(answer.status(), status, "{:?}", answer.body);
        assert!(answer.message().contains(HUB), "{}", answer.message());
        fake.heal();
        registry.advance(Duration::from_secs(10));
        assert_eq!(digests(&list(&registry).await).len(), 1, "an outage is not remembered");
        registry.finish().await;
    }
}

#[tokio::test]
async fn a_trouble_with_the_tag_that_stands_for_the_api_is_no_empty_list_either() {
    for (trouble, status) in [(Fault::status(500), 502), (Fault::status(401), 502), (Fault::WrongBytes, 502)] {
        let fake = FakeUpstream::start().await;
        attach_by_tag(&fake, SIGNATURE, 1);
        fake.without_referrers_api();
        fake.fault(On::manifest(&digest_of(SUBJECT).to_string().replace(':', "-")), trouble);
        let registry = over(&fake).start().await;
        assert_eq!(list(&registry).await.status(), status);
        registry.finish().await;
    }
}

#[tokio::test]
async fn a_kept_list_is_served_with_a_warning_when_the_upstream_is_down_also_after_a_restart() {
    let mut fake = FakeUpstream::start().await;
    let signature = attach(&fake, SIGNATURE, 1);
    let mut registry = over(&fake).start().await;
    list(&registry).await;
    fake.stop().await;
    registry.restart().await;
    assert_eq!(list(&registry).await.cache(), "hit", "it was fresh before the restart");
    registry.advance(10 * MINUTE);
    assert_stale(&list(&registry).await, &[signature.to_string()]);
    registry.reconfigure(|config| config.offline = true).await;
    assert_stale(&list(&registry).await, &[signature.to_string()]);
    // The one kept list has no such artifact; whether there is one by now nobody can say.
    let filtered = registry.get(&format!("{}?artifactType=a/other", path())).await;
    assert_eq!((filtered.status(), filtered.code().as_str()), (503, "UNAVAILABLE"));
    registry.finish().await;
}

#[tokio::test]
async fn ours_are_listed_with_a_warning_when_the_upstream_never_answered() {
    let mut fake = FakeUpstream::start().await;
    fake.stop().await;
    let registry = over(&fake).config(|config| config.overlay = vec!["team/**".to_owned()]).start().await;
    registry.push_blob(REPOSITORY, "{}").await;
    let ours = artifact(SIGNATURE, 1);
    registry.push_manifest(REPOSITORY, &digest_of(&ours).to_string(), IMAGE, ours.clone()).await;
    assert_stale(&list(&registry).await, &[digest_of(&ours).to_string()]);
    let other = registry.get(&format!("{}?artifactType=a/other", path())).await;
    assert_eq!(other.status(), 504);
    registry.finish().await;
}

#[tokio::test]
async fn a_referrer_that_the_upstream_deleted_goes_with_the_next_question() {
    let fake = FakeUpstream::start().await;
    let (kept, deleted) = (attach(&fake, SIGNATURE, 1), attach(&fake, SIGNATURE, 2));
    let registry = over(&fake).start().await;
    list(&registry).await;
    fake.delete_manifest(REPOSITORY, &deleted);
    registry.advance(10 * MINUTE);
    assert_eq!(digests(&list(&registry).await), [kept.to_string()]);
    fake.delete_manifest(REPOSITORY, &kept);
    registry.advance(10 * MINUTE);
    assert_eq!(digests(&list(&registry).await).len(), 0);
    registry.finish().await;
}

#[tokio::test]
async fn a_list_beyond_the_bound_is_an_error_that_names_it() {
    let fake = FakeUpstream::start().await;
    (0..4).for_each(|seed| {
        attach(&fake, SIGNATURE, seed);
    });
    let registry = over(&fake).config(|config| config.cache.list_entries_max = 3).start().await;
    let answer = list(&registry).await;
    assert_eq!((answer.status(), answer.code().as_str()), (502, "UNAVAILABLE"));
    assert!(answer.message().contains("cache.list_entries_max"), "{}", answer.message());
    registry.finish().await;
}

#[tokio::test]
async fn pages_that_run_in_a_circle_end() {
    let fake = FakeUpstream::start().await;
    attach(&fake, SIGNATURE, 1);
    fake.header("link", "</v2/x?token=t-0>; rel=\"next\"");
    let registry = over(&fake).start().await;
    assert_eq!(list(&registry).await.status(), 502);
    assert_eq!(registry.get(&format!("/v2/{REPOSITORY}/tags/list")).await.status(), 502);
    assert_eq!(fake.requests().len(), 4);
    registry.finish().await;
}

#[tokio::test]
async fn a_private_repository_is_not_asked_for_at_the_upstream() {
    let fake = FakeUpstream::start().await;
    attach(&fake, SIGNATURE, 1);
    let registry = over(&fake).start().await;
    crate::support::push::push_image(&registry, REPOSITORY, "1", b"layer").await;
    let answer = list(&registry).await;
    assert_eq!((digests(&answer).len(), answer.cache()), (0, "local"));
    assert_eq!(fake.requests().len(), 0);
    registry.finish().await;
}
