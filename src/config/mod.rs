//! Configuration: file, environment and flags merged into one validated, immutable [`Config`].
//!
//! ```text
//! file ─ yaml ─┐
//! variables ───┼─ tree (every value knows where it was written) ─ read ─ raw ─ validate ─ Config
//! flags ───────┘
//! ```
//! Later layers win key by key; `upstreams` given in the file replaces the built-in ones. Every fault names its line
//! or variable, all of them at once. Only the command line reads this: a room takes its own small options struct.

mod access;
mod acme;
mod auth;
mod diagnose;
mod env;
mod flags;
mod keeping;
mod keys;
mod load;
mod network;
mod oidc;
mod raw;
mod read;
mod sections;
mod server_tls;
mod source;
mod sources;
mod token_server;
mod tree;
pub mod units;
mod upstream;
mod validate;
mod webhooks;
mod yaml;

#[cfg(test)]
mod tests;

use serde::Serialize;

pub use self::{
    acme::{Acme, AcmeFault, ExternalAccount},
    auth::{AccessRule, Account, Allowed, Anonymous, Auth, CertificateName, Htpasswd, Who, is_user, parse_htpasswd},
    diagnose::{Error, Fault, Problem},
    flags::ServeFlags,
    keeping::{RepositoryQuota, Retention, pin_globs},
    load::{LoadedConfig, load},
    network::Network,
    oidc::{Oidc, OidcFault, Patterns},
    sections::{Audit, Cache, Gc, Http, Log, LogFormat, ProxyProtocol, Push, Sparse, Storage},
    server_tls::{ClientCertificates, ServerTls, TlsVersion},
    source::{Credentials, Identity, Password, Patience, Pem, Route, Source, Tls},
    token_server::{TokenServer, TokenServerFault},
    tree::{KeyPath, Origin, Step},
    units::Limit,
    upstream::{OnUpstream404, Prefetch, TagRule, Upstream, Visibility},
    webhooks::{HeaderValue, Secret, Webhook, WebhookEvent, WebhookUrl},
};

/// Everything an operator can decide, with every default filled in.
///
/// Serialised it is the effective configuration as YAML would write it, passwords redacted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Config {
    /// The port clients speak to.
    pub http: Http,
    /// Where everything is kept.
    pub storage: Storage,
    /// What is kept of the upstreams.
    pub cache: Cache,
    /// What clients may upload.
    pub push: Push,
    /// When what nobody needs any more is removed.
    pub gc: Gc,
    /// Globs ([`units::glob`]) of repositories where pushed tags come first and the upstream answers the rest.
    pub overlay: Vec<String>,
    /// Globs ([`units::glob`]) of repositories no upstream is ever asked about.
    pub local_only: Vec<String>,
    /// Bounds on what repositories hold.
    pub quotas: Vec<RepositoryQuota>,
    /// Patterns of what is kept from eviction, `REPOSITORY:TAG` ([`pin_globs`]).
    pub pin: Vec<String>,
    /// What stays of pushed content.
    pub retention: Vec<Retention>,
    /// Who may do what; without it the rest of the world may pull.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    /// What is logged.
    pub log: Log,
    /// Who did what.
    #[serde(skip_serializing_if = "Audit::is_off")]
    pub audit: Audit,
    /// Who is told what happened, ordered by name.
    #[serde(serialize_with = "webhooks::by_name", skip_serializing_if = "Vec::is_empty")]
    pub webhooks: Vec<Webhook>,
    /// The closed world of registries that are ever contacted, ordered by name.
    #[serde(serialize_with = "source::by_name")]
    pub upstreams: Vec<Upstream>,
    /// Whether no upstream is asked at all.
    pub offline: bool,
}

impl Config {
    /// The upstream of names without a host.
    pub fn default_upstream(&self) -> Option<&Upstream> {
        self.upstreams.iter().find(|upstream| upstream.is_default)
    }
}

impl Default for Config {
    /// What is served without any configuration file.
    fn default() -> Self {
        load::assemble(&load::Layers::default(), load::secret_from_file)
            .expect("the built-in configuration is valid, as a test shows")
            .0
    }
}
