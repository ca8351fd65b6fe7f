//! `entrepot export REF…`: images with everything that belongs to them, as an OCI image layout in a directory or a tar archive.
//!
//! A running server is asked as any client asks it, with `Cache-Control: only-if-cached`, so that nothing is fetched in
//! passing; where none runs, the store is. What is exported was compared with its digest on the way.

mod plan;
mod platform;
mod write;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, bail, ensure};
use serde::Serialize;
use serde_json::Value;
use url::form_urlencoded;

use self::plan::{Lacking, Plan, Wanted};
use self::platform::Platform;
use super::door::{Door, From};
use super::reach::Reach;
use crate::config::Config;
use crate::layout::read_digests;
use crate::oci::{Digest, Reference, RepositoryName, WrittenReference};

/// Missing pieces that are listed before the rest is only counted.
const LACKING_SHOWN_MAX: usize = 20;

/// What is to be exported, and where to.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub struct Arguments {
    /// What to export: NAME, NAME:TAG or NAME@DIGEST, with or without a registry in front
    #[arg(value_name = "REF", required_unless_present = "all")]
    references: Vec<WrittenReference>,
    /// Every tag that is kept here
    #[arg(long, conflicts_with = "references")]
    all: bool,
    /// A directory, a file whose name ends in .tar, or - for a tar archive on the standard output
    #[arg(long, value_name = "DIR|FILE.tar|-", required_unless_present = "list")]
    to: Option<PathBuf>,
    /// Only these platforms of indexes, as linux/amd64; the index itself stays as it is
    #[arg(long, value_name = "PLATFORM", value_delimiter = ',')]
    platform: Vec<Platform>,
    /// Without what is attached to the images: signatures, SBOMs, attestations
    #[arg(long)]
    no_referrers: bool,
    /// Fetch from the upstreams what is not here
    #[arg(long, conflicts_with = "skip_missing")]
    fetch: bool,
    /// Leave out images, and platforms of them, that are not wholly here
    #[arg(long)]
    skip_missing: bool,
    /// A file with digests the other side has, one a line: their blobs are left out
    #[arg(long, value_name = "FILE")]
    have: Option<PathBuf>,
    /// Print the digests of everything that would be exported, for --have, and export nothing
    #[arg(long, conflicts_with = "to")]
    list: bool,
    /// How the layout names images: whole references, or bare tags for tools that want those
    #[arg(long, value_enum, default_value_t = Names::Full)]
    names: Names,
    /// Share the store's files by hard links where it is on the same disk and no server runs; nobody may write to them then
    #[arg(long)]
    hard_link: bool,
    #[command(flatten)]
    reach: Reach,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// How a layout names images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Names {
    /// docker.io/library/nginx:1.27
    Full,
    /// 1.27
    Tag,
}

/// What was exported.
#[derive(Debug, Default, Serialize)]
struct Exported {
    images: usize,
    manifests: usize,
    blobs: usize,
    bytes: u64,
    kept: usize,
    left_out: usize,
}

/// Exports.
pub fn run(config: &Config, arguments: &Arguments) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.context("starting the runtime")?.block_on(async {
        let door = Door::open(config, &arguments.reach, false).await?;
        let exported = export(&door, arguments).await;
        door.close().await;
        exported
    })
}

async fn export(door: &Door, arguments: &Arguments) -> anyhow::Result<()> {
    let from = if arguments.fetch { From::Anywhere } else { From::Stored };
    let wanted = Wanted { platforms: arguments.platform.clone(), referrers: !arguments.no_referrers, from };
    let mut plan = Plan::default();
    for (repository, reference) in named(door, arguments).await? {
        plan.add(door, &wanted, &repository, &reference).await?;
    }
    if arguments.list {
        let mut out = std::io::stdout().lock();
        for digest in plan.manifests.iter().map(|(digest, _)| digest).chain(plan.blobs.keys()) {
            writeln!(out, "{digest}")?;
        }
        return Ok(());
    }
    if !plan.lacking.is_empty() {
        let text = lacking_text(&plan.lacking);
        ensure!(
            arguments.skip_missing,
            "not all of it is here:\n{text}fetch it with --fetch, choose with --platform, or leave it out with --skip-missing"
        );
        eprint!("left out, because it is not here:\n{text}");
    }
    ensure!(!plan.roots.is_empty(), "there is nothing to export");
    let have = arguments.have.as_ref().map(|path| read_digests(path)).transpose()?.unwrap_or_default();
    let to = arguments.to.as_ref().context("say where to: --to DIR, FILE.tar or -")?;
    let exported = write::write(door, &plan, &have, from, to, arguments).await?;
    let text = if arguments.json { serde_json::to_string(&exported)? } else { exported.text() };
    // The standard output may be the archive.
    if to.as_os_str() == "-" {
        eprintln!("{text}");
    } else {
        println!("{text}");
    }
    Ok(())
}

/// What was asked for, by the names under which it is kept.
async fn named(door: &Door, arguments: &Arguments) -> anyhow::Result<Vec<(RepositoryName, Reference)>> {
    if arguments.all {
        let tags = plan::all_tags(door).await?;
        return Ok(tags.into_iter().map(|(name, tag)| (name, Reference::Tag(tag))).collect());
    }
    let mut named = Vec::new();
    for written in &arguments.references {
        let query = form_urlencoded::Serializer::new(String::new()).append_pair("ref", &written.to_string()).finish();
        let why: Value = door.json(&format!("/api/v1/why?{query}"), From::Stored).await?;
        let kept: WrittenReference = why["reference"].as_str().unwrap_or_default().parse()?;
        named.push((kept.name.clone(), kept.reference()));
    }
    Ok(named)
}

fn lacking_text(lacking: &[Lacking]) -> String {
    let mut text = String::new();
    for Lacking { wanted_by, what } in lacking.iter().take(LACKING_SHOWN_MAX) {
        let _ = writeln!(text, "  {wanted_by}: {what}");
    }
    if lacking.len() > LACKING_SHOWN_MAX {
        let _ = writeln!(text, "  and {} more", lacking.len() - LACKING_SHOWN_MAX);
    }
    text
}

impl Exported {
    fn text(&self) -> String {
        let Self { images, manifests, blobs, bytes, kept, left_out } = self;
        let mut text =
            format!("exported {images} images: {manifests} manifests and {blobs} blobs, {bytes} bytes written");
        if *kept > 0 {
            let _ = write!(text, ", {kept} were there already");
        }
        if *left_out > 0 {
            let _ = write!(text, ", {left_out} left out that the other side has");
        }
        text
    }
}

/// The tag or the whole name of an image, as the layout is to say it.
fn shown_name(root: &plan::Root, names: Names) -> Option<String> {
    match (&root.tag, names) {
        (Some(tag), Names::Full) => Some(format!("{}:{tag}", root.repository)),
        (Some(tag), Names::Tag) => Some(tag.to_string()),
        (None, Names::Full) => Some(format!("{}@{}", root.repository, root.digest)),
        (None, Names::Tag) => None,
    }
}

/// Two images may not go by one name.
fn check_names(names: &[(Option<String>, Digest)]) -> anyhow::Result<()> {
    let mut seen = std::collections::HashMap::new();
    for (name, digest) in names {
        let Some(name) = name else { continue };
        if seen.insert(name, digest).is_some_and(|other| other != digest) {
            bail!("two images would be called {name}: export them one by one, or with --names full");
        }
    }
    Ok(())
}
