//! The command line: argv → command → exit code.

mod admin_api;
pub mod backup;
pub mod check_config;
pub mod instance_url;
pub mod ls;
pub mod pin;
pub mod retention;
pub mod rm;
pub mod scrub;
pub mod serve;
pub mod setup;
mod sizes;
mod steer;
mod table;
mod upstreams;
pub mod warm;
pub mod why;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::config::{self, LoadedConfig, ServeFlags};
use crate::report::Chain;

/// A pull-through caching mirror registry for container images.
#[derive(Debug, Parser)]
#[command(name = "entrepot", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the registry.
    Serve(ServeFlags),
    /// Say what the configuration means, and what is wrong with it.
    CheckConfig {
        #[command(flatten)]
        flags: ServeFlags,
        /// Print JSON instead of YAML.
        #[arg(long)]
        json: bool,
    },
    /// Say why a reference is answered as it is, and what the next pull would do.
    Why {
        #[command(flatten)]
        arguments: why::Arguments,
        #[command(flatten)]
        flags: ServeFlags,
    },
    /// List what is kept here: repositories, or the tags of those that a pattern matches.
    Ls {
        #[command(flatten)]
        arguments: ls::Arguments,
        #[command(flatten)]
        flags: ServeFlags,
    },
    /// Keep something from eviction, or list what is kept so.
    Pin {
        #[command(flatten)]
        arguments: pin::Arguments,
        #[command(flatten)]
        flags: ServeFlags,
    },
    /// Remove a tag, a manifest or a repository.
    Rm {
        #[command(flatten)]
        arguments: rm::Arguments,
        #[command(flatten)]
        flags: ServeFlags,
    },
    /// Delete pushed content that no rule of retention keeps, or say what that would be.
    Retention {
        #[command(flatten)]
        arguments: retention::Arguments,
        #[command(flatten)]
        flags: ServeFlags,
    },
    /// Have a running server bring references into its cache, before they are pulled.
    Warm {
        #[command(flatten)]
        arguments: warm::Arguments,
        #[command(flatten)]
        flags: ServeFlags,
    },
    /// Look through a store at rest for damage, and repair it.
    Scrub {
        #[command(flatten)]
        arguments: scrub::Arguments,
        #[command(flatten)]
        flags: ServeFlags,
    },
    /// Copy the index into a file, also while the server runs.
    Backup {
        #[command(flatten)]
        arguments: backup::Arguments,
        #[command(flatten)]
        flags: ServeFlags,
    },
    /// Say what to paste where, so that a client pulls through this instance.
    Setup {
        #[command(flatten)]
        arguments: setup::Arguments,
        #[command(flatten)]
        flags: ServeFlags,
    },
    /// Print what makes a shell complete this command line.
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

/// Runs what the command line says. 0 done, 1 failed, 2 wrong usage.
pub fn main() -> ExitCode {
    let Arguments { command } = Arguments::parse();
    match command {
        Command::Serve(flags) => with_config(&flags, |loaded| {
            #[cfg(debug_assertions)]
            flags.crash_at.as_deref().map(crate::fault::crash_at).transpose()?;
            serve::run(&loaded)
        }),
        Command::CheckConfig { flags, json } => with_config(&flags, |loaded| {
            check_config::run(&loaded, json, &mut std::io::stdout().lock(), &mut std::io::stderr().lock())?;
            Ok(())
        }),
        Command::Why { arguments, flags } => {
            with_config(&flags, |loaded| why::run(&loaded.config, &arguments, &mut std::io::stdout().lock()))
        }
        Command::Ls { arguments, flags } => {
            with_config(&flags, |loaded| ls::run(&loaded.config, &arguments, &mut std::io::stdout().lock()))
        }
        Command::Pin { arguments, flags } => {
            with_config(&flags, |loaded| pin::run(&loaded.config, &arguments, &mut std::io::stdout().lock()))
        }
        Command::Rm { arguments, flags } => {
            with_config(&flags, |loaded| rm::run(&loaded.config, &arguments, &mut std::io::stdout().lock()))
        }
        Command::Retention { arguments, flags } => {
            with_config(&flags, |loaded| retention::run(&loaded.config, &arguments, &mut std::io::stdout().lock()))
        }
        Command::Warm { arguments, flags } => with_config(&flags, |loaded| {
            warm::run(&loaded.config, &arguments, &mut std::io::stdout().lock(), &mut std::io::stderr().lock())
        }),
        Command::Scrub { arguments, flags } => {
            with_config(&flags, |loaded| scrub::run(&loaded.config, &arguments, &mut std::io::stdout().lock()))
        }
        Command::Backup { arguments, flags } => {
            with_config(&flags, |loaded| backup::run(&loaded.config, &arguments, &mut std::io::stdout().lock()))
        }
        Command::Setup { arguments, flags } => with_config(&flags, |loaded| {
            setup::run(&loaded.config, &arguments, &mut std::io::stdout().lock(), &mut std::io::stderr().lock())?;
            Ok(())
        }),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "entrepot", &mut std::io::stdout().lock());
            ExitCode::SUCCESS
        }
    }
}

fn with_config(flags: &ServeFlags, command: impl FnOnce(LoadedConfig) -> anyhow::Result<()>) -> ExitCode {
    let result = match config::load(flags) {
        Ok(loaded) => command(loaded),
        Err(error) => {
            eprintln!("{}", Chain(&error));
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("entrepot: {error:#}");
            ExitCode::FAILURE
        }
    }
}
