//! The one writer: a task that owns the only connection able to change the index, and makes changes durable in batches.
//!
//! `SQLite` has one writer at a time, and a durable commit costs a sync of the disk. So commands queue here, and all that wait
//! when a transaction begins, or arrive while it runs, share its commit:
//! ```text
//! BEGIN IMMEDIATE · [SAVEPOINT · command · RELEASE or ROLLBACK TO]… · names recorded · COMMIT · replies
//! ```
//! A command that fails is undone to its savepoint and does not disturb its neighbours. Replies go out after the commit, so
//! whoever gets one holds durable news. A commit that fails fails the whole batch.
//!
//! The task is spawned here although tasks are otherwise for fills and `serve`: a transaction must not be owned by a request's
//! future, which may be dropped at any await. It ends when the last handle is dropped or at `close`; a runtime that is torn down
//! in mid-batch drops the connection, which rolls the batch back, and nobody was told otherwise.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use sqlx::{Connection as _, SqliteConnection};
use tokio::sync::{mpsc, oneshot};

use super::names::Recording;
use crate::fault;
use crate::pause::pause;

/// Commands that may wait before senders have to.
const QUEUE_MAX: usize = 1024;
/// Steps of SQLite's machine, a third of a millisecond or so, after which a statement that goes on lets others have the
/// processor. The statements of a push or a pull end long before.
const STEPS_AT_A_STRETCH: i32 = 4000;

/// When a batch takes no further command and commits.
#[derive(Clone, Copy, Debug)]
pub(super) struct BatchLimits {
    /// With this many commands in it.
    pub(super) commands_max: usize,
    /// After this long: the first command in it is waiting for the commit.
    pub(super) duration_max: Duration,
}

/// What the writer has done so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteCounts {
    /// Commands whose outcome was committed, refused ones included.
    pub commands: u64,
    /// Transactions committed; fewer than commands when callers came together.
    pub transactions: u64,
}

/// Why a command has no result.
#[derive(Debug)]
pub(super) enum Failure {
    /// The writer is gone.
    Stopped,
    /// The command or its batch failed and left nothing behind.
    Sql(Arc<sqlx::Error>),
}

/// Has statements that change many rows (evictions, sweeps, retention) do so in short stretches.
pub(super) async fn pause_in_long_statements(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let go_on = || {
        pause();
        true
    };
    connection.lock_handle().await?.set_progress_handler(STEPS_AT_A_STRETCH, go_on);
    Ok(())
}

/// The handle to the writer task.
pub(super) struct Writer {
    messages: mpsc::Sender<Message>,
    counters: Arc<Counters>,
}

#[derive(Default)]
struct Counters {
    commands: AtomicU64,
    transactions: AtomicU64,
}

enum Message {
    Run(Box<dyn Command>),
    Close(oneshot::Sender<()>),
}

/// A command whose result type the writer need not know.
trait Command: Send {
    /// Runs within the open transaction; false if its changes must be undone.
    fn run<'c>(&'c mut self, connection: &'c mut SqliteConnection) -> BoxFuture<'c, bool>;

    /// Tells the caller, after the commit.
    fn reply(self: Box<Self>, committed: Result<(), Arc<sqlx::Error>>);
}

struct Pending<T, W> {
    work: Option<W>,
    outcome: Option<Result<T, Arc<sqlx::Error>>>,
    caller: oneshot::Sender<Result<T, Arc<sqlx::Error>>>,
}

impl<T, W> Command for Pending<T, W>
where
    T: Send + 'static,
    W: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, sqlx::Error>> + Send + 'static,
{
    fn run<'c>(&'c mut self, connection: &'c mut SqliteConnection) -> BoxFuture<'c, bool> {
        let work = self.work.take().expect("the writer runs a command once");
        async move {
            let outcome = work(connection).await.map_err(Arc::new);
            let keep = outcome.is_ok();
            self.outcome = Some(outcome);
            keep
        }
        .boxed()
    }

    fn reply(self: Box<Self>, committed: Result<(), Arc<sqlx::Error>>) {
        let Self { outcome, caller, .. } = *self;
        let outcome = committed.and_then(|()| outcome.expect("a batch commits after all its commands ran"));
        // A caller that went away is no concern of ours: its change stands.
        let _ = caller.send(outcome);
    }
}

impl Writer {
    /// Starts the task.
    pub(super) fn start(
        path: PathBuf,
        connection: SqliteConnection,
        limits: BatchLimits,
        recording: Option<Recording>,
    ) -> Self {
        let (sender, messages) = mpsc::channel(QUEUE_MAX);
        let counters = Arc::new(Counters::default());
        let counted = Arc::clone(&counters);
        let task = Task { path, connection, messages, closing: Vec::new(), limits, counters: counted, recording };
        #[expect(clippy::disallowed_methods, reason = "a change outlives the caller who asked for it")]
        tokio::spawn(task.run());
        Self { messages: sender, counters }
    }

    /// A handle to no task: every change fails.
    pub(super) fn none() -> Self {
        Self { messages: mpsc::channel(1).0, counters: Arc::default() }
    }

