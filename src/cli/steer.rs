//! Commands that look after what is kept: a running server does what they say; where none runs, the store is opened.

use std::sync::Arc;

use anyhow::Context as _;
use http::Method;
use serde::de::DeserializeOwned;

use super::admin_api::{self, Failure};
use super::reach::Reach;
use super::serve;
use crate::clock::Clock;
use crate::config::Config;
use crate::metadata::Metadata;
use crate::registry::Registry;
use crate::storage::Store;

/// Where such a command goes, and how it prints.
#[derive(Debug, clap::Args)]
pub struct Steering {
    #[command(flatten)]
    pub reach: Reach,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// A question to the admin API.
pub struct Question<'a> {
    /// What is to be done.
    pub method: Method,
    /// With what.
    pub path: &'a str,
    /// The parameters.
    pub parameters: &'a [(&'a str, &'a str)],
}

/// Runs a command to its end.
pub fn block_on<T>(command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    runtime.block_on(command)
}

impl Steering {
    /// Asks the server; `None` if none answers where it would listen and nobody said where else.
    pub async fn ask<T: DeserializeOwned>(
        &self,
        config: &Config,
        question: &Question<'_>,
    ) -> anyhow::Result<Option<T>> {
        let server = self.reach.server(config)?;
        match admin_api::send(&server, question.method.clone(), question.path, question.parameters).await {
            Ok(answer) => Ok(Some(answer)),
            Err(Failure::NoServer { .. }) if !self.reach.is_named() => Ok(None),
            Err(failure) => Err(failure.into()),
        }
    }
}

/// Does something to a store that nobody serves.
pub async fn change_at_rest<T>(
    config: &Config,
    change: impl AsyncFnOnce(&Arc<Registry>) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let path = config.storage.path.display();
    anyhow::ensure!(Store::index_at(&config.storage.path).is_some(), "there is no store at {path} (storage.path)");
    let opened = serve::open(config, Clock::System)
        .await
        .with_context(|| format!("no server answers, and the store at {path}"))?;
    let changed = change(&opened.registry).await;
    opened.registry.fills().stop().await;
    opened.metadata.close().await;
    changed
}

/// The index of a store that nobody serves, to be read only.
pub async fn at_rest(config: &Config) -> anyhow::Result<Metadata> {
    let path = &config.storage.path;
    let index = Store::index_at(path)
        .with_context(|| format!("no server answers, and there is no store at {} (storage.path)", path.display()))?;
    Ok(Metadata::open_read_only(index).await?)
}
