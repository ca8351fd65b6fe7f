//! The index: what is known of repositories, manifests, tags, blobs and upload sessions; the only room that speaks SQL.
//!
//! ```text
//! changes ──▶ channel ──▶ writer task ──▶ one connection: BEGIN IMMEDIATE · command · command · … · COMMIT ──▶ replies
//! questions ──▶ pool of read-only connections (write-ahead log: they never wait for the writer)
//! ```
//!
//! Invariants:
//! - A change that returned `Ok` is on disk (write-ahead log, `synchronous=FULL`), and every question asked afterwards sees it.
//! - A change happens in one transaction or not at all, whether or not its caller still waits.
//! - No method holds a connection while it waits for anything else, so none can deadlock with another.
//! - Nothing persisted counts holders. The sums behind [`Metadata::totals`] count rows, are kept in the transaction that changes
//!   the rows, and can be rebuilt from them ([`Metadata::recount`]).
//!
//! A crash leaves the last committed transaction; `SQLite` replays its log when the file is opened. Blobs that a crash left in
//! [`BlobState::Deleting`] are found by [`Metadata::list_deleting`].

mod access;
mod audit;
mod blobs;
mod columns;
mod contents;
mod copies;
mod error;
mod holdings;
mod links;
mod lists;
mod losses;
mod manifests;
mod names;
mod notices;
mod pins;
mod quotas;
mod references;
mod referrers;
mod removal;
mod repositories;
mod retained;
mod reviews;
mod scrub;
mod tags;
#[cfg(test)]
mod tests;
mod totals;
mod uploads;
mod writer;

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, SqlStr, SqliteConnection};
use tokio::sync::watch;

pub use access::{RefreshTokenRow, RobotRow, SigningKeyRow};
pub use audit::{Drift, Flaw};
pub use blobs::{BlobChange, BlobRow, BlobState};
pub use contents::{Child, Part};
pub use copies::FoundBlob;
pub use error::Error;
pub use holdings::{RepositoryHolding, TagHolding};
pub use links::Link;
pub use lists::ListRow;
pub use losses::LossRow;
pub use manifests::{Grounds, ManifestRow, Missing, NewManifest};
pub use names::{NameRecord, Names};
pub use notices::{Count, Notice, NoticeCounts, Subscription, WaitingNotice};
pub use pins::{Extent, PinPattern, PinRow};
pub use removal::Removal;
pub use repositories::RepositoryRow;
pub use retained::{AgedManifest, AgedTag};
pub use reviews::{After, BlobReview, Decision, ManifestReview, Moment, QueueLength, ReviewedBlob, ReviewedManifest};
pub use scrub::ScrubRow;
pub use tags::TagRow;
pub use totals::Totals;
pub use uploads::UploadRow;
pub use writer::WriteCounts;

use names::Recording;
use notices::Listeners;
use writer::{BatchLimits, Failure, Writer};

/// The files of `migrations/`, oldest first: version, name, statements. Append-only, as the files are.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "initial", include_str!("migrations/0001_initial.sql")),
    (2, "upstream_lists", include_str!("migrations/0002_upstream_lists.sql")),
    (3, "gc", include_str!("migrations/0003_gc.sql")),
    (4, "pins", include_str!("migrations/0004_pins.sql")),
    (5, "scrub", include_str!("migrations/0005_scrub.sql")),
    (6, "access", include_str!("migrations/0006_access.sql")),
    (8, "names", include_str!("migrations/0008_names.sql")),
    (9, "quotas", include_str!("migrations/0009_quotas.sql")),
    // Not 7, which is free: a store at 9 would look complete to whoever asks it read-only.
    (10, "webhooks", include_str!("migrations/0010_webhooks.sql")),
    (11, "names_public", include_str!("migrations/0011_names_public.sql")),
];

/// How long to wait for a lock of the file. Only another process can hold one: a backup, or somebody's `sqlite3`.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// A batch that has run this long commits: its first caller is waiting, and a command may be large.
const BATCH_DURATION_MAX: Duration = Duration::from_millis(20);

/// Where the index lies and how it is driven.
#[derive(Clone, Debug)]
pub struct Options {
    /// The `SQLite` file; its write-ahead log lies beside it. The folder must exist.
    pub path: PathBuf,
    /// Connections that answer questions.
    pub readers_max: u32,
    /// Commands in one transaction.
    pub batch_max: usize,
    /// Where the names of pushed content are recorded beside the index.
    pub names: Option<Arc<dyn NameRecord>>,
}