    /// Queues `work` and waits for its durable result. Once queued it runs to its end, also when this future is dropped.
    pub(super) async fn run<T, W>(&self, work: W) -> Result<T, Failure>
    where
        T: Send + 'static,
        W: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, sqlx::Error>> + Send + 'static,
    {
        let (caller, reply) = oneshot::channel();
        let command = Box::new(Pending { work: Some(work), outcome: None, caller });
        self.messages.send(Message::Run(command)).await.map_err(|_| Failure::Stopped)?;
        reply.await.map_err(|_| Failure::Stopped)?.map_err(Failure::Sql)
    }

    /// Has every queued command run, then the log written back and the file closed.
    pub(super) async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.messages.send(Message::Close(done)).await.is_ok() {
            // An error means that the task is gone, which is what was asked for.
            let _ = closed.await;
        }
    }

    pub(super) fn counts(&self) -> WriteCounts {
        WriteCounts {
            commands: self.counters.commands.load(Ordering::Relaxed),
            transactions: self.counters.transactions.load(Ordering::Relaxed),
        }
    }
}

struct Task {
    path: PathBuf,
    connection: SqliteConnection,
    messages: mpsc::Receiver<Message>,
    closing: Vec<oneshot::Sender<()>>,
    limits: BatchLimits,
    counters: Arc<Counters>,
    recording: Option<Recording>,
}

impl Task {
    async fn run(mut self) {
        while let Some(message) = self.messages.recv().await {
            match message {
                Message::Run(command) => self.run_batch(command).await,
                Message::Close(done) => self.begin_close(done),
            }
        }
        finish(self.connection).await;
        for done in self.closing {
            let _ = done.send(());
        }
    }

    /// Takes nothing new; what is queued already still runs.
    fn begin_close(&mut self, done: oneshot::Sender<()>) {
        self.messages.close();
        self.closing.push(done);
    }

    async fn run_batch(&mut self, first: Box<dyn Command>) {
        let mut batch = vec![first];
        let committed = match self.transact(&mut batch).await {
            Ok(()) => {
                self.counters.commands.fetch_add(batch.len() as u64, Ordering::Relaxed);
                self.counters.transactions.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => {
                // Fails when the database has rolled back by itself, as it does on a full disk: nothing is left to undo then.
                let _ = execute(&mut self.connection, "ROLLBACK").await;
                tracing::error!(%error, commands = batch.len(), "a batch of changes to the index failed");
                Err(Arc::new(error))
            }
        };
        for command in batch {
            command.reply(committed.clone());
        }
    }

    /// Runs the batch and whatever joins it meanwhile. A command is in `batch` from the moment it is taken, so that each gets
    /// its reply, whatever happens.
    async fn transact(&mut self, batch: &mut Vec<Box<dyn Command>>) -> Result<(), sqlx::Error> {
        let started = Instant::now();
        fault::before("begin a change of", &self.path)?;
        execute(&mut self.connection, "BEGIN IMMEDIATE").await?;
        let mut position = 0;
        while let Some(command) = batch.get_mut(position) {
            fault::before("change", &self.path)?;
            run_command(&mut self.connection, &mut **command).await?;
            position += 1;
            if position < self.limits.commands_max && started.elapsed() < self.limits.duration_max {
                batch.extend(self.waiting_command());
            }
        }
        fault::point("index: before commit");
        if let Some(recording) = &mut self.recording {
            recording.record(&mut self.connection).await?;
            fault::point("index: names recorded");
        }
        let committed = match fault::before("commit a change of", &self.path) {
            Ok(()) => execute(&mut self.connection, "COMMIT").await,
            Err(error) => Err(error.into()),
        };
        match (&committed, &mut self.recording) {
            (Ok(()), _) => fault::point("index: committed"),
            (Err(_), Some(recording)) => recording.not_committed(),
            (Err(_), None) => {}
        }
        committed
    }

    fn waiting_command(&mut self) -> Option<Box<dyn Command>> {
        match self.messages.try_recv().ok()? {
            Message::Run(command) => Some(command),
            Message::Close(done) => {
                self.begin_close(done);
                None
            }
        }
    }
}

async fn run_command(connection: &mut SqliteConnection, command: &mut dyn Command) -> Result<(), sqlx::Error> {
    execute(connection, "SAVEPOINT command").await?;
    if !command.run(connection).await {
        execute(connection, "ROLLBACK TO SAVEPOINT command").await?;
    }
    execute(connection, "RELEASE SAVEPOINT command").await
}

async fn execute(connection: &mut SqliteConnection, statement: &'static str) -> Result<(), sqlx::Error> {
    sqlx::query(statement).execute(connection).await.map(|_| ())
}

/// Only tidies up: without it the log is replayed at the next open.
async fn finish(mut connection: SqliteConnection) {
    if let Err(error) = execute(&mut connection, "PRAGMA wal_checkpoint(TRUNCATE)").await {
        tracing::warn!(%error, "the index's log was not written back; the next start does it");
    }
    if let Err(error) = connection.close().await {
        tracing::warn!(%error, "the index was not closed cleanly; the next start recovers it");
    }
}
