//! What receivers are to be told: queued in the transaction of what happened, kept until a receiver has it.
//!
//! Who wants to hear of what is held in memory, as the patterns of pins are; a queue is one per receiver, in the order in which
//! things happened, and bounded by a trigger (`0010_webhooks.sql`).

use std::collections::HashMap;

use futures::FutureExt as _;
use globset::GlobSet;
use sqlx::SqliteConnection;
use tokio::sync::watch;

use super::{Error, Metadata, cannot, limit_of};
use crate::oci::{Digest, EventKind, EventSource, RepositoryName};

/// Somebody who wants to be told.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// Its name.
    pub name: String,
    /// Of what.
    pub events: Vec<EventKind>,
    /// Where, by the names under which repositories are kept.
    pub repositories: GlobSet,
    /// Events that may wait for it; of more, the oldest go.
    pub queue_max: u64,
}

/// Something to be told.
#[derive(Clone, Debug)]
pub struct Notice {
    /// What happened.
    pub kind: EventKind,
    /// Where.
    pub repository: RepositoryName,
    /// All of it, as JSON.
    pub document: String,
    /// When, Unix milliseconds.
    pub now_ms: i64,
}

/// Something that waits to be told.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct WaitingNotice {
    /// Its place in the queue.
    pub id: i64,
    /// All of it, as JSON.
    pub document: String,
}

/// How one queue is.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct NoticeCounts {
    /// Whose it is.
    pub name: String,
    /// Events that wait.
    #[sqlx(try_from = "i64")]
    pub waiting: Count,
    /// Events that went because the queue was full.
    #[sqlx(try_from = "i64")]
    pub overflowed: Count,
}

/// A number of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count(pub u64);

impl From<i64> for Count {
    fn from(rows: i64) -> Self {
        Self(u64::try_from(rows).unwrap_or(0))
    }
}

/// All who want to be told.
#[derive(Debug)]
pub(super) struct Listeners {
    subscriptions: Vec<(i64, Subscription)>,
    source: EventSource,
}

/// A notice for one receiver.
#[derive(Clone, Debug)]
pub(super) struct Queued {
    webhook_id: i64,
    created_ms: i64,
    document: String,
}

impl Metadata {
    /// From now on these are told, in the name of `source`.
    pub async fn subscribe(&self, subscriptions: Vec<Subscription>, source: EventSource) -> Result<(), Error> {
        let wanted: Vec<(String, i64)> = subscriptions
            .iter()
            .map(|one| (one.name.clone(), i64::try_from(one.queue_max).unwrap_or(i64::MAX)))
            .collect();
        let ids = if wanted.is_empty() { HashMap::new() } else { self.enlist(wanted).await? };
        let subscriptions = subscriptions.into_iter().filter_map(|one| Some((*ids.get(&one.name)?, one))).collect();
        // There is one configuration in a process' life.
        let _ = self.inner.listeners.set(Listeners { subscriptions, source });
        Ok(())
    }

    async fn enlist(&self, wanted: Vec<(String, i64)>) -> Result<HashMap<String, i64>, Error> {
        self.write("subscribe", &"webhooks", move |connection| async move { enlist(connection, &wanted).await }.boxed())
            .await
    }

    /// What waits for those who are not told any more is forgotten. Not for commands, whose configuration may be another one.
    pub async fn forget_other_webhooks(&self) -> Result<(), Error> {
        let Some(listeners) = self.inner.listeners.get() else { return Ok(()) };
        let known = self.notice_counts().await?;
        let is_told = |name: &String| listeners.subscriptions.iter().any(|(_, one)| one.name == *name);
        let others: Vec<String> = known.into_iter().map(|counts| counts.name).filter(|name| !is_told(name)).collect();
        for name in others {
            self.write("forget", &name.clone(), move |connection| {
                async move {
                    sqlx::query("DELETE FROM webhook WHERE name = $1").bind(name).execute(connection).await.map(|_| ())
                }
                .boxed()
            })
            .await?;
        }
        Ok(())
    }

    /// Does anybody want to hear of this?
    pub fn is_listened_to(&self, kind: EventKind) -> bool {
        self.inner
            .listeners
            .get()
            .is_some_and(|all| all.subscriptions.iter().any(|(_, one)| one.events.contains(&kind)))
    }

    /// In whose name events are told.
    pub fn event_source(&self) -> EventSource {
        self.inner.listeners.get().map(|all| all.source.clone()).unwrap_or_default()
    }

    /// Queues what is not part of any other change.
    pub async fn queue_notices(&self, notices: &[Notice]) -> Result<(), Error> {
        let queued = self.queued(notices);
        if queued.is_empty() {
            return Ok(());
        }
        self.write("queue", &"events", move |connection| async move { queue(connection, &queued).await }.boxed())
            .await?;
        self.wake();
        Ok(())
    }

    /// What waits for a receiver longest, in order.
    pub async fn waiting_notices(&self, webhook: &str, limit: usize) -> Result<Vec<WaitingNotice>, Error> {
        sqlx::query_as(
            "SELECT e.id, e.document FROM webhook w JOIN webhook_event e ON e.webhook_id = w.id
             WHERE w.name = $1 ORDER BY e.id LIMIT $2",
        )
        .bind(webhook)
        .bind(limit_of(limit))
        .fetch_all(self.readers())
        .await
        .map_err(cannot("list the events for", webhook))
    }

