//! `entrepot warm REF…`: has a running server bring references into its cache.

mod text;

use std::collections::HashSet;
use std::io::{BufRead, IsTerminal as _, Write};
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use futures::{StreamExt as _, TryFutureExt as _, stream};

use super::admin_api::{self, Failure};
use super::instance_url::InstanceUrl;
use super::reach::Reach;
use crate::config::Config;
use crate::http::admin::warm::{ALL_PLATFORMS, Event, Line, Order};
use crate::oci::{Platform, WrittenReference};

/// References that are warmed at a time; the server bounds what that may come to.
const AT_ONCE: usize = 4;

/// What is to be warmed, and by whom.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// What will be pulled: NAME, NAME:TAG or NAME@DIGEST, with or without a registry in front
    #[arg(value_name = "REF", required_unless_present = "from")]
    pub references: Vec<WrittenReference>,
    /// Read references from a file, one a line; - is the standard input
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// Have tags confirmed by the upstream now, however fresh they are
    #[arg(long)]
    pub refresh: bool,
    /// The platforms of an index: OS/ARCHITECTURE[/VARIANT] [default: that of this machine]
    #[arg(long, value_name = "PLATFORM", conflicts_with = "all_platforms")]
    pub platform: Vec<Platform>,
    /// Every platform of an index
    #[arg(long)]
    pub all_platforms: bool,
    #[command(flatten)]
    pub reach: Reach,
    /// Print what happens as JSON, an object a line
    #[arg(long)]
    pub json: bool,
}

/// Warms, and says what came of it. An error if anything failed.
pub fn run(config: &Config, arguments: &Arguments, out: &mut impl Write, err: &mut impl Write) -> anyhow::Result<()> {
    let references = references(arguments)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    let n_failed = runtime.block_on(warm(config, arguments, &references, out, err))?;
    match n_failed {
        0 => Ok(()),
        n => bail!("{n} of {} references could not be warmed completely", references.len()),
    }
}

/// All that were given, each once, in order.
fn references(arguments: &Arguments) -> anyhow::Result<Vec<String>> {
    let mut all: Vec<String> = arguments.references.iter().map(ToString::to_string).collect();
    if let Some(path) = &arguments.from {
        let named = path.display();
        let lines: Vec<String> = if path.as_os_str() == "-" {
            std::io::stdin().lock().lines().collect::<Result<_, _>>().context("reading the standard input")?
        } else {
            #[expect(clippy::disallowed_methods, reason = "a list that somebody names, read before anything runs")]
            let text = std::fs::read_to_string(path).with_context(|| format!("reading {named}"))?;
            text.lines().map(str::to_owned).collect()
        };
        for (index, line) in lines.iter().enumerate() {
            let written = line.split('#').next().unwrap_or_default().trim();
            if !written.is_empty() {
                let reference: WrittenReference = written.parse().with_context(|| format!("{named}:{}", index + 1))?;
                all.push(reference.to_string());
            }
        }
    }
    let mut seen = HashSet::new();
    all.retain(|reference| seen.insert(reference.clone()));
    if all.is_empty() {
        bail!("there is no reference in it: write one a line");
    }
    Ok(all)
}

/// Returns how many references failed.
async fn warm(
    config: &Config,
    arguments: &Arguments,
    references: &[String],
    out: &mut impl Write,
    err: &mut impl Write,
) -> anyhow::Result<usize> {
    let server = arguments.reach.server(config)?;
    let platforms: Vec<String> = match &arguments.platform[..] {
        _ if arguments.all_platforms => vec![ALL_PLATFORMS.to_owned()],
        [] => vec![Platform::of_this_machine().to_string()],
        some => some.iter().map(ToString::to_string).collect(),
    };
    let orders = references.iter().map(|reference| {
        let (platforms, server) = (platforms.clone(), &server);
        let order = Order { reference: reference.clone(), platforms, refresh: arguments.refresh };
        async move { told(server, order).await }.try_flatten_stream().boxed()
    });
    let mut lines = stream::iter(orders).flatten_unordered(AT_ONCE);
    let mut shown = text::Shown::new(references, !arguments.json && std::io::stderr().is_terminal());
    while let Some(line) = lines.next().await {
        let line = line?;
        shown.note(&line);
        if arguments.json {
            writeln!(out, "{}", serde_json::to_string(&line)?)?;
        } else {
            shown.show(&line, out, err)?;
        }
    }
    shown.clear(err)?;
    Ok(shown.n_failed())
}

/// What the server tells of one order. A server that is lost on the way is that reference's failure.
async fn told(
    server: &InstanceUrl,
    order: Order,
) -> anyhow::Result<impl futures::Stream<Item = anyhow::Result<Line>> + use<>> {
    let reference = order.reference.clone();
    let lines = match admin_api::post_for_lines(server, "/api/v1/warm", &order).await {
        Ok(lines) => lines.boxed(),
        Err(failure @ (Failure::Broken { .. } | Failure::Refused { status: 400..=499, .. })) => {
            stream::iter([Err(failure)]).boxed()
        }
        Err(failure @ Failure::NoServer { .. }) => {
            return Err(anyhow::Error::new(failure).context(
                "warm needs a running server: start one with `entrepot serve`, or say with --server where it is",
            ));
        }
        Err(failure) => return Err(failure.into()),
    };
    Ok(stream::unfold(Some((lines, reference)), |state| async move {
        let (mut lines, reference) = state?;
        match lines.next().await {
            None => Some((Ok(text::lost(&reference, "the server ended the answer early")), None)),
            Some(Err(failure)) => Some((Ok(text::lost(&reference, &failure.to_string())), None)),
            Some(Ok(line)) => {
                let line: Line = line;
                let has_ended = matches!(line.event, Event::Ended(_));
                Some((Ok(line), (!has_ended).then_some((lines, reference))))
            }
        }
    }))
}
