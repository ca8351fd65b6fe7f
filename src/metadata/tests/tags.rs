//! Tags and the list of repositories.

use super::*;
use Provenance::{Cached, Pushed};

async fn with_manifests(names: &[&str]) -> Index {
    let index = Index::new().await;
    for name in names {
        index.put_manifest(put(&repo("r"), name, &image(&["config"]), Cached, &[])).await.unwrap();
    }
    index
}

#[tokio::test]
async fn a_tag_needs_a_manifest_of_its_own_repository() {
    let index = with_manifests(&["m"]).await;
    assert!(!index.put_tag(&repo("r"), &tag("v1"), &digest("unknown"), Pushed, 1).await.unwrap());
    assert!(!index.put_tag(&repo("other"), &tag("v1"), &digest("m"), Pushed, 1).await.unwrap());
    assert_eq!(index.find_tag(&repo("r"), &tag("v1")).await.unwrap(), None);
    assert!(!index.repository(&repo("r")).await.unwrap().unwrap().private, "a refused push makes nothing private");
    assert_eq!(index.repository(&repo("other")).await.unwrap(), None);
}

#[tokio::test]
async fn a_tag_moves_and_keeps_its_times() {
    let index = with_manifests(&["m", "n"]).await;
    assert!(index.put_tag(&repo("r"), &tag("v1"), &digest("m"), Cached, 5).await.unwrap());
    index.mark_tag_checked(&repo("r"), &tag("v1"), 8).await.unwrap();
    index.mark_tag_checked(&repo("r"), &tag("unknown"), 8).await.unwrap();
    let row = index.find_tag(&repo("r"), &tag("v1")).await.unwrap().unwrap();
    let expected = TagRow { name: tag("v1"), digest: digest("m"), provenance: Cached, checked_ms: 8, updated_ms: 5 };
    assert_eq!(row, expected);
    assert!(index.put_tag(&repo("r"), &tag("v1"), &digest("n"), Cached, 9).await.unwrap());
    let row = index.find_tag(&repo("r"), &tag("v1")).await.unwrap().unwrap();
    assert_eq!(row, TagRow { digest: digest("n"), checked_ms: 9, updated_ms: 9, ..expected });
}

#[tokio::test]
async fn a_pushed_tag_is_not_overwritten_by_a_cached_one() {
    let index = with_manifests(&["m", "n"]).await;
    assert!(index.put_tag(&repo("r"), &tag("v1"), &digest("m"), Cached, 1).await.unwrap());
    assert!(index.put_tag(&repo("r"), &tag("v1"), &digest("m"), Pushed, 2).await.unwrap());
    let pushed = index.find_tag(&repo("r"), &tag("v1")).await.unwrap().unwrap();
    assert!(!index.put_tag(&repo("r"), &tag("v1"), &digest("n"), Cached, 3).await.unwrap());
    let image = image(&["config"]);
    index.put_manifest(put(&repo("r"), "o", &image, Cached, &[tag("v1"), tag("v2")])).await.unwrap();
    assert_eq!(index.find_tag(&repo("r"), &tag("v1")).await.unwrap().unwrap(), pushed);
    assert_eq!(index.find_tag(&repo("r"), &tag("v2")).await.unwrap().unwrap().digest, digest("o"));
    assert!(index.put_tag(&repo("r"), &tag("v1"), &digest("n"), Pushed, 4).await.unwrap());
    assert!(index.repository(&repo("r")).await.unwrap().unwrap().private);
}

#[tokio::test]
async fn deleting_a_tag_keeps_the_manifest() {
    let index = with_manifests(&["m"]).await;
    index.put_tag(&repo("r"), &tag("v1"), &digest("m"), Cached, 1).await.unwrap();
    assert!(!index.delete_tag(&repo("other"), &tag("v1")).await.unwrap());
    assert!(index.delete_tag(&repo("r"), &tag("v1")).await.unwrap());
    assert!(!index.delete_tag(&repo("r"), &tag("v1")).await.unwrap());
    assert!(index.find_manifest(&repo("r"), &digest("m")).await.unwrap().is_some());
}

