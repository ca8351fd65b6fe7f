//! Which server a command asks, and who it says it is.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;

use super::instance_url::InstanceUrl;
use crate::config::Config;

/// More than any name and password have.
const LOGIN_BYTES_MAX: u64 = 64 << 10;

/// How a command gets to a server.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Reach {
    /// The running server to ask [default: where it listens; if none does, the store is opened where that is possible]
    #[arg(long, value_name = "URL", global = true)]
    server: Option<InstanceUrl>,
    /// A file with NAME:PASSWORD for a server that asks who one is; - for the standard input
    #[arg(long, value_name = "FILE", global = true)]
    login_file: Option<PathBuf>,
}

impl Reach {
    /// Did somebody say which server? If not, the store will do where none answers.
    pub const fn is_named(&self) -> bool {
        self.server.is_some()
    }

    /// The server that was named, or the one that should listen here.
    pub fn server(&self, config: &Config) -> anyhow::Result<InstanceUrl> {
        let server = self.server.clone().unwrap_or_else(|| InstanceUrl::of(config));
        let Some(file) = &self.login_file else { return Ok(server) };
        ensure!(
            server.keeps_secrets(),
            "{server} is asked without TLS, and the password would be read by everybody between: use https://"
        );
        let header = login(file).with_context(|| format!("reading --login-file {}", file.display()))?;
        Ok(server.with_login(header))
    }
}

fn login(file: &Path) -> anyhow::Result<HeaderValue> {
    let mut text = String::new();
    if file.as_os_str() == "-" {
        std::io::stdin().lock().take(LOGIN_BYTES_MAX).read_to_string(&mut text)?;
    } else {
        #[expect(clippy::disallowed_methods, reason = "the command line names the file")]
        std::fs::File::open(file)?.take(LOGIN_BYTES_MAX).read_to_string(&mut text)?;
    }
    let line = text.trim_end_matches(['\r', '\n']);
    if line.contains(['\r', '\n']) || line.split_once(':').is_none_or(|(name, _)| name.is_empty()) {
        bail!("there has to be one line in it, NAME:PASSWORD");
    }
    let mut header = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(line)))?;
    header.set_sensitive(true);
    Ok(header)
}
