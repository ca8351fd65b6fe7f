//! What survives: batches, failures in them, callers that went away, crashes, foreign files.

use futures::FutureExt as _;
use futures::future::{BoxFuture, join_all, poll_immediate};
use tokio::sync::oneshot;

use super::*;
use Provenance::{Cached, Pushed};

/// Keeps the writer busy until released, so that everything sent meanwhile waits for the same next batch.
async fn hold(index: &Metadata) -> (oneshot::Sender<()>, impl Future<Output = Result<(), Error>>) {
    let (release, released) = oneshot::channel::<()>();
    let (begun, has_begun) = oneshot::channel();
    let index = index.clone();
    let held = tokio::spawn(async move {
        let wait = index.write("hold", &"the writer", move |_| {
            async move {
                begun.send(()).unwrap();
                released.await.unwrap();
                Ok(())
            }
            .boxed()
        });
        wait.await
    });
    has_begun.await.unwrap();
    (release, held.map(|done| done.unwrap()))
}

fn fail_after_writing(connection: &mut SqliteConnection) -> BoxFuture<'_, Result<(), sqlx::Error>> {
    async move {
        sqlx::query("INSERT INTO repository (name, private, created_ms) VALUES ('half', 0, 0)")
            .execute(&mut *connection)
            .await?;
        sqlx::query("INSERT INTO link (repository_id, blob_id, pushed) VALUES (1, 999, 0)").execute(connection).await?;
        Ok(())
    }
    .boxed()
}

#[tokio::test]
async fn commands_that_come_together_share_transactions_and_are_all_durable() {
    let index = Index::new().await;
    let digests: Vec<Digest> = (0..200).map(|n| digest(&n.to_string())).collect();
    let (release, held) = hold(&index).await;
    let name = repo("r");
    let mut commits = Box::pin(tokio::task::unconstrained(join_all(
        digests.iter().map(|digest| index.commit_blob(&name, digest, 10, 4096, Pushed, 1)),
    )));
    assert!(poll_immediate(&mut commits).await.is_none(), "no reply before the commit");
    release.send(()).unwrap();
    held.await.unwrap();
    assert!(commits.await.iter().all(Result::is_ok));
    let counts = index.write_counts();
    assert_eq!((counts.commands, counts.transactions), (201, 1));

    let index = index.reopen().await;
    for digest in &digests {
        assert!(matches!(index.find_link(&name, digest).await.unwrap(), Link::Linked(row) if row.is_present()));
    }
}

#[tokio::test]
async fn a_batch_takes_no_more_commands_than_it_may() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { batch_max: 10, ..Options::new(folder.path().join("index.sqlite")) };
    let index = Metadata::open_with(options, Duration::MAX).await.unwrap();
    let (release, held) = hold(&index).await;
    let digests: Vec<Digest> = (0..39).map(|n| digest(&n.to_string())).collect();
    let name = repo("r");
    let mut commits =
        Box::pin(join_all(digests.iter().map(|digest| index.commit_blob(&name, digest, 1, 1, Cached, 1))));
    assert!(poll_immediate(&mut commits).await.is_none());
    release.send(()).unwrap();
    held.await.unwrap();
    assert!(commits.await.iter().all(Result::is_ok));
    assert_eq!(index.write_counts(), WriteCounts { commands: 40, transactions: 4 });
}

