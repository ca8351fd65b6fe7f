//! `entrepot setup CLIENT`: what to paste so that a client pulls through this instance, and where.

mod acme;
mod buildkit;
mod containerd;
mod containers;
mod docker;
mod instance;
mod k3s;
mod sign_in;
pub mod tls;
mod write;

use std::io::{self, Write};
use std::path::PathBuf;

use serde::Serialize;

pub use instance::Instance;
pub use write::WriteError;

use super::instance_url::InstanceUrl;
use crate::config::Config;

/// Which client, and how it reaches this instance.
#[derive(Debug, clap::Args)]
#[command(subcommand_negates_reqs = true)]
pub struct Arguments {
    /// Something else than a client
    #[command(subcommand)]
    pub other: Option<Other>,
    /// The client
    #[arg(value_enum, required = true)]
    pub client: Option<Client>,
    /// Where the client reaches this instance, scheme, host and port [default: where it listens]
    #[arg(long)]
    pub url: Option<InstanceUrl>,
    /// Write the files below this directory instead of printing them; files that exist are left alone
    #[arg(long, value_name = "DIRECTORY", conflicts_with = "json")]
    pub write: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What is set up besides clients.
#[derive(Debug, clap::Subcommand)]
pub enum Other {
    /// Make certificates for a lab, and say what to put where so that clients believe them.
    Tls(tls::Arguments),
}

/// What can be set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Client {
    /// Docker Engine
    Docker,
    /// containerd, nerdctl, and Kubernetes on it
    Containerd,
    /// podman and buildah
    Podman,
    /// buildkitd, by itself or under docker buildx
    Buildkit,
    /// k3s and RKE2
    K3s,
    /// CRI-O, and Kubernetes on it
    CriO,
    /// skopeo
    Skopeo,
}

/// What a person, or a program, has to do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Guide {
    /// Files to put in place.
    pub files: Vec<SetupFile>,
    /// Commands that make the client take them over, if it needs any.
    pub apply: Vec<String>,
    /// Commands that show whether it works.
    #[serde(rename = "try")]
    pub try_it: Vec<String>,
    /// What is worth knowing.
    pub notes: Vec<String>,
}

/// A file to put in place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SetupFile {
    /// Where.
    pub path: String,
    /// What is in it, with a line break at its end.
    pub content: String,
}

/// Why nothing was set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The files could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The output was closed or failed.
    #[error("cannot write to the output")]
    Output(#[from] io::Error),
    /// Neither a client nor anything else was named.
    #[error("name a client: entrepot setup --help lists them")]
    Nothing,
}

#[derive(Serialize)]
struct Shown<'a> {
    client: Client,
    url: &'a str,
    #[serde(flatten)]
    guide: &'a Guide,
}

/// What has to be done for `client` to pull through `instance`.
pub fn guide(client: Client, instance: &Instance) -> Guide {
    let mut guide = match client {
        Client::Docker => docker::guide(instance),
        Client::Containerd => containerd::guide(instance),
        Client::Podman | Client::CriO | Client::Skopeo => containers::guide(client, instance),
        Client::Buildkit => buildkit::guide(instance),
        Client::K3s => k3s::guide(instance),
    };
    guide.notes.extend(sign_in::notes(client, instance));
    guide
}

/// Prints or writes what has to be done. `warn` gets what the person should know of the address.
pub fn run(config: &Config, arguments: &Arguments, out: &mut impl Write, warn: &mut impl Write) -> Result<(), Error> {
    let client = arguments.client.ok_or(Error::Nothing)?;
    let url = arguments.url.clone().or_else(|| issued_for(config));
    let mut instance = Instance::new(config, url.as_ref());
    if let Some(certificate) = config.http.tls.certificate.as_deref().filter(|_| !instance.is_plain) {
        instance.authority_pem = write::read(&certificate.with_file_name(tls::CA))?;
    }
    if url.is_none() && config.http.listen.ip().is_unspecified() {
        let (scheme, port) = (if instance.is_plain { "http" } else { "https" }, config.http.listen.port());
        writeln!(warn, "note: this is for clients on this machine; for others add --url {scheme}://ITS-NAME:{port}")?;
    }
    let guide = guide(client, &instance);
    if let Some(folder) = &arguments.write {
        for path in write::write(folder, &guide.files)? {
            writeln!(out, "wrote {}", path.display())?;
        }
        let rest = Guide { files: Vec::new(), ..guide };
        return Ok(out.write_all(text(&rest).as_bytes())?);
    }
    if arguments.json {
        let shown = Shown { client, url: &instance.url, guide: &guide };
        serde_json::to_writer_pretty(&mut *out, &shown).map_err(io::Error::from)?;
        return Ok(writeln!(out)?);
    }
    Ok(out.write_all(text(&guide).as_bytes())?)
}

/// Where clients reach an instance whose certificate is issued: its port 443 leads there, or none would be issued.
fn issued_for(config: &Config) -> Option<InstanceUrl> {
    format!("https://{}", config.http.tls.acme.as_ref()?.domains.first()?).parse().ok()
}

/// For people: what is to be copied stands alone between headings.
fn text(guide: &Guide) -> String {
    let files = guide.files.iter().map(|file| format!("# {}\n{}", file.path, file.content));
    let lines = |heading: &str, lines: &[String]| match lines {
        [] => None,
        lines => Some(format!("# {heading}\n{}\n", lines.join("\n"))),
    };
    let notes: Vec<String> = guide.notes.iter().map(|note| format!("- {}", note.replace('\n', "\n  "))).collect();
    let rest = [lines("Then:", &guide.apply), lines("Try it:", &guide.try_it), lines("Worth knowing:", &notes)];
    files.chain(rest.into_iter().flatten()).collect::<Vec<_>>().join("\n")
}