    /// Forgets what waits for a receiver, up to this place in the queue. Returns how many events that were.
    pub async fn forget_notices(&self, webhook: &str, last_id: i64) -> Result<u64, Error> {
        let statement =
            "DELETE FROM webhook_event WHERE webhook_id = (SELECT id FROM webhook WHERE name = $1) AND id <= $2";
        self.forget_where(webhook, statement, last_id).await
    }

    /// Forgets what has been waiting for a receiver since before `before_ms`. Returns how many events that were.
    pub async fn forget_old_notices(&self, webhook: &str, before_ms: i64) -> Result<u64, Error> {
        let statement =
            "DELETE FROM webhook_event WHERE webhook_id = (SELECT id FROM webhook WHERE name = $1) AND created_ms < $2";
        self.forget_where(webhook, statement, before_ms).await
    }

    async fn forget_where(&self, webhook: &str, statement: &'static str, bound: i64) -> Result<u64, Error> {
        let name = webhook.to_owned();
        self.write("forget the events for", &webhook, move |connection| {
            async move { Ok(sqlx::query(statement).bind(name).bind(bound).execute(connection).await?.rows_affected()) }
                .boxed()
        })
        .await
    }

    /// The repositories that show a blob, whether its bytes are here or not.
    pub async fn repositories_of(&self, digest: &Digest) -> Result<Vec<RepositoryName>, Error> {
        sqlx::query_scalar(
            "SELECT r.name FROM blob b JOIN link l ON l.blob_id = b.id JOIN repository r ON r.id = l.repository_id
             WHERE b.digest = $1 ORDER BY r.name",
        )
        .bind(digest)
        .fetch_all(self.readers())
        .await
        .map_err(cannot("list the repositories of", digest))
    }

    /// How every queue is.
    pub async fn notice_counts(&self) -> Result<Vec<NoticeCounts>, Error> {
        sqlx::query_as("SELECT name, waiting, overflowed FROM webhook ORDER BY name")
            .fetch_all(self.readers())
            .await
            .map_err(cannot("count the events for", "webhooks"))
    }

    /// Changes whenever something was queued.
    pub fn notices_came(&self) -> watch::Receiver<()> {
        self.inner.noticed.subscribe()
    }

    pub(super) fn wake(&self) {
        self.inner.noticed.send_replace(());
    }

    /// Who of those who listen is told which of these.
    pub(super) fn queued(&self, notices: &[Notice]) -> Vec<Queued> {
        let Some(listeners) = self.inner.listeners.get() else { return Vec::new() };
        let mut queued = Vec::new();
        for notice in notices {
            for (webhook_id, one) in &listeners.subscriptions {
                if one.events.contains(&notice.kind) && one.repositories.is_match(notice.repository.as_str()) {
                    let (created_ms, document) = (notice.now_ms, notice.document.clone());
                    queued.push(Queued { webhook_id: *webhook_id, created_ms, document });
                }
            }
        }
        queued
    }
}

/// Has a row for each receiver.
async fn enlist(
    connection: &mut SqliteConnection,
    wanted: &[(String, i64)],
) -> Result<HashMap<String, i64>, sqlx::Error> {
    let mut ids = HashMap::new();
    for (name, queue_max) in wanted {
        let id: i64 = sqlx::query_scalar(
            "INSERT INTO webhook (name, queue_max) VALUES ($1, $2)
             ON CONFLICT (name) DO UPDATE SET queue_max = excluded.queue_max RETURNING id",
        )
        .bind(name)
        .bind(queue_max)
        .fetch_one(&mut *connection)
        .await?;
        shorten(connection, id, *queue_max).await?;
        ids.insert(name.clone(), id);
    }
    Ok(ids)
}

/// The trigger lets one go for each that comes: what a lower bound leaves over goes here.
async fn shorten(connection: &mut SqliteConnection, webhook_id: i64, queue_max: i64) -> Result<(), sqlx::Error> {
    let done = sqlx::query(
        "DELETE FROM webhook_event WHERE webhook_id = $1
         AND id <= (SELECT id FROM webhook_event WHERE webhook_id = $1 ORDER BY id DESC LIMIT 1 OFFSET $2)",
    )
    .bind(webhook_id)
    .bind(queue_max)
    .execute(&mut *connection)
    .await?;
    sqlx::query("UPDATE webhook SET overflowed = overflowed + $2 WHERE id = $1")
        .bind(webhook_id)
        .bind(i64::try_from(done.rows_affected()).unwrap_or(i64::MAX))
        .execute(connection)
        .await
        .map(|_| ())
}

/// Queues, inside a change.
pub(super) async fn queue(connection: &mut SqliteConnection, queued: &[Queued]) -> Result<(), sqlx::Error> {
    for one in queued {
        sqlx::query("INSERT INTO webhook_event (webhook_id, created_ms, document) VALUES ($1, $2, $3)")
            .bind(one.webhook_id)
            .bind(one.created_ms)
            .bind(&one.document)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}
