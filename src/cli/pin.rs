//! `entrepot pin`: what is kept from eviction, whatever else has to go.

use std::io::Write;

use anyhow::bail;
use clap::ArgGroup;
use http::Method;

use super::sizes::size;
use super::steer::{Question, Steering, at_rest, block_on, change_at_rest};
use super::table;
use crate::config::Config;
use crate::http::admin::pins::{Changed, Pins};
use crate::oci::WrittenReference;

/// The endpoint.
const PATH: &str = "/api/v1/pins";

/// What is to be pinned.
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("what").required(true).args(["reference", "list"]))]
pub struct Arguments {
    /// What to keep: NAME, NAME:TAG or NAME@DIGEST, with all it leads to, now and when it comes
    #[arg(value_name = "REF")]
    pub reference: Option<WrittenReference>,
    /// Take the pin off
    #[arg(long, conflicts_with = "list")]
    pub remove: bool,
    /// List what is pinned
    #[arg(long)]
    pub list: bool,
    #[command(flatten)]
    pub steering: Steering,
}

/// Pins, takes a pin off, or lists the pins.
pub fn run(config: &Config, arguments: &Arguments, out: &mut impl Write) -> anyhow::Result<()> {
    let Some(reference) = &arguments.reference else {
        let pins = block_on(list(config, &arguments.steering))?;
        return show(&pins, arguments.steering.json, out);
    };
    let changed = block_on(change(config, arguments, reference))?;
    if arguments.steering.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&changed)?)?;
        return Ok(());
    }
    let Changed { reference, changed } = changed;
    match (arguments.remove, changed) {
        (false, true) => writeln!(out, "{reference} is pinned")?,
        (false, false) => writeln!(out, "{reference} was pinned already")?,
        (true, true) => writeln!(out, "{reference} is pinned no more")?,
        (true, false) => bail!("no command has pinned {reference}; a pattern of `pin` in the configuration may have"),
    }
    Ok(())
}

async fn change(config: &Config, arguments: &Arguments, written: &WrittenReference) -> anyhow::Result<Changed> {
    let method = if arguments.remove { Method::DELETE } else { Method::PUT };
    let text = written.to_string();
    let question = Question { method, path: PATH, parameters: &[("ref", &text)] };
    if let Some(changed) = arguments.steering.ask(config, &question).await? {
        return Ok(changed);
    }
    let (name, reference, remove) = (&written.name, written.reference(), arguments.remove);
    change_at_rest(config, async |registry| {
        let (repo, changed) =
            if remove { registry.unpin(name, &reference).await? } else { registry.pin(name, &reference).await? };
        Ok(Changed::new(&repo, &reference, changed))
    })
    .await
}

async fn list(config: &Config, steering: &Steering) -> anyhow::Result<Pins> {
    let question = Question { method: Method::GET, path: PATH, parameters: &[] };
    if let Some(pins) = steering.ask(config, &question).await? {
        return Ok(pins);
    }
    let index = at_rest(config).await?;
    let (rows, pinned_bytes) = (index.list_pins().await?, index.pinned_bytes().await?);
    index.close().await;
    Ok(Pins::new(rows, pinned_bytes))
}

fn show(pins: &Pins, json: bool, out: &mut impl Write) -> anyhow::Result<()> {
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(pins)?)?;
        return Ok(());
    }
    let rows: Vec<[String; 4]> = pins
        .pins
        .iter()
        .map(|pin| {
            let here = match &pin.manifest {
                None => "nothing of it is here yet".to_owned(),
                Some(_) => format!("{} of {} blobs", pin.blobs - pin.missing_blobs, pin.blobs),
            };
            [pin.reference.clone(), pin.by.clone(), here, size(pin.stored_bytes)]
        })
        .collect();
    table::print(out, ["REFERENCE", "PINNED BY", "HERE", "SIZE"], &rows)?;
    writeln!(out, "pinned in the cache: {}", size(pins.pinned_bytes))?;
    Ok(())
}
