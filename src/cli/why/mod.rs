//! `entrepot why REF`: how a name resolves, what is cached, and what the next pull would do.
//!
//! A running server is asked, because it alone knows how its upstreams do. Where none runs, the index of the store is read,
//! without the store's lock and without a change to it.

pub(super) mod text;

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use serde::Serialize;

use super::admin_api::{self, Failure};
use super::reach::Reach;
use super::serve;
use crate::clock::Clock;
use crate::config::Config;
use crate::http::admin::why::Why;
use crate::metadata::Metadata;
use crate::metrics::Metrics;
use crate::oci::WrittenReference;
use crate::registry::explain::Grounds;
use crate::registry::{Caller, Target};
use crate::storage::Store;

/// What is to be explained, and by whom.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// What would be pulled: NAME, NAME:TAG or NAME@DIGEST, with or without a registry in front
    #[arg(value_name = "REF")]
    pub reference: WrittenReference,
    #[command(flatten)]
    pub reach: Reach,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// The answer and who gave it.
#[derive(Serialize)]
struct Told {
    told_by: String,
    #[serde(flatten)]
    why: Why,
}

/// Prints the explanation.
pub fn run(config: &Config, arguments: &Arguments, out: &mut impl Write) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    let told = runtime.block_on(tell(config, arguments))?;
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&told)?)?;
    } else {
        out.write_all(text::text(&told.told_by, &told.why).as_bytes())?;
    }
    Ok(())
}

async fn tell(config: &Config, arguments: &Arguments) -> anyhow::Result<Told> {
    let server = arguments.reach.server(config)?;
    let reference = arguments.reference.to_string();
    match admin_api::get(&server, "/api/v1/why", &[("ref", &reference)]).await {
        Ok(why) => Ok(Told { told_by: format!("the server at {server}"), why }),
        Err(Failure::NoServer { .. }) if !arguments.reach.is_named() => {
            let path = config.storage.path.display();
            let told_by = format!("the store at {path} (no server answers at {server})");
            let why = read(config, &arguments.reference).await;
            Ok(Told { why: why.with_context(|| format!("no server answers at {server}, and the store"))?, told_by })
        }
        Err(failure) => Err(failure.into()),
    }
}

/// The explanation from the index alone.
async fn read(config: &Config, written: &WrittenReference) -> anyhow::Result<Why> {
    let path = &config.storage.path;
    let index =
        Store::index_at(path).ok_or_else(|| anyhow!("there is no store at {} (storage.path)", path.display()))?;
    let metadata = Metadata::open_read_only(index).await?;
    let clock = Clock::System;
    let mirrors = serve::mirrors(config, &clock, &Metrics::new())?;
    let mirrors: HashMap<_, _> =
        mirrors.into_iter().map(|mirror| (mirror.host().clone(), Arc::clone(&mirror))).collect();
    let names = serve::names(config)?;
    let (name, reference) = (&written.name, written.reference());
    let target = Target { name: name.clone(), ns: None, host: None, caller: Caller::default() };
    let explained = Grounds::at_rest(&names, &mirrors, &metadata, clock.now_ms()).explain(&target, &reference).await;
    metadata.close().await;
    Ok(Why::new(name, &reference, explained?))
}
