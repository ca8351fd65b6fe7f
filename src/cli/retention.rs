//! `entrepot retention`: deletes what the rules of the configuration do not keep of pushed content, or says what that would be.

use std::io::Write;

use http::Method;

use super::serve::retention_rules;
use super::steer::{Question, Steering, at_rest, block_on, change_at_rest};
use super::table;
use crate::clock::Clock;
use crate::config::Config;
use crate::http::admin::retention::Retained;
use crate::registry::retention::plan;

/// The endpoint.
const PATH: &str = "/api/v1/retention";

/// Whether it is only to be told.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Delete nothing: say what would go, and why
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub steering: Steering,
}

/// Applies the rules, or says what they come to.
pub fn run(config: &Config, arguments: &Arguments, out: &mut impl Write) -> anyhow::Result<()> {
    let retained = block_on(retain(config, arguments))?;
    if arguments.steering.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&retained)?)?;
        return Ok(());
    }
    let rows: Vec<[String; 3]> =
        retained.expired.iter().map(|one| [one.reference.clone(), one.rule.clone(), one.why.clone()]).collect();
    table::print(out, ["REFERENCE", "RULE", "WHY"], &rows)?;
    let (number, verb) = (rows.len(), if retained.deleted { "deleted" } else { "would be deleted" });
    writeln!(out, "{number} {verb}")?;
    Ok(())
}

async fn retain(config: &Config, arguments: &Arguments) -> anyhow::Result<Retained> {
    let method = if arguments.dry_run { Method::GET } else { Method::PUT };
    if let Some(told) = arguments.steering.ask(config, &Question { method, path: PATH, parameters: &[] }).await? {
        return Ok(told);
    }
    if arguments.dry_run {
        let index = at_rest(config).await?;
        let expired = plan(&index, &retention_rules(config)?, Clock::System.now_ms()).await;
        index.close().await;
        return Ok(Retained::new(expired?, false));
    }
    change_at_rest(config, async |registry| Ok(Retained::new(registry.apply_retention().await?, true))).await
}
