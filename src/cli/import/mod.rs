//! `entrepot import LAYOUT`: images of an OCI image layout, in a directory or a tar archive, into this registry.
//!
//! Everything passes the doors that a client's push passes, of a running server or of the store where none runs. Blobs come
//! first, then manifests, then tags: an import that breaks off leaves nothing that could be pulled in part, and done again it
//! goes on where it was.

mod bring;
mod names;
mod plan;

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use serde::Serialize;

use self::bring::Bring;
use self::names::Rule;
use super::door::Door;
use super::reach::Reach;
use crate::config::Config;
use crate::layout::Layout;

/// What is to be imported, and as what.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// A directory, a tar file, or - for a tar archive on the standard input
    #[arg(value_name = "DIR|FILE.tar|-")]
    layout: PathBuf,
    /// Where to instead of where it came from: NAME for one repository, PREFIX/ for below it, FROM=TO for another beginning
    #[arg(long, value_name = "RULE")]
    to: Vec<Rule>,
    /// As cached content of the upstreams it came from, which may be evicted, instead of as pushed content, which stays
    #[arg(long)]
    as_cached: bool,
    /// Print the digests of the layout's content that are here already, and import nothing
    #[arg(long)]
    list_have: bool,
    #[command(flatten)]
    reach: Reach,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What was imported.
#[derive(Debug, Default, Serialize)]
struct Imported {
    tags: usize,
    manifests: usize,
    blobs: usize,
    bytes: u64,
    here: usize,
    ignored: usize,
}

/// Imports.
pub fn run(config: &Config, arguments: &Arguments) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.context("starting the runtime")?.block_on(async {
        let door = Door::open(config, &arguments.reach, !arguments.list_have).await?;
        let imported = import(&door, arguments).await;
        door.close().await;
        imported
    })
}

async fn import(door: &Door, arguments: &Arguments) -> anyhow::Result<()> {
    let mut bring = Bring::new(door, &arguments.to, arguments.as_cached);
    let has_said = |error| Err(error).with_context(|| format!("importing {}", arguments.layout.display()));
    let brought = if arguments.layout.as_os_str() == "-" {
        bring.pipe(std::io::stdin().lock(), arguments.list_have).await
    } else {
        match Layout::open(&arguments.layout) {
            Ok(layout) => bring.layout(&layout, arguments.list_have).await,
            Err(error) => Err(error.into()),
        }
    };
    let listed = match brought {
        Ok(listed) => listed,
        Err(error) => return has_said(error),
    };
    if arguments.list_have {
        for digest in listed {
            println!("{digest}");
        }
        return Ok(());
    }
    let imported = &bring.imported;
    if arguments.json {
        println!("{}", serde_json::to_string(imported)?);
    } else {
        println!("{}", imported.text());
    }
    Ok(())
}

impl Imported {
    fn text(&self) -> String {
        let Self { tags, manifests, blobs, bytes, here, ignored } = self;
        let mut text = format!("imported {tags} tags: {manifests} manifests and {blobs} blobs, {bytes} bytes");
        if *here > 0 {
            let _ = write!(text, ", {here} blobs were here already");
        }
        if *ignored > 0 {
            let _ = write!(text, ", {ignored} manifests without a name left out (--to NAME takes them in)");
        }
        text
    }
}
