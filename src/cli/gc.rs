//! `entrepot gc`: removes what nobody needs any more, now.
//!
//! A running server is asked to do it, beside its requests. Where none runs, the store is opened as a server would open it, so
//! that no server can start meanwhile.

use std::io::Write;
use std::time::Duration;

use anyhow::Context as _;
use http::Method;
use serde::Serialize;

use super::admin_api::{self, Failure};
use super::reach::Reach;
use super::serve;
use crate::clock::Clock;
use crate::config::Config;
use crate::http::admin::gc::{Gc, GcItem};
use crate::registry::SweepRequest;
use crate::storage::Store;

/// What is to be swept, and by whom.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Say what would go and why, and remove nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Look through the whole index, not only at what changes have put up for review
    #[arg(long)]
    pub full: bool,
    /// Another grace period than gc.grace, such as 0s: pushes under way may have to be repeated then
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub grace: Option<Duration>,
    #[command(flatten)]
    pub reach: Reach,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What was done, and by whom.
#[derive(Serialize)]
struct Done {
    done_by: String,
    #[serde(flatten)]
    gc: Gc,
}

/// Sweeps and prints what came of it.
pub fn run(config: &Config, arguments: &Arguments, out: &mut impl Write) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    let done = runtime.block_on(sweep(config, arguments))?;
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&done)?)?;
    } else {
        print(&done, out)?;
    }
    Ok(())
}

async fn sweep(config: &Config, arguments: &Arguments) -> anyhow::Result<Done> {
    let server = arguments.reach.server(config)?;
    let grace = arguments.grace.map(|grace| humantime::format_duration(grace).to_string());
    let mut parameters = Vec::new();
    parameters.extend(arguments.dry_run.then_some(("dry_run", "true")));
    parameters.extend(arguments.full.then_some(("full", "true")));
    parameters.extend(grace.as_deref().map(|grace| ("grace", grace)));
    match admin_api::send_patiently(&server, Method::POST, "/api/v1/gc", &parameters).await {
        Ok(gc) => Ok(Done { done_by: format!("the server at {server}"), gc }),
        Err(Failure::NoServer { .. }) if !arguments.reach.is_named() => {
            let gc = sweep_at_rest(config, arguments).await;
            let gc = gc.with_context(|| format!("no server answers at {server}, and the store cannot be swept"))?;
            let path = config.storage.path.display();
            Ok(Done { done_by: format!("the store at {path} (no server answers at {server})"), gc })
        }
        Err(failure) => Err(failure.into()),
    }
}

async fn sweep_at_rest(config: &Config, arguments: &Arguments) -> anyhow::Result<Gc> {
    let path = &config.storage.path;
    Store::index_at(path).with_context(|| format!("there is no store at {} (storage.path)", path.display()))?;
    let opened = serve::open(config, Clock::System).await?;
    let Arguments { dry_run, full, grace, .. } = *arguments;
    let swept = opened.registry.sweeper().sweep(SweepRequest { grace, full, dry_run }).await;
    opened.metadata.close().await;
    Ok(Gc::new(swept?, dry_run))
}

fn print(done: &Done, out: &mut impl Write) -> std::io::Result<()> {
    let Done { done_by, gc } = done;
    writeln!(out, "{done_by}")?;
    for GcItem { kind, digest, repository, bytes, reason } in &gc.garbage {
        let repository = repository.as_deref().map_or_else(String::new, |name| format!(" of {name}"));
        writeln!(out, "  {kind} {digest}{repository}, {bytes} bytes: {reason}")?;
    }
    let would = if gc.dry_run { "would remove" } else { "removed" };
    let Gc { manifests, blobs, freed_bytes, links, demoted, rows, repositories, reviewed, queued, .. } = gc;
    writeln!(out, "{would} {manifests} manifests, {blobs} blobs ({freed_bytes} bytes), {links} links, {rows} rows")?;
    writeln!(out, "  and {repositories} repositories; {demoted} blobs count as cached from now on")?;
    writeln!(out, "  {reviewed} entries of the review queue looked at, {queued} wait for their time")?;
    if gc.dry_run {
        writeln!(out, "  What only they need goes with the sweeps after.")?;
    }
    if gc.stopped {
        writeln!(out, "  The server is stopping: it goes on when it is started again.")?;
    }
    Ok(())
}
