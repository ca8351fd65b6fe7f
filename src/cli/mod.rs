//! The command line: argv → command → exit code.

mod access;
mod admin_api;
pub mod backup;
pub mod check_config;
mod door;
mod export;
pub mod gc;
mod hash_password;
mod import;
pub mod instance_url;
mod issuing;
pub mod ls;
pub mod pin;
mod pinned;
mod reach;
mod reconfigure;
pub mod reload;
pub mod retention;
pub mod rm;
mod robot;
pub mod scrub;
pub mod serve;
pub mod setup;
mod sizes;
mod steer;
mod table;
mod trail;
mod unserved;
mod upstreams;
pub mod warm;
mod webhooks;
pub mod why;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::config::{self, LoadedConfig, ServeFlags};
use crate::report::Chain;

/// A pull-through caching mirror registry for container images.
#[derive(Debug, Parser)]
#[command(name = "entrepot", version, about, disable_help_subcommand = true)]
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
    /// Write images, with all that belongs to them, as an OCI image layout.
    Export {
        #[command(flatten)]
        arguments: export::Arguments,
        #[command(flatten)]
        flags: ServeFlags,
    },
    /// Take the images of an OCI image layout in.
    Import {
        #[command(flatten)]
        arguments: import::Arguments,
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
    /// Remove what nobody needs any more.
    Gc {
        #[command(flatten)]
        arguments: gc::Arguments,
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
    /// Make, list and revoke names for programs that log in.
    Robot {
        #[command(flatten)]
        arguments: robot::Arguments,
        #[command(flatten)]
        flags: ServeFlags,
    },
    /// Print a user's line for auth.htpasswd; the password is typed or piped in.
    HashPassword(hash_password::Arguments),
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
            serve::run(&flags, &loaded)
        }),
        Command::CheckConfig { flags, json } => with_config(&flags, |loaded| {
            check_config::run(&loaded, json, &mut std::io::stdout().lock(), &mut std::io::stderr().lock())?;
            Ok(())
        }),
        Command::Why { arguments, flags } => {
            with_config(&flags, |loaded| why::run(&loaded.config, &arguments, &mut std::io::stdout().lock()))
        }
        Command::Scrub { arguments, flags } => {
            with_config(&flags, |loaded| scrub::run(&loaded.config, &arguments, &mut std::io::stdout().lock()))
        }
        Command::Backup { arguments, flags } => {
            with_config(&flags, |loaded| backup::run(&loaded.config, &arguments, &mut std::io::stdout().lock()))
        }
        // The configuration may name what is only about to be made.
        Command::Setup { arguments: setup::Arguments { other: Some(setup::Other::Tls(arguments)), .. }, .. } => {
            exit_code(setup::tls::run(&arguments, &mut std::io::stdout().lock()))
        }
        Command::Export { arguments, flags } => with_config(&flags, |loaded| export::run(&loaded.config, &arguments)),
        Command::Import { arguments, flags } => with_config(&flags, |loaded| import::run(&loaded.config, &arguments)),
        Command::Warm { arguments, flags } => with_config(&flags, |loaded| {
            warm::run(&loaded.config, &arguments, &mut std::io::stdout().lock(), &mut std::io::stderr().lock())
        }),
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
        Command::Gc { arguments, flags } => {
            with_config(&flags, |loaded| gc::run(&loaded.config, &arguments, &mut std::io::stdout().lock()))
        }
        Command::Setup { arguments, flags } => with_config(&flags, |loaded| {
            setup::run(&loaded.config, &arguments, &mut std::io::stdout().lock(), &mut std::io::stderr().lock())?;
            Ok(())
        }),
        Command::Robot { arguments, flags } => {
            with_config(&flags, |loaded| robot::run(&loaded.config, &arguments, &mut std::io::stdout().lock()))
        }
        Command::HashPassword(arguments) => exit_code(hash_password::run(&arguments, &mut std::io::stdout().lock())),
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
    exit_code(result)
}

fn exit_code(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("entrepot: {error:#}");
            ExitCode::FAILURE
        }
    }
}
