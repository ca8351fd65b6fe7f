//! `entrepot hash-password NAME`: the line of a user for `auth.htpasswd`.

use std::io::{self, BufRead as _, IsTerminal as _, Write};

use anyhow::{Context as _, bail};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use secrecy::{ExposeSecret as _, SecretString};

use crate::config::is_user;

/// What is to be hashed.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The user's name
    #[arg(value_name = "NAME")]
    pub name: String,
    /// What one attempt to log in costs: each step doubles it
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(4..=15))]
    pub cost: u32,
}

/// bcrypt looks at no more, and what it does not look at protects nothing.
const PASSWORD_BYTES_MAX: usize = 71;

/// Reads the password from the terminal, or the first line of standard input, and prints `NAME:HASH`.
pub fn run(arguments: &Arguments, out: &mut impl Write) -> anyhow::Result<()> {
    if !is_user(&arguments.name) {
        bail!("a user's name is of 1 to 255 characters without `:` and `+`");
    }
    let password = if io::stdin().is_terminal() { ask()? } else { line()? };
    writeln!(out, "{}", hashed(&arguments.name, &password, arguments.cost)?)?;
    Ok(())
}

fn hashed(name: &str, password: &SecretString, cost: u32) -> anyhow::Result<String> {
    match password.expose_secret().len() {
        0 => bail!("the password is empty"),
        1..=PASSWORD_BYTES_MAX => {}
        _ => bail!("the password has more than {PASSWORD_BYTES_MAX} bytes, beyond which bcrypt does not look"),
    }
    let hash = bcrypt::hash_with_result(password.expose_secret(), cost).context("hashing")?;
    Ok(format!("{name}:{}", hash.format_for_version(bcrypt::Version::TwoY)))
}

fn line() -> anyhow::Result<SecretString> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).context("reading the password")?;
    Ok(line.trim_end_matches(['\r', '\n']).into())
}

fn ask() -> anyhow::Result<SecretString> {
    let _quiet = Quiet::start().context("switching off the terminal's echo")?;
    let mut given = Vec::new();
    for prompt in ["Password: ", "Again: "] {
        eprint!("{prompt}");
        given.push(line()?);
        eprintln!();
    }
    if given[0].expose_secret() != given[1].expose_secret() {
        bail!("these are two different passwords");
    }
    Ok(given.swap_remove(0))
}

/// A terminal that does not show what is typed, until this is dropped.
struct Quiet(Termios);

impl Quiet {
    fn start() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Flush, &quiet)?;
        Ok(Self(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // Nothing more can be done for a terminal that is gone.
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_one_that_the_configuration_reads() {
        let line = hashed("alice", &"correct horse".into(), 4).unwrap();
        assert!(line.starts_with("alice:$2y$04$"), "{line}");
        let users = crate::config::parse_htpasswd(&line).unwrap();
        assert!(bcrypt::verify("correct horse", users[0].password.expose_secret()).unwrap());
    }

    #[test]
    fn what_bcrypt_would_not_look_at_is_refused() {
        assert!(hashed("alice", &"".into(), 4).is_err());
        assert!(hashed("alice", &"x".repeat(71).into(), 4).is_ok());
        assert!(hashed("alice", &"x".repeat(72).into(), 4).is_err());
    }
}