impl Options {
    /// An index at `path`, driven as suits a single node.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), readers_max: 4, batch_max: 256, names: None }
    }
}

/// Whether content came from a client or from an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Provenance {
    /// A client pushed it: it is never evicted and never overwritten by an upstream.
    Pushed,
    /// It was fetched from an upstream and can be fetched again.
    Cached,
}

impl Provenance {
    /// True for pushed content.
    pub const fn is_pushed(self) -> bool {
        matches!(self, Self::Pushed)
    }
}

impl From<bool> for Provenance {
    fn from(pushed: bool) -> Self {
        if pushed { Self::Pushed } else { Self::Cached }
    }
}

/// The open index. Clones are cheap and share everything.
#[derive(Clone)]
pub struct Metadata {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    readers: SqlitePool,
    writer: Writer,
    /// What the record of names knows and the index does not.
    names: Mutex<Option<Names>>,
    names_held: Option<Arc<AtomicBool>>,
    /// Of tags that the configuration pins.
    pin_patterns: OnceLock<Vec<PinPattern>>,
    /// Who wants to be told of what.
    listeners: OnceLock<Listeners>,
    /// Something was queued for one of them.
    noticed: watch::Sender<()>,
}

impl std::fmt::Debug for Metadata {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Metadata({})", self.path().display())
    }
}

impl Metadata {
    /// Opens the index, creating the file if there is none and bringing its schema up to date. Must be called within a tokio
    /// runtime, where the writer then lives. A file of a newer release is refused and left as it is.
    pub async fn open(options: Options) -> Result<Self, Error> {
        Self::open_with(options, BATCH_DURATION_MAX).await
    }

    async fn open_with(options: Options, batch_duration_max: Duration) -> Result<Self, Error> {
        let Options { path, readers_max, batch_max, names } = options;
        let failed = |source| Error::opening(&path, source);
        let file = SqliteConnectOptions::new()
            .filename(&path)
            .busy_timeout(BUSY_TIMEOUT)
            .foreign_keys(true)
            .pragma("temp_store", "memory")
            .disable_statement_logging();

        let mut connection = write_options(&file).connect().await.map_err(failed)?;
        let opened = async {
            copies::check_small(&mut connection, &path).await?;
            migrate(&mut connection, &path).await?;
            writer::pause_in_long_statements(&mut connection).await.map_err(|source| Error::opening(&path, source))?;
            match names {
                Some(record) => {
                    let opened = Recording::open(&mut connection, record).await;
                    let (recording, ahead) = opened.map_err(|source| Error::opening(&path, source))?;
                    Ok((Some(recording), ahead))
                }
                None => Ok((None, None)),
            }
        };
        let (recording, ahead) = match opened.await {
            Ok(opened) => opened,
            Err(error) => {
                // That failure is the news; closing after it can only fail for the same reason.
                let _ = connection.close().await;
                return Err(error);
            }
        };
        // Read-only connections cannot create the log, so they come after the writer's.
        let readers = SqlitePoolOptions::new()
            .max_connections(readers_max)
            // Connections to a file do not go stale; a fresh one would only have to prepare every statement anew.
            .test_before_acquire(false)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(file.read_only(true).pragma("cache_size", "-16384"))
            .await
            .map_err(failed)?;
        let limits = BatchLimits { commands_max: batch_max, duration_max: batch_duration_max };
        let names_held = recording.as_ref().map(Recording::hold);
        let writer = Writer::start(path.clone(), connection, limits, recording);
        Ok(Self::of(path, readers, writer, ahead, names_held))
    }

    /// Opens an index to ask it only, also while another process changes it: nothing is written, and every change fails with
    /// [`Error::Closed`]. The schema must be this release's.
    pub async fn open_read_only(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        let failed = |source| Error::opening(&path, source);
        let file = SqliteConnectOptions::new()
            .filename(&path)
            .busy_timeout(BUSY_TIMEOUT)
            .read_only(true)
            .disable_statement_logging();
        let readers = SqlitePoolOptions::new().max_connections(1).connect_with(file).await.map_err(failed)?;
        let found: Option<i64> = sqlx::query_scalar("SELECT MAX(version) FROM _sqlx_migrations WHERE success")
            .fetch_one(&readers)
            .await
            .map_err(failed)?;
        let (found, known) = (found.unwrap_or_default(), newest_migration());
        match found.cmp(&known) {
            Ordering::Greater => return Err(Error::SchemaNewer { path, found, known }),
            Ordering::Less => return Err(Error::SchemaOlder { path, found, known }),
            Ordering::Equal => {}
        }
        Ok(Self::of(path, readers, Writer::none(), None, None))
    }

