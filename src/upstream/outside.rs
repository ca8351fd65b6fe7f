//! Files with secrets and programs that know some: the only place of this room that reads either.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::credentials::Programs;

/// Bytes of an answer or a file that are looked at.
const BYTES_MAX: usize = 1024 * 1024;

/// Why a program gave no credentials. Never holds what the program printed: that may be the secret.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    #[error("cannot be run: {0}")]
    Unusable(io::Error),
    #[error("gave no answer within {0:?}")]
    TooSlow(Duration),
    #[error("ended with {0}")]
    Failed(ExitStatus),
    #[error("does not know the server")]
    NotFound,
    #[error("answered with more than {BYTES_MAX} bytes, or with bytes that are no text")]
    Unreadable,
}

/// What a file says now.
pub async fn read(file: &Path) -> io::Result<SecretString> {
    #[expect(
        clippy::disallowed_methods,
        reason = "secrets are rotated while the registry serves; this is where they are read"
    )]
    let text = tokio::fs::read_to_string(file).await?;
    if text.len() > BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "too long for a file of secrets"));
    }
    Ok(text.into())
}

/// What `docker-credential-NAME get` answers for a server: docker's protocol, the server on standard input and JSON on
/// standard output. A program that is not waited for any more is killed.
pub async fn ask_program(programs: &Programs, name: &str, server: &str) -> Result<SecretString, ProgramError> {
    let program = PathBuf::from(format!("docker-credential-{name}"));
    let program = programs.folder.as_ref().map_or_else(|| program.clone(), |folder| folder.join(&program));
    let timeout = programs.timeout;
    let running = async {
        let (reader, mut writer) = io::pipe()?;
        // Far less than a pipe holds, so this does not wait for the program to read it.
        writer.write_all(server.as_bytes())?;
        drop(writer);
        let mut command = tokio::process::Command::new(&program);
        command.arg("get").stdin(Stdio::from(reader)).stderr(Stdio::null()).kill_on_drop(true);
        command.output().await
    };
    let ended = tokio::time::timeout(timeout, running).await.map_err(|_| ProgramError::TooSlow(timeout))?;
    let output = ended.map_err(ProgramError::Unusable)?;
    let text = String::from_utf8(output.stdout).ok().filter(|text| text.len() <= BYTES_MAX);
    let text = SecretString::from(text.ok_or(ProgramError::Unreadable)?);
    if output.status.success() {
        Ok(text)
    } else if text.expose_secret().contains("credentials not found") {
        Err(ProgramError::NotFound)
    } else {
        Err(ProgramError::Failed(output.status))
    }
}
