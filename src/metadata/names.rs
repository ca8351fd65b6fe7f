//! The record of names: which repositories, manifests and tags were pushed, kept beside the index and readable without it.
//!
//! ```text
//! BEGIN · commands (triggers leave their lines in `name_change`) · lines → record, synced · COMMIT · replies
//! ```
//! One line is a checksum, the number of its batch, and a JSON array. The index knows the number of the last batch, so that at
//! start both can be compared: a record that is behind or gone is written anew from the index; one that is ahead, because the
//! power went between its sync and the commit or because an older index was put back, holds what the index has to learn.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt as _;
use sqlx::SqliteConnection;

use super::columns::algorithm_of;
use super::{Error, Metadata, Provenance, cannot, repositories};
use crate::oci::{Algorithm, Digest, RepositoryName, Tag};

/// A record this much longer than when it was last written anew is written anew.
const GROWTH_MAX: u64 = 4 << 20;

/// Where names are recorded. Every method blocks.
pub trait NameRecord: std::fmt::Debug + Send + Sync {
    /// All of it; `None` if there is none.
    fn read(&self) -> io::Result<Option<Vec<u8>>>;
    /// Adds lines; durable when it returns, and as before if it fails.
    fn append(&self, lines: &[u8]) -> io::Result<()>;
    /// Replaces all of it; durable when it returns, and as before if it fails.
    fn replace(&self, lines: &[u8]) -> io::Result<()>;
}

/// What a record says, its changes applied in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Repositories that had an accepted push.
    pub private: BTreeSet<RepositoryName>,
    /// Pushed manifests and their media types.
    pub manifests: BTreeMap<(RepositoryName, Digest), String>,
    /// Pushed tags and what they name.
    pub tags: BTreeMap<(RepositoryName, Tag), Digest>,
    /// The number of its last batch.
    pub batch: i64,
    /// Lines that nobody can read.
    pub unreadable: usize,
    /// Its first line is there, so what it does not name is not there either, unless a line cannot be read.
    has_base: bool,
}

impl Names {
    /// Reads a record.
    pub fn parse(record: &[u8]) -> Self {
        let mut names = Self::default();
        for line in record.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match checked(line).and_then(|(batch, json)| names.apply(json).map(|()| batch)) {
                Some(batch) => names.batch = names.batch.max(batch),
                None => names.unreadable += 1,
            }
        }
        names
    }

    /// Does it name everything that was pushed?
    pub const fn is_complete(&self) -> bool {
        self.has_base && self.unreadable == 0
    }

    /// Applies a change, as JSON.
    fn apply(&mut self, json: &str) -> Option<()> {
        let words: Vec<String> = serde_json::from_str(json).ok()?;
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words[..] {
            [] => self.has_base = true,
            ["private", repo] => {
                self.private.insert(repo.parse().ok()?);
            }
            ["public", repo] => {
                self.private.remove(&repo.parse().ok()?);
            }
            ["manifest", repo, digest, media_type] => {
                self.manifests.insert((repo.parse().ok()?, digest_of(digest)?), media_type.to_owned());
            }
            ["forget", repo, digest] => {
                self.manifests.remove(&(repo.parse().ok()?, digest_of(digest)?));
            }
            ["tag", repo, digest, tag] => {
                self.tags.insert((repo.parse().ok()?, tag.parse().ok()?), digest_of(digest)?);
            }
            ["untag", repo, tag] => {
                self.tags.remove(&(repo.parse().ok()?, tag.parse().ok()?));
            }
            _ => return None,
        }
        Some(())
    }
}

/// The batch and the JSON of a line that is whole.
fn checked(line: &[u8]) -> Option<(i64, &str)> {
    let (sum, rest) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    let (batch, json) = rest.split_once(' ')?;
    (checksum(rest) == sum).then_some((batch.parse().ok()?, json))
}

