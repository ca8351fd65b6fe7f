//! `entrepot backup FILE`: a consistent copy of the index, while the server runs or not.
//!
//! The index is read in one transaction, which keeps nobody from writing; blobs need no such thing, because they never change.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context as _, anyhow, bail};

use crate::config::Config;
use crate::metadata::Metadata;
use crate::storage::{self, Store};

/// Where the copy goes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The file to make; it must not exist
    #[arg(value_name = "FILE")]
    pub target: PathBuf,
}

/// Copies the index, checks the copy, and only then gives it its name.
pub fn run(config: &Config, arguments: &Arguments, out: &mut impl Write) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    runtime.block_on(back_up(config, arguments, out))
}

async fn back_up(config: &Config, arguments: &Arguments, out: &mut impl Write) -> anyhow::Result<()> {
    let (path, target) = (&config.storage.path, &arguments.target);
    let index =
        Store::index_at(path).ok_or_else(|| anyhow!("there is no store at {} (storage.path)", path.display()))?;
    if target.exists() {
        bail!("{} exists already: name a file that does not", target.display());
    }
    let partial = target.with_added_extension("partial");
    storage::discard(&partial)?;
    let copied = copy(&index, &partial).await;
    let Ok(blobs) = copied else {
        storage::discard(&partial)?;
        return copied.map(drop);
    };
    let bytes = storage::publish(&partial, target)?;
    writeln!(out, "{}: {bytes} bytes, {blobs} blobs known; it was read through and is sound", target.display())?;
    Ok(())
}

async fn copy(index: &std::path::Path, partial: &std::path::Path) -> anyhow::Result<u64> {
    let metadata = Metadata::open_read_only(index).await?;
    let copied = metadata.back_up(partial).await;
    metadata.close().await;
    copied?;
    let copy = Metadata::open_read_only(partial).await?;
    let (problems, totals) = (copy.problems().await?, copy.totals().await?);
    copy.close().await;
    match problems.first() {
        None => Ok(totals.n_blobs),
        Some(problem) => bail!("the copy is not sound ({problem}): run `entrepot scrub`"),
    }
}