#[tokio::test]
async fn tags_are_listed_and_paged_bytewise() {
    let index = with_manifests(&["m"]).await;
    for name in ["a.b", "a", "b", "a-b", "B", "a_b", "_", "10", "9"] {
        index.put_tag(&repo("r"), &tag(name), &digest("m"), Cached, 1).await.unwrap();
    }
    let expected = ["10", "9", "B", "_", "a", "a-b", "a.b", "a_b", "b"].map(tag);
    assert_eq!(index.list_tags(&repo("r"), None, 100).await.unwrap(), expected);
    assert_eq!(index.list_tags(&repo("r"), Some("B"), 3).await.unwrap(), expected[3..6]);
    assert_eq!(index.list_tags(&repo("r"), Some("a-"), 1).await.unwrap(), [tag("a-b")], "the cursor need not be a tag");
    assert!(index.list_tags(&repo("r"), Some("b"), 100).await.unwrap().is_empty());
    assert!(index.list_tags(&repo("r"), None, 0).await.unwrap().is_empty());
    assert!(index.list_tags(&repo("other"), None, 100).await.unwrap().is_empty());
}

#[tokio::test]
async fn repositories_are_listed_bytewise_while_they_hold_something() {
    let index = Index::new().await;
    for name in ["a/b", "a-b", "a.b", "ab", "a"] {
        index.commit_blob(&repo(name), &digest("x"), 10, 4096, Cached, 1).await.unwrap();
    }
    let expected = ["a", "a-b", "a.b", "a/b", "ab"].map(repo);
    assert_eq!(index.list_repositories(None, 100).await.unwrap(), expected);
    assert_eq!(index.list_repositories(Some("a-b"), 2).await.unwrap(), expected[2..4]);

    index.unlink_blob(&repo("a"), &digest("x")).await.unwrap();
    index.put_manifest(put(&repo("a-b"), "m", &image(&["x"]), Cached, &[])).await.unwrap();
    for name in ["x", "m"] {
        index.unlink_blob(&repo("a-b"), &digest(name)).await.unwrap();
    }
    assert_eq!(index.list_repositories(None, 2).await.unwrap(), expected[1..3], "a manifest alone is something");
    index.delete_manifest(&repo("a-b"), &digest("m")).await.unwrap();
    assert_eq!(index.list_repositories(None, 2).await.unwrap(), expected[2..4]);
}

#[tokio::test]
async fn a_tag_that_comes_between_the_question_and_the_removal_is_spared_with_its_manifest() {
    let index = Index::new().await;
    let (team, image) = (repo("team/app"), image(&["config"]));
    index.put_manifest(put(&team, "m", &image, Provenance::Pushed, &[tag("latest")])).await.unwrap();
    let keeps = |tag: &Tag| tag.as_str().starts_with('v');
    // Whoever asked before this push was told that nothing keeps the manifest; both changes are on their way at once, and
    // the push came first.
    let tags = [tag("v1")];
    let pushing = index.put_manifest(put(&team, "m", &image, Provenance::Pushed, &tags));
    let wanted = Reference::Digest(digest("m"));
    let removing = index.remove(&team, &wanted, Removal::sparing(keeps));
    let (pushed, removed) = futures::future::join(pushing, removing).await;
    pushed.unwrap();
    assert!(matches!(removed, Err(Error::TagKept { tag }) if tag.as_str() == "v1"));
    assert_eq!(index.find_tag(&team, &tag("v1")).await.unwrap().map(|row| row.digest), Some(digest("m")));
    let wanted = Reference::Tag(tag("v1"));
    assert!(matches!(index.remove(&team, &wanted, Removal::sparing(keeps)).await, Err(Error::TagKept { .. })));
    let latest = Reference::Tag(tag("latest"));
    assert!(index.remove(&team, &latest, Removal::sparing(keeps)).await.unwrap(), "another tag of it goes");
    assert!(index.remove(&team, &wanted, Removal::default()).await.unwrap());
    let wanted = Reference::Digest(digest("m"));
    assert!(index.remove(&team, &wanted, Removal::sparing(keeps)).await.unwrap(), "nothing keeps it any more");
}

#[tokio::test]
async fn a_cached_tag_is_spared_by_nobody() {
    let index = Index::new().await;
    let (hub, image) = (repo("hub.example/app"), image(&["config"]));
    index.put_manifest(put(&hub, "m", &image, Provenance::Cached, &[tag("v1")])).await.unwrap();
    let wanted = Reference::Tag(tag("v1"));
    assert!(index.remove(&hub, &wanted, Removal::sparing(|_| true)).await.unwrap());
}
