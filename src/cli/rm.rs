//! `entrepot rm`: takes a tag, a manifest or a repository away. The bytes go when nobody needs them any more.

use std::io::Write;

use anyhow::ensure;
use clap::ArgGroup;
use http::Method;

use super::steer::{Question, Steering, block_on, change_at_rest};
use crate::config::Config;
use crate::http::admin::content::Removed;
use crate::http::admin::pins::written;
use crate::oci::{RepositoryName, WrittenReference};

/// The endpoint.
const PATH: &str = "/api/v1/content";

/// What is to be removed.
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("what").required(true).args(["reference", "repository"]))]
pub struct Arguments {
    /// NAME:TAG removes the tag, NAME@DIGEST the manifest with every tag that names it
    #[arg(value_name = "REF")]
    pub reference: Option<WrittenReference>,
    /// Remove everything of this repository, and forget that it was pushed to
    #[arg(long, value_name = "NAME")]
    pub repository: Option<RepositoryName>,
    #[command(flatten)]
    pub steering: Steering,
}

/// Removes it and says so.
pub fn run(config: &Config, arguments: &Arguments, out: &mut impl Write) -> anyhow::Result<()> {
    if let Some(reference) = &arguments.reference {
        let is_exact = reference.tag.is_some() || reference.digest.is_some();
        ensure!(is_exact, "say which tag or digest of {0}, or --repository {0} for all of it", reference.name);
    }
    let removed = block_on(remove(config, arguments))?;
    if arguments.steering.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&removed)?)?;
        return Ok(());
    }
    match removed.manifests {
        Some(manifests) => writeln!(out, "removed {} with {manifests} manifests", removed.removed)?,
        None => writeln!(out, "removed {}", removed.removed)?,
    }
    Ok(())
}

async fn remove(config: &Config, arguments: &Arguments) -> anyhow::Result<Removed> {
    let reference = arguments.reference.as_ref().map(ToString::to_string);
    let repository = arguments.repository.as_ref().map(ToString::to_string);
    let mut parameters: Vec<(&str, &str)> = Vec::new();
    parameters.extend(reference.as_deref().map(|text| ("ref", text)));
    parameters.extend(repository.as_deref().map(|name| ("repository", name)));
    let question = Question { method: Method::DELETE, path: PATH, parameters: &parameters };
    if let Some(removed) = arguments.steering.ask(config, &question).await? {
        return Ok(removed);
    }
    change_at_rest(config, async |registry| {
        if let Some(name) = &arguments.repository {
            let (name, removed) = registry.remove_repository(name, None).await?;
            return Ok(Removed { removed: name.to_string(), manifests: Some(removed.manifests) });
        }
        let Some(written_as) = &arguments.reference else { anyhow::bail!("nothing was named") };
        let reference = written_as.reference();
        let kept = registry.remove(&written_as.name, &reference, None).await?;
        Ok(Removed { removed: written(&kept, &reference), manifests: None })
    })
    .await
}
