//! `entrepot ls`: what is kept here, by repository or by tag.

use std::io::Write;

use globset::GlobMatcher;
use http::Method;
use serde::Serialize;

use super::sizes::size;
use super::steer::{Question, Steering, at_rest, block_on};
use super::table;
use super::why::text::distance;
use crate::clock::Clock;
use crate::config::{Config, units};
use crate::http::admin::Moment;
use crate::http::admin::content::{PAGE, Repositories, Repository, Tag, Tags};
use crate::metadata::Metadata;
use crate::oci::RepositoryName;

/// The endpoint.
const PATH: &str = "/api/v1/content";

/// What is to be listed.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The tags of the repositories that this matches, such as docker.io/library/* or team/**; without it every repository
    #[arg(value_name = "PATTERN", value_parser = pattern)]
    pub pattern: Option<GlobMatcher>,
    #[command(flatten)]
    pub steering: Steering,
}

fn pattern(text: &str) -> Result<GlobMatcher, globset::Error> {
    Ok(units::glob(text)?.compile_matcher())
}

/// A tag of one of several repositories.
#[derive(Serialize)]
struct Listed {
    repository: String,
    #[serde(flatten)]
    tag: Tag,
}

/// Where the lists come from.
enum From {
    Server,
    Store(Metadata),
}

/// Prints the list.
pub fn run(config: &Config, arguments: &Arguments, out: &mut impl Write) -> anyhow::Result<()> {
    let now = Moment(Clock::System.now_ms());
    let json = arguments.steering.json;
    let Some(pattern) = &arguments.pattern else {
        let repositories = block_on(async {
            let from = source(config, &arguments.steering).await?;
            repositories(config, &arguments.steering, &from).await
        })?;
        return if json { print_json(&repositories, out) } else { print_repositories(&repositories, now, out) };
    };
    let tags = block_on(tags(config, &arguments.steering, pattern))?;
    if json { print_json(&tags, out) } else { print_tags(&tags, now, out) }
}

fn print_json(list: &impl Serialize, out: &mut impl Write) -> anyhow::Result<()> {
    writeln!(out, "{}", serde_json::to_string_pretty(list)?)?;
    Ok(())
}

fn print_repositories(repositories: &[Repository], now: Moment, out: &mut impl Write) -> anyhow::Result<()> {
    let rows: Vec<[String; 6]> = repositories
        .iter()
        .map(|repository| {
            [
                repository.name.clone(),
                origin(repository.pushed).to_owned(),
                repository.tags.to_string(),
                repository.manifests.to_string(),
                size(repository.stored_bytes),
                repository.used_at.map_or_else(String::new, |used| format!("{} ago", distance(used, now))),
            ]
        })
        .collect();
    table::print(out, ["REPOSITORY", "FROM", "TAGS", "MANIFESTS", "SIZE", "LAST USED"], &rows)?;
    Ok(())
}

fn print_tags(tags: &[Listed], now: Moment, out: &mut impl Write) -> anyhow::Result<()> {
    let rows: Vec<[String; 6]> = tags
        .iter()
        .map(|Listed { repository, tag }| {
            let kept = if tag.pinned { "pinned" } else { "" };
            let here = match tag.missing_blobs {
                0 => "all".to_owned(),
                missing => format!("{} of {}", tag.blobs - missing, tag.blobs),
            };
            [
                format!("{repository}:{}", tag.name),
                format!("{} {kept}", origin(tag.pushed)),
                tag.digest.chars().take("sha256:".len() + 12).collect(),
                here,
                size(tag.stored_bytes),
                format!("{} ago", distance(tag.used_at, now)),
            ]
        })
        .collect();
    table::print(out, ["REFERENCE", "FROM", "DIGEST", "BLOBS HERE", "SIZE", "LAST USED"], &rows)?;
    Ok(())
}

fn origin(pushed: bool) -> &'static str {
    if pushed { "pushed" } else { "cached" }
}

/// The server, if one answers.
async fn source(config: &Config, steering: &Steering) -> anyhow::Result<From> {
    // A page that begins behind every name: whether anybody answers is all that is asked.
    let question = Question { method: Method::GET, path: PATH, parameters: &[("after", "~")] };
    match steering.ask::<Repositories>(config, &question).await? {
        Some(_) => Ok(From::Server),
        None => Ok(From::Store(at_rest(config).await?)),
    }
}

async fn repositories(config: &Config, steering: &Steering, from: &From) -> anyhow::Result<Vec<Repository>> {
    let mut all: Vec<Repository> = Vec::new();
    loop {
        let after = all.last().map(|last| last.name.clone());
        let page = match from {
            From::Store(store) => Repositories::new(store.list_holdings(after.as_deref(), PAGE).await?),
            From::Server => {
                let parameters = Vec::from_iter(after.as_deref().map(|after| ("after", after)));
                asked(config, steering, &parameters).await?
            }
        };
        all.extend(page.repositories);
        if !page.more {
            return Ok(all);
        }
    }
}

async fn tags(config: &Config, steering: &Steering, pattern: &GlobMatcher) -> anyhow::Result<Vec<Listed>> {
    let from = source(config, steering).await?;
    let mut all = Vec::new();
    for repository in repositories(config, steering, &from).await? {
        if !pattern.is_match(&repository.name) {
            continue;
        }
        let mut after: Option<String> = None;
        loop {
            let page = match &from {
                From::Store(store) => {
                    let name: RepositoryName = repository.name.parse()?;
                    let rows = store.list_tag_holdings(&name, after.as_deref(), PAGE).await?;
                    Tags::new(&name, rows)
                }
                From::Server => {
                    let mut parameters = vec![("repository", repository.name.as_str())];
                    parameters.extend(after.as_deref().map(|after| ("after", after)));
                    asked(config, steering, &parameters).await?
                }
            };
            after = page.tags.last().map(|tag| tag.name.clone());
            all.extend(page.tags.into_iter().map(|tag| Listed { repository: repository.name.clone(), tag }));
            if !page.more {
                break;
            }
        }
    }
    Ok(all)
}

async fn asked<T: serde::de::DeserializeOwned>(
    config: &Config,
    steering: &Steering,
    parameters: &[(&str, &str)],
) -> anyhow::Result<T> {
    let question = Question { method: Method::GET, path: PATH, parameters };
    let answer = steering.ask(config, &question).await?;
    answer.ok_or_else(|| anyhow::anyhow!("the server went away"))
}