#[tokio::test]
async fn a_failing_command_leaves_nothing_and_does_not_disturb_its_neighbours() {
    let index = Index::new().await;
    let (release, held) = hold(&index).await;
    let (name, before, after) = (repo("r"), digest("before"), digest("after"));
    let mut all = Box::pin(async {
        futures::join!(
            index.commit_blob(&name, &before, 10, 4096, Pushed, 1),
            index.write("fail at", &"something", fail_after_writing),
            index.commit_blob(&name, &after, 10, 4096, Pushed, 1),
        )
    });
    assert!(poll_immediate(&mut all).await.is_none());
    release.send(()).unwrap();
    held.await.unwrap();
    let (first, second, third) = all.await;
    first.unwrap();
    third.unwrap();
    let error = second.unwrap_err();
    assert_eq!(error.to_string(), "cannot fail at something");
    assert!(matches!(error, Error::Write { operation: "fail at", .. }));
    assert_eq!(index.write_counts().transactions, 1);
    assert_eq!(index.repository(&repo("half")).await.unwrap(), None);
    for digest in [before, after] {
        assert!(index.find_blob(&digest).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn a_transaction_that_breaks_fails_its_whole_batch_and_the_writer_goes_on() {
    let index = Index::new().await;
    let (release, held) = hold(&index).await;
    let (name, lost, kept) = (repo("r"), digest("lost"), digest("kept"));
    // What SQLite does by itself when the disk is full: the transaction is gone, savepoints and all.
    let mut all = Box::pin(async {
        futures::join!(index.commit_blob(&name, &lost, 10, 4096, Pushed, 1), execute(&index, "ROLLBACK"),)
    });
    assert!(poll_immediate(&mut all).await.is_none());
    release.send(()).unwrap();
    assert!(held.await.is_err());
    let (first, second) = all.await;
    assert!(matches!(first.unwrap_err(), Error::Write { .. }));
    assert!(matches!(second.unwrap_err(), Error::Write { .. }));
    assert_eq!(index.find_blob(&lost).await.unwrap(), None);
    index.commit_blob(&name, &kept, 10, 4096, Pushed, 1).await.unwrap();
    assert!(index.find_blob(&kept).await.unwrap().is_some());
}

#[tokio::test]
async fn a_change_whose_caller_went_away_still_happens_whole() {
    let index = Index::new().await;
    let (release, held) = hold(&index).await;
    let (name, manifest, tags) = (repo("r"), image(&["config", "layer"]), [tag("v1")]);
    let mut change = Box::pin(index.put_manifest(put(&name, "m", &manifest, Pushed, &tags)));
    assert!(poll_immediate(&mut change).await.is_none());
    drop(change);
    release.send(()).unwrap();
    held.await.unwrap();
    // Commands run in the order they were sent.
    index.commit_blob(&name, &digest("later"), 1, 1, Pushed, 1).await.unwrap();

    let index = index.reopen().await;
    assert!(index.find_manifest(&name, &digest("m")).await.unwrap().is_some());
    assert_eq!(index.find_tag(&name, &tag("v1")).await.unwrap().unwrap().digest, digest("m"));
    assert_eq!(index.descriptor_size(&repo("r"), &digest("layer")).await.unwrap(), Some(10));
    assert!(!index.recount().await.unwrap());
}

#[tokio::test]
async fn a_change_dropped_before_it_was_sent_does_not_happen() {
    let index = Index::new().await;
    drop(index.commit_blob(&repo("r"), &digest("a"), 10, 4096, Pushed, 1));
    index.commit_blob(&repo("r"), &digest("b"), 10, 4096, Pushed, 1).await.unwrap();
    assert_eq!(index.find_blob(&digest("a")).await.unwrap(), None);
}

#[tokio::test]
async fn what_was_acknowledged_is_in_the_files_at_once() {
    let index = Index::new().await;
    index.commit_blob(&repo("r"), &digest("a"), 10, 4096, Pushed, 1).await.unwrap();
    index.mark_lost(&digest("a"), "digest", 9).await.unwrap();
    index.commit_blob(&repo("r"), &digest("a"), 10, 4096, Pushed, 2).await.unwrap();

    // A killed process leaves file and log as they are, and no shared memory that counts.
    let crashed = tempfile::tempdir().unwrap();
    for name in ["index.sqlite", "index.sqlite-wal"] {
        std::fs::copy(index.folder.path().join(name), crashed.path().join(name)).unwrap();
    }
    let recovered = open(crashed.path()).await.unwrap();
    assert_eq!(recovered.find_blob(&digest("a")).await.unwrap().unwrap().accessed_ms, 2);
    assert!(!recovered.recount().await.unwrap());
}

#[tokio::test]
async fn a_log_cut_off_in_mid_transaction_leaves_the_transactions_before_it() {
    let index = Index::new().await;
    index.commit_blob(&repo("r"), &digest("a"), 10, 4096, Pushed, 1).await.unwrap();
    let log = index.folder.path().join("index.sqlite-wal");
    let whole_bytes = std::fs::metadata(&log).unwrap().len();
    index.put_manifest(put(&repo("r"), "m", &image(&["a", "b"]), Pushed, &[tag("v1")])).await.unwrap();
    let longer_bytes = std::fs::metadata(&log).unwrap().len();
    assert!(longer_bytes > whole_bytes + 1);

    for cut_bytes in [whole_bytes, whole_bytes + 1, whole_bytes + (longer_bytes - whole_bytes) / 2, longer_bytes - 1] {
        let crashed = tempfile::tempdir().unwrap();
        std::fs::copy(index.path(), crashed.path().join("index.sqlite")).unwrap();
        let kept = std::fs::read(&log).unwrap();
        let kept = &kept[..usize::try_from(cut_bytes).unwrap()];
        std::fs::write(crashed.path().join("index.sqlite-wal"), kept).unwrap();
        let recovered = open(crashed.path()).await.unwrap();
        assert!(recovered.find_blob(&digest("a")).await.unwrap().unwrap().is_present());
        assert_eq!(recovered.find_manifest(&repo("r"), &digest("m")).await.unwrap(), None, "cut at {cut_bytes}");
        assert_eq!(recovered.find_tag(&repo("r"), &tag("v1")).await.unwrap(), None);
        assert!(!recovered.recount().await.unwrap());
    }
}

#[tokio::test]
async fn deletions_begun_before_a_restart_are_found_after_it() {
    let index = Index::new().await;
    index.commit_blob(&repo("r"), &digest("a"), 10, 4096, Cached, 1).await.unwrap();
    let marked = index.mark_deleting(&[digest("a")]).await.unwrap();
    let index = index.reopen().await;
    assert_eq!(index.list_deleting().await.unwrap(), marked);
}

#[tokio::test]
async fn closing_runs_what_was_sent_writes_the_log_back_and_refuses_the_rest() {
    let index = Index::new().await;
    let (release, held) = hold(&index).await;
    let (name, sent) = (repo("r"), digest("sent"));
    let mut commit = Box::pin(index.commit_blob(&name, &sent, 10, 4096, Pushed, 1));
    assert!(poll_immediate(&mut commit).await.is_none());
    let mut close = Box::pin(index.metadata.clone().close());
    assert!(poll_immediate(&mut close).await.is_none());
    release.send(()).unwrap();
    held.await.unwrap();
    commit.await.unwrap();
    close.await;

    let late = index.commit_blob(&name, &digest("late"), 10, 4096, Pushed, 1).await.unwrap_err();
    assert!(matches!(late, Error::Closed { .. }));
    assert!(matches!(index.find_blob(&sent).await.unwrap_err(), Error::Closed { .. }));
    index.metadata.clone().close().await;
    let files: Vec<_> = std::fs::read_dir(index.folder.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(files, ["index.sqlite"]);
    assert!(index.reopen().await.find_blob(&sent).await.unwrap().is_some());
}

#[tokio::test]
async fn a_schema_newer_than_known_is_refused_by_name_and_left_alone() {
    let index = Index::new().await;
    let newer = "INSERT INTO _sqlx_migrations VALUES (7000, 'later', CURRENT_TIMESTAMP, TRUE, x'00', 0)";
    execute(&index, newer).await.unwrap();
    index.metadata.clone().close().await;
    let before = std::fs::read(index.path()).unwrap();
    let error = open(index.folder.path()).await.err().unwrap();
    assert!(matches!(error, Error::SchemaNewer { found: 7000, .. }), "{error:?}");
    assert!(error.to_string().contains("schema version 7000"), "{error}");
    assert!(std::fs::read(index.path()).unwrap() == before);
}

#[tokio::test]
async fn a_file_that_is_no_index_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.sqlite");
    let text = "this is no database, however long it may be. ".repeat(100);
    std::fs::write(&path, &text).unwrap();
    assert!(matches!(open(folder.path()).await.err().unwrap(), Error::Damaged { .. }));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    assert!(matches!(open(&folder.path().join("missing")).await.err().unwrap(), Error::Open { .. }));
}

#[tokio::test]
async fn readers_cannot_write() {
    let index = Index::new().await;
    let done = sqlx::query("DELETE FROM blob").execute(index.readers()).await;
    assert!(done.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_are_answered_while_the_writer_is_busy_and_see_what_was_awaited() {
    let index = Index::new().await;
    index.commit_blob(&repo("r"), &digest("a"), 10, 4096, Cached, 1).await.unwrap();
    let (release, held) = hold(&index).await;
    let wanted = digest("a");
    let questions = join_all((0..64).map(|_| index.find_blob(&wanted))).await;
    assert!(questions.into_iter().all(|found| found.unwrap().is_some()));
    release.send(()).unwrap();
    held.await.unwrap();

    let tasks = (0..32).map(|n| {
        let index = index.metadata.clone();
        tokio::spawn(async move {
            let wanted = digest(&n.to_string());
            index.commit_blob(&repo("r"), &wanted, 10, 4096, Cached, n).await.unwrap();
            assert_eq!(index.find_blob(&wanted).await.unwrap().unwrap().accessed_ms, n);
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
}

#[test]
fn every_file_of_migrations_is_applied_under_its_number_and_name() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/metadata/migrations");
    let mut files: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    let listed: Vec<String> = MIGRATIONS.iter().map(|(version, name, _)| format!("{version:04}_{name}.sql")).collect();
    assert_eq!(files, listed);
}

#[tokio::test]
async fn an_index_in_use_may_be_asked_by_another_process_that_changes_nothing() {
    let index = Index::new().await;
    index.put_manifest(put(&repo("r"), "m", &image(&["c"]), Provenance::Cached, &[tag("v1")])).await.unwrap();
    let asking = Metadata::open_read_only(index.path()).await.unwrap();
    assert_eq!(asking.find_tag(&repo("r"), &tag("v1")).await.unwrap().unwrap().digest, digest("m"));
    let refused = asking.delete_tag(&repo("r"), &tag("v1")).await;
    assert!(matches!(refused, Err(Error::Closed { .. })), "{refused:?}");
    assert!(index.delete_tag(&repo("r"), &tag("v1")).await.unwrap(), "the writer was kept from writing");
    assert_eq!(asking.find_tag(&repo("r"), &tag("v1")).await.unwrap(), None, "a later change is not seen");
    asking.close().await;
}

#[tokio::test]
async fn an_index_that_was_closed_or_left_open_can_be_asked() {
    for is_closed in [true, false] {
        let index = Index::new().await;
        index.put_manifest(put(&repo("r"), "m", &image(&["c"]), Provenance::Cached, &[tag("v1")])).await.unwrap();
        let Index { folder, metadata } = index;
        let path = metadata.path().to_owned();
        if is_closed {
            metadata.close().await;
        } else {
            drop(metadata);
        }
        let asking = Metadata::open_read_only(&path).await.unwrap();
        assert!(asking.find_tag(&repo("r"), &tag("v1")).await.unwrap().is_some(), "closed: {is_closed}");
        asking.close().await;
        open(folder.path()).await.unwrap().close().await;
    }
}

#[tokio::test]
async fn an_index_of_another_release_is_not_asked() {
    let index = Index::new().await;
    let path = index.path().to_owned();
    execute(&index, "UPDATE _sqlx_migrations SET success = FALSE").await.unwrap();
    let older = Metadata::open_read_only(&path).await;
    assert!(matches!(older, Err(Error::SchemaOlder { found: 0, .. })), "{older:?}");
    execute(&index, "UPDATE _sqlx_migrations SET success = TRUE, version = version + 1000").await.unwrap();
    let newer = Metadata::open_read_only(&path).await;
    assert!(matches!(newer, Err(Error::SchemaNewer { .. })), "{newer:?}");
    let nowhere = Metadata::open_read_only(path.with_file_name("none.sqlite")).await;
    assert!(matches!(nowhere, Err(Error::Open { .. })), "{nowhere:?}");
}
