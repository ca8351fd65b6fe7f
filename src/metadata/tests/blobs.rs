//! Blobs, links and totals.

use super::*;
use Provenance::{Cached, Pushed};

#[tokio::test]
async fn an_unknown_blob_is_neither_found_nor_linked() {
    let index = Index::new().await;
    assert_eq!(index.find_blob(&digest("a")).await.unwrap(), None);
    assert_eq!(index.find_link(&repo("r"), &digest("a")).await.unwrap(), Link::Unknown);
    assert!(index.find_mountable(&digest("a")).await.unwrap().is_empty());
    assert_eq!(index.repository(&repo("r")).await.unwrap(), None);
}

#[tokio::test]
async fn a_committed_blob_is_present_and_linked_to_its_repository_alone() {
    let index = Index::new().await;
    let wide = Digest::of(Algorithm::Sha512, b"wide");
    for digest in [digest("a"), wide] {
        index.commit_blob(&repo("r"), &digest, 10, 4096, Cached, 7).await.unwrap();
        let row = index.find_blob(&digest).await.unwrap().unwrap();
        let expected = BlobRow {
            digest,
            size_bytes: 10,
            stored_bytes: 4096,
            state: BlobState::Present,
            is_manifest: false,
            pushed: false,
            accessed_ms: 7,
        };
        assert_eq!(row, expected);
        assert_eq!(index.find_link(&repo("r"), &digest).await.unwrap(), Link::Linked(row.clone()));
        assert_eq!(index.find_link(&repo("other"), &digest).await.unwrap(), Link::Unlinked(row));
    }
}

#[tokio::test]
async fn what_was_once_pushed_stays_pushed() {
    let index = Index::new().await;
    index.commit_blob(&repo("r"), &digest("a"), 10, 4096, Pushed, 1).await.unwrap();
    index.commit_blob(&repo("r"), &digest("a"), 10, 4096, Cached, 2).await.unwrap();
    assert!(index.find_blob(&digest("a")).await.unwrap().unwrap().pushed);
    assert!(index.repository(&repo("r")).await.unwrap().unwrap().private);
}

#[tokio::test]
async fn a_repository_is_private_from_its_first_push_on() {
    let index = Index::new().await;
    let private = async || index.repository(&repo("r")).await.unwrap().unwrap().private;
    index.commit_blob(&repo("r"), &digest("a"), 10, 4096, Cached, 1).await.unwrap();
    assert!(!private().await);
    index.commit_blob(&repo("other"), &digest("a"), 10, 4096, Pushed, 1).await.unwrap();
    assert!(!private().await);
    assert!(index.link_blob(&repo("r"), &digest("a"), Pushed, 1).await.unwrap().is_some());
    assert!(private().await);
    assert!(index.unlink_blob(&repo("r"), &digest("a")).await.unwrap());
    assert!(private().await, "deleting makes nothing public again");
}

#[tokio::test]
async fn only_a_present_blob_can_be_linked() {
    let index = Index::new().await;
    assert!(index.link_blob(&repo("new"), &digest("a"), Pushed, 1).await.unwrap().is_none());
    assert_eq!(index.repository(&repo("new")).await.unwrap(), None, "a refused link makes no repository");

    index.commit_blob(&repo("r"), &digest("a"), 10, 4096, Cached, 1).await.unwrap();
    index.mark_deleting(&[digest("a")]).await.unwrap();
    assert!(index.link_blob(&repo("new"), &digest("a"), Cached, 1).await.unwrap().is_none());
    index.mark_absent(&[digest("a")]).await.unwrap();
    assert!(index.link_blob(&repo("new"), &digest("a"), Pushed, 1).await.unwrap().is_none());
    assert!(!index.find_blob(&digest("a")).await.unwrap().unwrap().pushed);
}

#[tokio::test]
async fn a_pushed_link_saves_the_blob_from_eviction() {
    let index = Index::new().await;
    index.commit_blob(&repo("r"), &digest("a"), 10, 4096, Cached, 1).await.unwrap();
    assert!(index.link_blob(&repo("team"), &digest("a"), Pushed, 2).await.unwrap().is_some());
    assert!(index.oldest_cached(10, None).await.unwrap().is_empty());
    assert!(index.mark_deleting(&[digest("a")]).await.unwrap().is_empty());
}

#[tokio::test]
async fn unlinking_keeps_the_bytes_and_the_other_links() {
    let index = Index::new().await;
    index.commit_blob(&repo("b"), &digest("a"), 10, 4096, Cached, 1).await.unwrap();
    index.link_blob(&repo("a"), &digest("a"), Cached, 1).await.unwrap();
    assert_eq!(index.find_mountable(&digest("a")).await.unwrap(), [repo("a"), repo("b")]);
    assert!(index.unlink_blob(&repo("a"), &digest("a")).await.unwrap());
    assert!(!index.unlink_blob(&repo("a"), &digest("a")).await.unwrap());
    assert!(!index.unlink_blob(&repo("nowhere"), &digest("a")).await.unwrap());
    assert!(matches!(index.find_link(&repo("a"), &digest("a")).await.unwrap(), Link::Unlinked(_)));
    assert_eq!(index.find_mountable(&digest("a")).await.unwrap(), [repo("b")]);
}

