//! One upstream, validated.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::Url;

use super::{
    source::{Identity, Patience, Route, Source, Tls},
    units,
};

/// A registry that content is fetched from; the shape printed is the shape read, but for passwords.
/// `url`, `identity` and `further` are printed by whoever prints the whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Upstream {
    /// The host in the names of its content, `host` or `host:port`; the key of the map.
    #[serde(skip)]
    pub name: String,
    /// Where its API is; http or https, without credentials, query or fragment. Asked first.
    #[serde(skip)]
    pub url: Url,
    /// Who we are at `url`.
    #[serde(skip)]
    pub identity: Identity,
    /// Where else its content can be had; asked in this order when `url` fails.
    #[serde(skip)]
    pub further: Vec<Source>,
    /// Whether it is a mirror of several registries that has to be told by `?ns=` which one is meant.
    pub send_ns: bool,
    /// Whether names without a host are its names; true for one at most.
    #[serde(rename = "default")]
    pub is_default: bool,
    /// Host headers that mean this upstream, in lower case; no other upstream has them.
    pub hosts: Vec<String>,
    /// For the programs that know credentials.
    #[serde(flatten)]
    pub patience: Patience,
    /// Token services that any source may send us to, besides those of its own domain: `host` or `host:port`.
    pub realms: Vec<String>,
    /// Certificates, theirs and ours.
    #[serde(skip_serializing_if = "is_default")]
    pub tls: Tls,
    /// The way there.
    #[serde(rename = "proxy", skip_serializing_if = "Route::is_system")]
    pub route: Route,
    /// Who may pull what is cached of it.
    pub visibility: Visibility,
    /// With [`Visibility::Passthrough`], how long credentials that were good are taken to be good.
    #[serde(with = "units::duration")]
    pub access_ttl: Duration,
    /// How long a tag is served without asking again.
    #[serde(with = "units::duration")]
    pub revalidate_after: Duration,
    /// How long a list of tags is served without asking again.
    #[serde(with = "units::duration")]
    pub revalidate_lists_after: Duration,
    /// How long a tag may be served when the upstream cannot be asked; `None` is forever.
    #[serde(with = "units::duration_or_forever")]
    pub stale_for: Option<Duration>,
    /// With a stale answer at hand, how long to wait for the upstream.
    #[serde(with = "units::duration")]
    pub stale_after_wait: Duration,
    /// How long a "not found" is remembered.
    #[serde(with = "units::duration")]
    pub negative_ttl: Duration,
    /// Requests of its rate limit that are kept for what is not cached: below it, tags go stale instead of being asked.
    pub rate_reserve: u64,
    /// For the TCP and TLS handshakes; not zero.
    #[serde(with = "units::duration")]
    pub connect_timeout: Duration,
    /// From request to the first byte of the answer; not zero.
    #[serde(with = "units::duration")]
    pub first_byte_timeout: Duration,
    /// Between two bytes of a body; not zero.
    #[serde(with = "units::duration")]
    pub no_progress_timeout: Duration,
    /// Attempts after the first one, while none makes progress.
    pub retries: u32,
    /// Requests at a time for one large blob; not zero.
    pub parallel: usize,
    /// How much of a large blob one of them asks for; not zero.
    #[serde(rename = "piece_size", with = "units::bytes")]
    pub piece_bytes: u64,
    /// Transfers of blobs at a time; not zero.
    pub connections_max: usize,
    /// Bytes of blobs per second; `None` is as fast as they come.
    #[serde(rename = "bandwidth_max", with = "units::bytes_or_unlimited")]
    pub bandwidth_max_bytes: Option<u64>,
    /// Whether blobs are fetched before they are asked for.
    pub prefetch: Prefetch,
    /// Blobs fetched ahead at a time; not zero.
    pub prefetch_max: usize,
    /// Globs ([`units::glob`]) of tags that never change.
    pub immutable_tags: Vec<String>,
    /// Other times for some tags; the first rule that fits a tag counts.
    pub tags: Vec<TagRule>,
    /// What becomes of a cached tag the upstream no longer has.
    pub on_upstream_404: OnUpstream404,
    /// What may be held of it, in bytes; `None` is whatever the cache has room for.
    #[serde(rename = "quota", with = "units::bytes_or_unlimited")]
    pub quota_bytes: Option<u64>,
}

/// One of `tags`: how long the tags that match a pattern are served without asking again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TagRule {
    /// A glob ([`units::glob`]).
    pub pattern: String,
    /// How long.
    #[serde(with = "units::duration")]
    pub revalidate_after: Duration,
}

/// `visibility`: who may pull what is cached of an upstream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Visibility {
    /// Whoever may ask this registry.
    #[default]
    Everyone,
    /// Whoever has signed in here; takes `auth`.
    Authenticated,
    /// Whose own credentials are good at the upstream.
    Passthrough,
}

/// `on_upstream_404`: what becomes of a cached tag the upstream no longer has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnUpstream404 {
    /// It is served as stale.
    #[default]
    Serve,
    /// It is gone here too.
    Forget,
}

/// `prefetch`: whether blobs are fetched before they are asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Prefetch {
    /// With the first layer of an image that a client pulls, the others are fetched too.
    #[default]
    #[serde(rename = "on_pull")]
    OnPull,
    /// Never.
    #[serde(rename = "off")]
    Off,
}

fn is_default(tls: &Tls) -> bool {
    *tls == Tls::default()
}