/// Does a record begin and end as it should for the last batch of the index? What lies between is read when it is needed.
fn is_current(record: &[u8], known: i64) -> bool {
    let mut lines = record.split(|byte| *byte == b'\n');
    let is_base = |line: &[u8]| checked(line).is_some_and(|(_, json)| json == "[]");
    let begins = lines.clone().next().is_some_and(is_base);
    // Every line ends, so the last one is followed by nothing.
    let ends = lines.next_back().is_some_and(<[u8]>::is_empty);
    begins && ends && lines.next_back().and_then(checked).is_some_and(|(batch, _)| batch == known)
}

fn checksum(text: &str) -> String {
    Digest::of(Algorithm::Sha256, text.as_bytes()).hex()[..8].to_owned()
}

fn digest_of(column: &str) -> Option<Digest> {
    let pairs = column.as_bytes().chunks_exact(2);
    let bytes: Option<Vec<u8>> =
        pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect();
    let bytes = bytes?;
    let (code, raw) = bytes.split_first()?;
    Digest::from_raw(algorithm_of(*code)?, raw)
}

fn lines_of(batch: i64, changes: &[String]) -> Vec<u8> {
    let mut lines = String::new();
    for change in changes {
        let rest = format!("{batch} {change}");
        // A string takes everything.
        let _ = writeln!(lines, "{} {rest}", checksum(&rest));
    }
    lines.into_bytes()
}

/// The writer's side of a record.
#[derive(Debug)]
pub(super) struct Recording {
    record: Arc<dyn NameRecord>,
    /// What the record knows more than the index has not been learnt yet: nothing is written to it meanwhile.
    is_held: Arc<AtomicBool>,
    /// The last batch was recorded but not committed, so the record says something that did not happen.
    is_wrong: bool,
    /// Bytes appended since it was last written anew.
    grown_bytes: u64,
    /// Its length then, in bytes.
    base_bytes: u64,
}

impl Recording {
    /// Compares the record with the index. Returns also what the index has to learn, if the record is ahead.
    pub(super) async fn open(
        connection: &mut SqliteConnection,
        record: Arc<dyn NameRecord>,
    ) -> Result<(Self, Option<Names>), sqlx::Error> {
        let known: i64 = sqlx::query_scalar("SELECT batch FROM name_record").fetch_one(&mut *connection).await?;
        let reading = Arc::clone(&record);
        let found = blocking(move || reading.read()).await?;
        let base_bytes = found.as_ref().map_or(0, |found| found.len() as u64);
        let is_current = found.as_ref().is_some_and(|found| is_current(found, known));
        let names = found.filter(|_| !is_current).map(|found| Names::parse(&found));
        let ahead = match names {
            Some(names) if names.batch > known => Some(names),
            _ if is_current => None,
            _ => {
                sqlx::query("UPDATE name_record SET is_due = 1").execute(connection).await?;
                None
            }
        };
        let is_held = Arc::new(AtomicBool::new(ahead.is_some()));
        Ok((Self { record, is_held, is_wrong: false, grown_bytes: 0, base_bytes }, ahead))
    }