#[tokio::test]
async fn at_most_a_hundred_repositories_are_named_for_mounting() {
    let index = Index::new().await;
    let names: Vec<_> = (0..101).map(|n| repo(&format!("r{n:03}"))).collect();
    for name in &names {
        index.commit_blob(name, &digest("a"), 10, 4096, Cached, 1).await.unwrap();
    }
    assert_eq!(index.find_mountable(&digest("a")).await.unwrap(), names[..100]);
}

#[tokio::test]
async fn an_evicted_blob_keeps_its_links_and_comes_back_by_a_commit() {
    let index = Index::new().await;
    index.commit_blob(&repo("r"), &digest("a"), 10, 4096, Cached, 1).await.unwrap();
    let marked = index.mark_deleting(&[digest("a"), digest("unknown")]).await.unwrap();
    assert_eq!(
        marked.iter().map(|row| (row.digest, row.state)).collect::<Vec<_>>(),
        [(digest("a"), BlobState::Deleting)]
    );
    assert_eq!(index.list_deleting().await.unwrap(), marked);
    assert!(index.find_mountable(&digest("a")).await.unwrap().is_empty());
    assert_eq!(index.find_link(&repo("other"), &digest("a")).await.unwrap(), Link::Unknown);

    index.mark_absent(&[digest("a")]).await.unwrap();
    assert!(index.list_deleting().await.unwrap().is_empty());
    let Link::Linked(row) = index.find_link(&repo("r"), &digest("a")).await.unwrap() else {
        panic!("the link is gone")
    };
    assert_eq!((row.state, row.size_bytes, row.stored_bytes), (BlobState::Absent, 10, 0));

    index.commit_blob(&repo("r"), &digest("a"), 10, 4096, Cached, 2).await.unwrap();
    assert!(index.find_blob(&digest("a")).await.unwrap().unwrap().is_present());
}

#[tokio::test]
async fn a_blob_pushed_after_it_was_chosen_is_not_deleted() {
    let index = Index::new().await;
    for name in ["a", "b"] {
        index.commit_blob(&repo("r"), &digest(name), 10, 4096, Cached, 1).await.unwrap();
    }
    let chosen: Vec<Digest> = index.oldest_cached(10, None).await.unwrap().iter().map(|row| row.digest).collect();
    assert_eq!(chosen.len(), 2);
    index.commit_blob(&repo("team"), &digest("a"), 10, 4096, Pushed, 2).await.unwrap();
    let marked = index.mark_deleting(&chosen).await.unwrap();
    assert_eq!(marked.iter().map(|row| row.digest).collect::<Vec<_>>(), [digest("b")]);
    assert!(index.find_blob(&digest("a")).await.unwrap().unwrap().is_present());
}

#[tokio::test]
async fn of_several_deleters_one_gets_the_blob() {
    let index = Index::new().await;
    index.commit_blob(&repo("r"), &digest("a"), 10, 4096, Cached, 1).await.unwrap();
    let wanted = [digest("a")];
    let marked = futures::future::join_all((0..8).map(|_| index.mark_deleting(&wanted))).await;
    assert_eq!(marked.into_iter().map(|rows| rows.unwrap().len()).sum::<usize>(), 1);
}

#[tokio::test]
async fn a_blob_that_came_back_during_its_deletion_stays_present() {
    let index = Index::new().await;
    index.commit_blob(&repo("r"), &digest("a"), 10, 4096, Cached, 1).await.unwrap();
    index.mark_deleting(&[digest("a")]).await.unwrap();
    index.commit_blob(&repo("r"), &digest("a"), 10, 4096, Pushed, 2).await.unwrap();
    index.mark_absent(&[digest("a")]).await.unwrap();
    assert!(index.find_blob(&digest("a")).await.unwrap().unwrap().is_present());
}

#[tokio::test]
async fn a_lost_blob_is_absent_even_if_it_was_pushed() {
    let index = Index::new().await;
    index.commit_blob(&repo("r"), &digest("a"), 10, 4096, Pushed, 1).await.unwrap();
    assert!(index.mark_lost(&digest("a"), "digest", 9).await.unwrap());
    assert!(!index.mark_lost(&digest("a"), "digest", 9).await.unwrap());
    let row = index.find_blob(&digest("a")).await.unwrap().unwrap();
    assert_eq!((row.state, row.pushed, row.stored_bytes), (BlobState::Absent, true, 0));
}