    fn of(
        path: PathBuf,
        readers: SqlitePool,
        writer: Writer,
        ahead: Option<Names>,
        names_held: Option<Arc<AtomicBool>>,
    ) -> Self {
        let (names, pin_patterns, listeners) = (Mutex::new(ahead), OnceLock::new(), OnceLock::new());
        let noticed = watch::Sender::new(());
        Self { inner: Arc::new(Inner { path, readers, writer, names, names_held, pin_patterns, listeners, noticed }) }
    }

    /// Waits for the questions under way and for every change sent before, writes the log back into the file and closes it.
    /// Whatever another clone asks from now on fails with [`Error::Closed`]. Dropping without closing loses nothing either.
    pub async fn close(self) {
        // Readers first: the last connection to close is then the writer's, which can write the log back.
        self.inner.readers.close().await;
        self.inner.writer.close().await;
    }

    /// The index file.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// How many commands the writer has run, and in how many transactions.
    pub fn write_counts(&self) -> WriteCounts {
        self.inner.writer.counts()
    }

    /// Waits until the writer has made a change that changes nothing: it lives, nobody keeps it from writing, and the disk takes
    /// what it writes.
    pub async fn try_writer(&self) -> Result<(), Error> {
        self.write("write to", &"the index", |connection| {
            async move {
                let same = sqlx::query("UPDATE manifest_sum SET n_manifests = n_manifests");
                same.execute(connection).await.map(|_| ())
            }
            .boxed()
        })
        .await
    }

    fn readers(&self) -> &SqlitePool {
        &self.inner.readers
    }

    /// Has the writer run `work` in a transaction and returns once that is durable.
    async fn write<T, W>(&self, operation: &'static str, subject: &(dyn Display + Sync), work: W) -> Result<T, Error>
    where
        T: Send + 'static,
        W: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, sqlx::Error>> + Send + 'static,
    {
        self.inner.writer.run(work).await.map_err(|failure| {
            let subject = subject.to_string();
            match failure {
                Failure::Stopped => Error::Closed { operation, subject },
                Failure::Sql(source) => Error::Write { operation, subject, source },
            }
        })
    }
}

/// Names a failed question.
fn cannot(operation: &'static str, subject: &(impl Display + ?Sized)) -> impl FnOnce(sqlx::Error) -> Error {
    move |source| {
        let subject = subject.to_string();
        match source {
            sqlx::Error::PoolClosed => Error::Closed { operation, subject },
            source => Error::Read { operation, subject, source },
        }
    }
}

/// `LIMIT` takes a signed number; nobody has that many rows.
fn limit_of(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

fn write_options(file: &SqliteConnectOptions) -> SqliteConnectOptions {
    file.clone()
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        // FULL syncs the log at each commit: NORMAL could lose acknowledged pushes with the power.
        .synchronous(SqliteSynchronous::Full)
        .pragma("cache_size", "-32768")
        // A burst must not leave a log of gigabytes behind.
        .pragma("journal_size_limit", "67108864")
}

fn newest_migration() -> i64 {
    MIGRATIONS.iter().map(|(version, ..)| *version).max().unwrap_or_default()
}

async fn migrate(connection: &mut SqliteConnection, path: &Path) -> Result<(), Error> {
    let migrations = MIGRATIONS.iter().map(|(version, name, statements)| {
        let statements = SqlStr::from_static(statements);
        Migration::new(*version, Cow::Borrowed(name), MigrationType::Simple, statements, false)
    });
    let known = newest_migration();
    let migrator = Migrator::with_migrations(migrations.collect());
    migrator.run_direct(None, connection, false).await.map_err(|error| match error {
        MigrateError::VersionMissing(found) if found > known => {
            Error::SchemaNewer { path: path.to_owned(), found, known }
        }
        MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _) if error::is_damage(&source) => {
            Error::opening(path, source)
        }
        source => Error::Migrate { path: path.to_owned(), source },
    })
}