    pub(super) fn hold(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_held)
    }

    /// To be told when a transaction did not commit whose lines were recorded.
    pub(super) fn not_committed(&mut self) {
        self.is_wrong = true;
    }

    /// Records what the open transaction changed of the names.
    pub(super) async fn record(&mut self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        if self.is_held.load(Ordering::Acquire) {
            return Ok(());
        }
        let (batch, is_due, has_changes): (i64, bool, bool) =
            sqlx::query_as("SELECT batch + 1, is_due, EXISTS (SELECT 1 FROM name_change) FROM name_record")
                .fetch_one(&mut *connection)
                .await?;
        if !is_due && !has_changes {
            return Ok(());
        }
        let is_long = self.grown_bytes > self.base_bytes.saturating_add(GROWTH_MAX);
        let recorded = if is_due || is_long || self.is_wrong {
            self.rewrite(connection, batch).await
        } else {
            self.append(connection, batch).await
        };
        match recorded {
            Ok(()) => {}
            // Nobody is told yet that anything was recorded, and what makes room on a full disk must not wait for this.
            Err(error) if !has_changes => {
                tracing::warn!(%error, "the record of names could not be written anew and will be tried again");
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        sqlx::query("UPDATE name_record SET batch = $1, is_due = 0").bind(batch).execute(&mut *connection).await?;
        sqlx::query("DELETE FROM name_change").execute(connection).await.map(|_| ())
    }

    async fn rewrite(&mut self, connection: &mut SqliteConnection, batch: i64) -> Result<(), sqlx::Error> {
        // A record without a name still knows its batch.
        let mut changes = vec!["[]".to_owned()];
        changes.extend(sqlx::query_scalar::<_, String>(SNAPSHOT).fetch_all(connection).await?);
        let (record, lines) = (Arc::clone(&self.record), lines_of(batch, &changes));
        let base_bytes = lines.len() as u64;
        blocking(move || record.replace(&lines)).await?;
        (self.base_bytes, self.grown_bytes, self.is_wrong) = (base_bytes, 0, false);
        Ok(())
    }

    async fn append(&mut self, connection: &mut SqliteConnection, batch: i64) -> Result<(), sqlx::Error> {
        let changes: Vec<String> =
            sqlx::query_scalar("SELECT line FROM name_change ORDER BY id").fetch_all(connection).await?;
        let (record, lines) = (Arc::clone(&self.record), lines_of(batch, &changes));
        let grown_bytes = lines.len() as u64;
        blocking(move || record.append(&lines)).await?;
        self.grown_bytes += grown_bytes;
        Ok(())
    }
}

async fn blocking<T: Send + 'static>(job: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, sqlx::Error> {
    let done = tokio::task::spawn_blocking(job).await;
    done.unwrap_or_else(|stopped| Err(io::Error::other(stopped))).map_err(sqlx::Error::Io)
}

/// Every pushed name as the changes that would make it.
const SNAPSHOT: &str = "
    SELECT json_array('private', name) FROM repository WHERE private
    UNION ALL SELECT json_array('manifest', r.name, hex(m.digest), m.media_type)
              FROM manifest m JOIN repository r ON r.id = m.repository_id WHERE m.pushed
    UNION ALL SELECT json_array('tag', r.name, hex(m.digest), t.name)
              FROM tag t JOIN repository r ON r.id = t.repository_id JOIN manifest m ON m.id = t.manifest_id
              WHERE t.pushed";

impl Metadata {
    /// What the record of names knows that the index does not, once: whoever gets it has the index learn it and then calls
    /// [`Metadata::names_learnt`].
    pub fn names_to_learn(&self) -> Option<Names> {
        self.inner.names.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
    }

    /// Every name of pushed content as the index knows it.
    pub async fn pushed_names(&self) -> Result<Names, Error> {
        let changes: Vec<String> = sqlx::query_scalar(SNAPSHOT)
            .fetch_all(self.readers())
            .await
            .map_err(cannot("list the names of", "pushed content"))?;
        let mut names = Names { has_base: true, ..Names::default() };
        names.unreadable = changes.iter().filter(|change| names.apply(change).is_none()).count();
        Ok(names)
    }

    /// The index knows what the record knows up to this batch: the record is written anew and followed from here on.
    pub async fn names_learnt(&self, batch: i64) -> Result<(), Error> {
        if let Some(hold) = &self.inner.names_held {
            hold.store(false, Ordering::Release);
        }
        self.write("record the names of", &"pushed content", move |connection| {
            async move {
                let update = sqlx::query("UPDATE name_record SET batch = MAX(batch, $1), is_due = 1").bind(batch);
                update.execute(connection).await.map(|_| ())
            }
            .boxed()
        })
        .await
    }

    /// Makes a repository private as an accepted push does.
    pub async fn make_private(&self, repo: &RepositoryName, now_ms: i64) -> Result<(), Error> {
        let name = repo.clone();
        self.write("make private", repo, move |connection| {
            async move { repositories::ensure(connection, &name, Provenance::Pushed, now_ms).await.map(|_| ()) }.boxed()
        })
        .await
    }
}