#[tokio::test]
async fn the_loss_of_a_pushed_blob_is_remembered_until_it_is_pushed_again_or_wanted_by_nobody() {
    let index = Index::new().await;
    for (name, provenance) in [("a", Pushed), ("b", Pushed), ("c", Cached)] {
        index.commit_blob(&repo("r"), &digest(name), 10, 4096, provenance, 1).await.unwrap();
        index.mark_lost(&digest(name), "digest", 9).await.unwrap();
    }
    assert_eq!(index.count_losses().await.unwrap(), 2);
    let losses = index.list_losses(10).await.unwrap();
    assert!(losses.iter().all(|loss| (loss.finding.as_str(), loss.found_ms) == ("digest", 9)), "{losses:?}");
    assert!(!index.is_lost(&digest("c")).await.unwrap());
    index.commit_blob(&repo("r"), &digest("a"), 10, 4096, Pushed, 2).await.unwrap();
    assert!(!index.is_lost(&digest("a")).await.unwrap());
    assert_eq!(index.count_losses().await.unwrap(), 1);
    index.unlink_blob(&repo("r"), &digest("b")).await.unwrap();
    assert_eq!(index.count_losses().await.unwrap(), 0);
    assert_eq!(index.list_losses(10).await.unwrap(), []);
}

#[tokio::test]
async fn layers_are_evicted_before_manifests_and_the_longest_unused_first() {
    let index = Index::new().await;
    let manifest = image(&["a", "b"]);
    index.put_manifest(put(&repo("r"), "m", &manifest, Cached, &[])).await.unwrap();
    for (name, now_ms) in [("a", 30), ("b", 20), ("c", 40), ("d", 20)] {
        index.commit_blob(&repo("r"), &digest(name), 10, 4096, Cached, now_ms).await.unwrap();
    }
    index.commit_blob(&repo("r"), &digest("pushed"), 10, 4096, Pushed, 1).await.unwrap();
    index.touch(&[(digest("a"), 50), (digest("c"), 5), (digest("unknown"), 60)]).await.unwrap();

    let mut twenties = [digest("b"), digest("d")];
    twenties.sort();
    let expected = [twenties[0], twenties[1], digest("c"), digest("a"), digest("m")];
    let all = index.oldest_cached(100, None).await.unwrap();
    assert_eq!(all.iter().map(|row| row.digest).collect::<Vec<_>>(), expected);

    let mut paged = Vec::new();
    let mut after = None;
    while let [row] = &index.oldest_cached(1, after).await.unwrap()[..] {
        after = Some((row.accessed_ms, row.digest));
        paged.push(row.clone());
    }
    assert_eq!(paged, all);
}

#[tokio::test]
async fn lists_longer_than_a_command_are_worked_off_whole() {
    let index = Index::new().await;
    let digests: Vec<Digest> = (0..1201).map(|n| digest(&n.to_string())).collect();
    let commits = digests.iter().map(|digest| {
        let index = index.metadata.clone();
        async move { index.commit_blob(&repo("r"), digest, 10, 4096, Cached, 1).await.unwrap() }
    });
    futures::future::join_all(commits).await;
    index.touch(&digests.iter().map(|digest| (*digest, 9)).collect::<Vec<_>>()).await.unwrap();
    let rows = index.mark_deleting(&digests).await.unwrap();
    assert_eq!(rows.len(), 1201);
    assert!(rows.iter().all(|row| row.accessed_ms == 9));
    index.mark_absent(&digests).await.unwrap();
    assert!(index.list_deleting().await.unwrap().is_empty());
}

#[tokio::test]
async fn totals_follow_every_change_and_can_be_rebuilt() {
    let index = Index::new().await;
    assert_eq!(index.totals().await.unwrap(), Totals::default());
    let manifest = image(&["a", "known by reference only"]);
    index.put_manifest(put(&repo("r"), "m", &manifest, Cached, &[])).await.unwrap();
    index.commit_blob(&repo("r"), &digest("a"), 10, 1000, Cached, 1).await.unwrap();
    index.commit_blob(&repo("r"), &digest("a"), 10, 2000, Cached, 1).await.unwrap();
    index.commit_blob(&repo("s"), &digest("b"), 10, 500, Pushed, 1).await.unwrap();
    let mut expected = Totals {
        cached_bytes: 4096 + 2000,
        pushed_bytes: 500,
        deleting_bytes: 0,
        n_blobs: 3,
        n_manifests: 1,
        n_repositories: 2,
    };
    assert_eq!(index.totals().await.unwrap(), expected);

    index.mark_deleting(&[digest("a")]).await.unwrap();
    expected = Totals { cached_bytes: 4096, deleting_bytes: 2000, n_blobs: 2, ..expected };
    assert_eq!(index.totals().await.unwrap(), expected);
    index.mark_absent(&[digest("a")]).await.unwrap();
    index.delete_manifest(&repo("r"), &digest("m")).await.unwrap();
    expected = Totals { deleting_bytes: 0, n_manifests: 0, ..expected };
    assert_eq!(index.totals().await.unwrap(), expected);
    assert!(!index.recount().await.unwrap());

    execute(&index, "UPDATE blob_sum SET n_blobs = 9").await.unwrap();
    assert!(index.recount().await.unwrap());
    assert_eq!(index.totals().await.unwrap(), expected);
}
