//! `entrepot scrub`: looks through a store that nobody serves, and with `--repair` puts it right, its index included.

use std::io::{IsTerminal as _, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::Serialize;

use crate::blobs::Blobs;
use crate::cache::{Finding, Inventory, Stocktaking, recorded_names};
use crate::clock::Clock;
use crate::config::Config;
use crate::metadata::{self, Metadata};
use crate::storage::Store;
use crate::tasks::check::{self, Depth, check};

/// How often a terminal is told how far it is.
const TOLD_EVERY: Duration = Duration::from_millis(200);

/// What is to be done about what is found.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Set damaged bytes aside, correct the index, and rebuild it if it is lost or damaged
    #[arg(long)]
    pub repair: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Serialize)]
struct Report {
    store: String,
    blobs: u64,
    bytes: u64,
    index_rebuilt: bool,
    findings: Vec<Shown>,
}

#[derive(Serialize)]
struct Shown {
    kind: &'static str,
    subject: String,
    says: String,
    repaired: bool,
}

/// Prints what was found. An error if anything is left that is not as it should be.
pub fn run(config: &Config, arguments: &Arguments, out: &mut impl Write) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    let report = runtime.block_on(scrub(config, arguments.repair))?;
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        for finding in &report.findings {
            let done = if finding.repaired { "repaired" } else { "found" };
            writeln!(out, "{done:<9} {:<12} {}  {}", finding.kind, finding.subject, finding.says)?;
        }
        let rebuilt = if report.index_rebuilt { ", the index was rebuilt" } else { "" };
        let n = report.findings.len();
        writeln!(out, "{}: {} blobs, {} bytes, {n} findings{rebuilt}", report.store, report.blobs, report.bytes)?;
    }
    let left = report.findings.iter().filter(|finding| !finding.repaired).count();
    match (left, arguments.repair) {
        (0, _) => Ok(()),
        (left, false) => bail!("{left} findings: `entrepot scrub --repair` puts right what can be"),
        (left, true) => bail!("{left} findings are left: push again what is named as lost"),
    }
}

async fn scrub(config: &Config, repair: bool) -> anyhow::Result<Report> {
    let path = &config.storage.path;
    let store = Arc::new(Store::open_unserved(path)?);
    let blobs = Blobs::new(Arc::clone(&store));
    let (metadata, problem) = if repair { open_repaired(&store, &blobs).await? } else { open_as_it_is(&store).await? };
    let index_rebuilt = repair && problem.is_some();
    let mut told = Told::new();
    let stocktaking = Stocktaking::new(&blobs, metadata.as_ref(), Clock::System, repair);
    let mut found = stocktaking.run(|blobs, bytes| told.tell(blobs, bytes)).await?;
    told.done();
    found.findings.splice(0..0, problem.map(|problem| Finding::Index { problem }));
    let Inventory { blobs: n_blobs, bytes, findings } = found;
    let mut findings: Vec<Shown> = findings.into_iter().map(|finding| Shown::new(finding, repair)).collect();
    if let Some(metadata) = &metadata {
        // What is left to find are contradictions within the index.
        let left = check(metadata, &blobs, None, Depth::Lengths).await?;
        findings.extend(left.iter().filter_map(Shown::contradiction));
    }
    if let Some(metadata) = metadata {
        metadata.close().await;
    }
    Ok(Report { store: path.display().to_string(), blobs: n_blobs, bytes, index_rebuilt, findings })
}

/// The index, read only, and what is wrong with its file.
async fn open_as_it_is(store: &Store) -> anyhow::Result<(Option<Metadata>, Option<String>)> {
    if !store.has_index() {
        return Ok((None, Some("it is lost".to_owned())));
    }
    let metadata = match Metadata::open_read_only(store.index_path()).await {
        Err(error) if error.is_damage() => return Ok((None, Some(error.to_string()))),
        opened => opened?,
    };
    let problem = metadata.problems().await?.into_iter().next();
    Ok((Some(metadata), problem))
}

/// The index, or an empty one in the place of one that is lost or damaged, which is set aside; and what was wrong.
async fn open_repaired(store: &Arc<Store>, blobs: &Blobs) -> anyhow::Result<(Option<Metadata>, Option<String>)> {
    let options =
        || metadata::Options { names: Some(recorded_names(blobs)), ..metadata::Options::new(store.index_path()) };
    let problem = if store.has_index() {
        match Metadata::open(options()).await {
            Err(error) if error.is_damage() => Some(error.to_string()),
            Err(error) => return Err(error.into()),
            Ok(metadata) => match metadata.problems().await?.into_iter().next() {
                None => return Ok((Some(metadata), None)),
                Some(problem) => {
                    metadata.close().await;
                    Some(problem)
                }
            },
        }
    } else {
        Some("it is lost".to_owned())
    };
    store.set_index_aside()?;
    Ok((Some(Metadata::open(options()).await?), problem))
}

impl Shown {
    /// What the index says that cannot be; the files were looked at already, and what a crash leaves goes at the next start.
    fn contradiction(finding: &check::Finding) -> Option<Self> {
        let kind = match finding {
            check::Finding::Flaw(_) => "flaw",
            check::Finding::Drift(_) => "sums",
            _ => return None,
        };
        Some(Self { kind, subject: "index.sqlite".to_owned(), says: finding.to_string(), repaired: false })
    }

    fn new(finding: Finding, repair: bool) -> Self {
        let shown = |kind, subject, says, can_be| Self { kind, subject, says, repaired: repair && can_be };
        match finding {
            Finding::Index { problem } => shown(
                "index",
                "index.sqlite".to_owned(),
                format!("{problem}; what there was of it is in quarantine/ after a repair"),
                true,
            ),
            Finding::Damaged { digest, damage, pushed: true } => {
                let says = format!("pushed content is lost ({}): push it again", damage.as_str());
                shown("lost", digest.to_string(), says, false)
            }
            Finding::Damaged { digest, damage, pushed: false } => {
                let says =
                    format!("cached content is damaged ({}) and is fetched again when asked for", damage.as_str());
                shown("damaged", digest.to_string(), says, true)
            }
            Finding::Unrecorded { digest, size_bytes } => shown(
                "unrecorded",
                digest.to_string(),
                format!("the index does not know these {size_bytes} bytes"),
                true,
            ),
            Finding::Foreign { path } => shown("foreign", path, "no blob has this name: remove it".to_owned(), false),
            Finding::NamesUnreadable { lines } => {
                let says =
                    format!("{lines} lines of the record of names cannot be read: what they named may be missing");
                shown("names", "names".to_owned(), says, false)
            }
            Finding::Nameless(lost) => {
                let says = format!("{} was pushed with it, and its bytes are not here: push it again", lost.digest);
                shown("nameless", format!("{}@{}", lost.repository, lost.manifest), says, false)
            }
            Finding::Sums => {
                shown("sums", "index.sqlite".to_owned(), "its sums were not those of its rows".to_owned(), true)
            }
        }
    }
}

/// How far it is, on a terminal.
struct Told {
    last: Option<Instant>,
}

impl Told {
    fn new() -> Self {
        Self { last: std::io::stderr().is_terminal().then(Instant::now) }
    }

    fn tell(&mut self, blobs: u64, bytes: u64) {
        if self.last.is_some_and(|last| last.elapsed() >= TOLD_EVERY) {
            self.last = Some(Instant::now());
            let mut terminal = std::io::stderr();
            // Nobody is served by failing because a terminal went away.
            let _ = write!(terminal, "\r{blobs} blobs, {} MiB", bytes >> 20).and_then(|()| terminal.flush());
        }
    }

    fn done(&self) {
        if self.last.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
