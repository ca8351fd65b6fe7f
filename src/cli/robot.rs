//! `entrepot robot create | list | revoke`: names for programs. A running server is asked; where none runs, the store is changed.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use clap::{Args, Subcommand};
use secrecy::ExposeSecret as _;

use super::admin_api::{self, Failure};
use super::instance_url::InstanceUrl;
use super::reach::Reach;
use crate::auth::Robots;
use crate::clock::Clock;
use crate::config::Config;
use crate::http::admin::robots::{Listed, RobotShown, RobotWanted};
use crate::metadata::{self, Metadata};
use crate::storage::Store;

/// What is to be done with robots.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    reach: Reach,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a robot and print its token, which is shown this once.
    Create {
        /// Lower-case letters, digits, `.`, `-` and `_`
        name: String,
        /// What it may do: pull, push, delete, separated by commas
        #[arg(long, value_delimiter = ',', default_value = "pull", value_parser = ["pull", "push", "delete"])]
        allow: Vec<String>,
        /// Where: patterns such as 'team-a/**', separated by commas or given several times
        #[arg(long, value_delimiter = ',', required = true, value_name = "PATTERN")]
        repositories: Vec<String>,
        /// For how long, such as 90days; for ever, without
        #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
        expires: Option<Duration>,
    },
    /// List the robots.
    List,
    /// Let a robot in no more, from now on.
    Revoke {
        /// Its name
        name: String,
    },
}

/// Runs the command.
pub fn run(config: &Config, arguments: &Arguments, out: &mut impl Write) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    let server = arguments.reach.server(config)?;
    let done = match runtime.block_on(ask(&server, &arguments.command)) {
        Err(Failure::NoServer { .. }) if !arguments.reach.is_named() => {
            let changed = runtime.block_on(at_rest(config, &arguments.command));
            changed.with_context(|| format!("no server answers at {server}, and the store"))?
        }
        done => done?,
    };
    tell(done, arguments.json, out)
}

enum Done {
    Created(RobotShown),
    Listed(Listed),
    Revoked(String),
}

fn wanted(command: &Command) -> Option<RobotWanted> {
    let Command::Create { name, allow, repositories, expires } = command else { return None };
    let lifetime_seconds = expires.map(|expires| expires.as_secs());
    Some(RobotWanted { name: name.clone(), allow: allow.clone(), repositories: repositories.clone(), lifetime_seconds })
}

async fn ask(server: &InstanceUrl, command: &Command) -> Result<Done, Failure> {
    Ok(match command {
        Command::List => Done::Listed(admin_api::get(server, "/api/v1/robots", &[]).await?),
        Command::Create { .. } => Done::Created(admin_api::post(server, "/api/v1/robots", &wanted(command)).await?),
        Command::Revoke { name } => {
            admin_api::delete(server, &format!("/api/v1/robots/{name}")).await?;
            Done::Revoked(name.clone())
        }
    })
}

async fn at_rest(config: &Config, command: &Command) -> anyhow::Result<Done> {
    let store = Store::open(&config.storage.path, false)?;
    let metadata = Metadata::open(metadata::Options::new(store.index_path())).await?;
    let done = change(&metadata, command).await;
    metadata.close().await;
    done
}

async fn change(metadata: &Metadata, command: &Command) -> anyhow::Result<Done> {
    let robots = Robots::open(metadata.clone()).await?;
    Ok(match command {
        Command::List => Done::Listed(Listed {
            robots: robots.list().into_iter().map(|robot| RobotShown::of(robot, None)).collect(),
        }),
        Command::Create { .. } => {
            let wanted = wanted(command).and_then(RobotWanted::parsed).ok_or_else(|| anyhow!("nothing is allowed"))?;
            let (robot, token) = robots.create(wanted, Clock::System.now_ms()).await?;
            Done::Created(RobotShown::of(robot, Some(token.expose_secret().to_owned())))
        }
        Command::Revoke { name } => {
            if !robots.revoke(name).await? {
                bail!("there is no robot {name}");
            }
            Done::Revoked(name.clone())
        }
    })
}

fn tell(done: Done, json: bool, out: &mut impl Write) -> anyhow::Result<()> {
    match done {
        Done::Created(robot) if json => writeln!(out, "{}", serde_json::to_string_pretty(&robot)?)?,
        Done::Listed(listed) if json => writeln!(out, "{}", serde_json::to_string_pretty(&listed)?)?,
        Done::Created(robot) => {
            writeln!(out, "user name  {}", robot.username)?;
            writeln!(out, "password   {}", robot.token.unwrap_or_default())?;
            writeln!(out, "The password is not shown again. Log in with: docker login -u {}", robot.username)?;
        }
        Done::Listed(listed) => {
            writeln!(out, "{:<24} {:<16} {:<24} REPOSITORIES", "ROBOT", "MAY", "UNTIL")?;
            for robot in listed.robots {
                let until = robot.expires_at.map_or_else(|| "-".to_owned(), |moment| moment.to_string());
                let (allow, repositories) = (robot.allow.join(","), robot.repositories.join(" "));
                writeln!(out, "{:<24} {allow:<16} {until:<24} {repositories}", robot.name)?;
            }
        }
        Done::Revoked(name) => writeln!(out, "robot {name} is let in no more")?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Permission;

    #[test]
    fn the_command_line_knows_every_permission() {
        for permission in Permission::ALL {
            let allow = vec![permission.as_str().to_owned()];
            let wanted =
                RobotWanted { name: "r".into(), allow, repositories: vec!["**".into()], lifetime_seconds: None };
            assert!(wanted.parsed().is_some_and(|robot| robot.allow.has(permission)));
        }
    }
}
