//! Queues of events: in the transaction of what happened, bounded, in order, kept over restarts.

use super::*;

fn subscription(name: &str, queue_max: u64) -> Subscription {
    let repositories = globset::GlobSet::builder().add(globset::Glob::new("team/**").unwrap()).build().unwrap();
    Subscription { name: name.to_owned(), events: vec![EventKind::Push, EventKind::Delete], repositories, queue_max }
}

async fn listened(queue_max: u64) -> Index {
    let index = Index::new().await;
    index.subscribe(vec![subscription("ci", queue_max)], EventSource::default()).await.unwrap();
    index
}

fn notice(kind: EventKind, repository: &str, document: &str, now_ms: i64) -> Notice {
    Notice { kind, repository: repo(repository), document: document.to_owned(), now_ms }
}

async fn waiting(index: &Metadata) -> Vec<String> {
    let waiting = index.waiting_notices("ci", 100).await.unwrap();
    waiting.into_iter().map(|one| one.document).collect()
}

async fn counts(index: &Metadata) -> Vec<(String, u64, u64)> {
    let counts = index.notice_counts().await.unwrap();
    counts.into_iter().map(|one| (one.name, one.waiting.0, one.overflowed.0)).collect()
}

#[tokio::test]
async fn a_push_that_is_not_recorded_tells_nobody_and_one_that_is_does() {
    let index = listened(10).await;
    let (team, image) = (repo("team/app"), image(&["config"]));
    let notices = [notice(EventKind::Push, "team/app", "pushed", 1)];
    let new = NewManifest { notices: &notices, ..put(&team, "m", &image, Provenance::Pushed, &[]) };
    let grounds = Grounds { blobs: vec![digest("config")], children: Vec::new() };
    assert!(index.put_manifest_on(new, grounds).await.unwrap().is_err());
    assert!(waiting(&index).await.is_empty());
    index.put_manifest_on(new, Grounds::default()).await.unwrap().unwrap();
    assert_eq!(waiting(&index).await, ["pushed"]);
    let telling = || Removal::default().telling(vec![notice(EventKind::Delete, "team/app", "deleted", 2)]);
    let wanted = Reference::Digest(digest("m"));
    assert!(index.remove(&team, &wanted, telling()).await.unwrap());
    assert!(!index.remove(&team, &wanted, telling()).await.unwrap(), "it is gone");
    assert_eq!(waiting(&index).await, ["pushed", "deleted"]);
}

#[tokio::test]
async fn nobody_is_told_of_what_it_does_not_listen_to() {
    let index = listened(10).await;
    let notices = [
        notice(EventKind::Pull, "team/app", "a pull", 1),
        notice(EventKind::Push, "other/app", "elsewhere", 1),
        notice(EventKind::Push, "team/app", "wanted", 1),
    ];
    index.queue_notices(&notices).await.unwrap();
    assert_eq!(waiting(&index).await, ["wanted"]);
    assert!(index.is_listened_to(EventKind::Delete) && !index.is_listened_to(EventKind::Evict));
}

#[tokio::test]
async fn a_queue_keeps_its_newest_events_in_order_over_restarts() {
    let index = listened(3).await;
    for document in ["a", "b", "c", "d", "e"] {
        index.queue_notices(&[notice(EventKind::Push, "team/app", document, 1)]).await.unwrap();
    }
    let index = index.reopen().await;
    index.subscribe(vec![subscription("ci", 3), subscription("new", 3)], EventSource::default()).await.unwrap();
    assert_eq!(waiting(&index).await, ["c", "d", "e"]);
    assert_eq!(counts(&index).await, [("ci".to_owned(), 3, 2), ("new".to_owned(), 0, 0)]);
    let first = index.waiting_notices("ci", 1).await.unwrap().remove(0);
    assert_eq!(index.forget_notices("ci", first.id).await.unwrap(), 1);
    index.queue_notices(&[notice(EventKind::Push, "team/app", "f", 2)]).await.unwrap();
    assert_eq!(waiting(&index).await, ["d", "e", "f"]);
    assert_eq!(index.forget_old_notices("ci", 2).await.unwrap(), 2);
    assert_eq!(counts(&index).await[0], ("ci".to_owned(), 1, 2));
}

#[tokio::test]
async fn a_lower_bound_counts_from_the_start() {
    let index = listened(5).await;
    for document in ["a", "b", "c", "d"] {
        index.queue_notices(&[notice(EventKind::Push, "team/app", document, 1)]).await.unwrap();
    }
    let index = index.reopen().await;
    index.subscribe(vec![subscription("ci", 2)], EventSource::default()).await.unwrap();
    assert_eq!(waiting(&index).await, ["c", "d"]);
    assert_eq!(counts(&index).await, [("ci".to_owned(), 2, 2)]);
}

#[tokio::test]
async fn who_is_not_configured_any_more_is_forgotten_with_what_waits_for_it() {
    let index = listened(3).await;
    index.queue_notices(&[notice(EventKind::Push, "team/app", "a", 1)]).await.unwrap();
    let index = index.reopen().await;
    index.subscribe(vec![subscription("other", 3)], EventSource::default()).await.unwrap();
    assert_eq!(waiting(&index).await, ["a"], "a command forgets nothing");
    index.forget_other_webhooks().await.unwrap();
    assert_eq!(counts(&index).await, [("other".to_owned(), 0, 0)]);
    assert!(waiting(&index).await.is_empty());
}

#[tokio::test]
async fn a_store_of_the_release_before_gets_its_queues() {
    let index = Index::new().await;
    for statement in
        ["DROP TABLE webhook_event", "DROP TABLE webhook", "DELETE FROM _sqlx_migrations WHERE version = 10"]
    {
        execute(&index, statement).await.unwrap();
    }
    let index = index.reopen().await;
    index.subscribe(vec![subscription("ci", 3)], EventSource::default()).await.unwrap();
    index.queue_notices(&[notice(EventKind::Push, "team/app", "a", 1)]).await.unwrap();
    assert_eq!(waiting(&index).await, ["a"]);
}
