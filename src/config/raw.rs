//! The YAML shape: which keys there are and what type each has, before anything is compared with anything else.
//!
//! Sections that are valid as written live in [`super::sections`]; upstreams need work and have a raw form here.

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

use secrecy::SecretString;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};

use super::{
    auth::Auth,
    keeping::{RepositoryQuota, Retention},
    sections::{Audit, Cache, Gc, Http, Log, Push, Storage},
    tree::{KeyPath, Node, Origin},
    units,
    upstream::{OnUpstream404, Prefetch, Visibility},
    webhooks::RawWebhook,
};

/// The whole file.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Raw {
    /// See [`Http`].
    pub http: Http,
    /// See [`Storage`].
    pub storage: Storage,
    /// See [`Cache`].
    pub cache: Cache,
    /// See [`Push`].
    pub push: Push,
    /// See [`Gc`].
    pub gc: Gc,
    /// Globs of repositories where pushed tags come first and the upstream answers the rest. Default none.
    pub overlay: Vec<String>,
    /// Globs of repositories no upstream is ever asked about. Default none.
    pub local_only: Vec<String>,
    /// See [`RepositoryQuota`]. Default none.
    pub quotas: Vec<RepositoryQuota>,
    /// Globs of what is kept from eviction, `REPOSITORY:TAG`. Default none.
    pub pin: Vec<String>,
    /// See [`Retention`]. Default none: everything stays.
    pub retention: Vec<Retention>,
    /// See [`Auth`]. Default none.
    pub auth: Option<Auth>,
    /// See [`Log`].
    pub log: Log,
    /// See [`Audit`].
    pub audit: Audit,
    /// Receivers of events by name. Default none.
    pub webhooks: BTreeMap<String, RawWebhook>,
    /// Upstreams by host. Default [`default_upstreams`]; a map that is given replaces the default one.
    pub upstreams: BTreeMap<String, RawUpstream>,
    /// Ask no upstream, serve what is here. Default false.
    pub offline: bool,
}

/// One upstream as written.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawUpstream {
    /// Where its API is. Default `https://HOST`, for docker.io `https://registry-1.docker.io`.
    ///
    /// Still a text, as it may wrongly hold a password and the errors of its type would quote it.
    pub url: Option<String>,
    /// It is a mirror of several registries, entrepot for instance, and is told by `?ns=` which one is meant. Default false.
    pub send_ns: bool,
    /// Names without a host are its names. Default false.
    pub default: bool,
    /// Host headers that mean this upstream. Default none.
    pub hosts: Vec<String>,
    /// Where it can be had, in the order in which they are asked, instead of `url`. Default none.
    pub urls: Vec<RawSource>,
    /// User name. Default none: anonymous.
    pub username: Option<String>,
    /// Password or token. Default none.
    #[serde(deserialize_with = "secret")]
    pub password: Option<SecretString>,
    /// File that holds the password; relative to the working directory. Default none.
    pub password_file: Option<PathBuf>,
    /// Several users with their passwords. Default none.
    pub accounts: Option<Vec<RawAccount>>,
    /// Docker's `config.json`. Default none.
    pub docker_config: Option<PathBuf>,
    /// The NAME of a program `docker-credential-NAME`. Default none.
    pub credential_helper: Option<String>,
    /// How long such a program may take. Default `5s`.
    #[serde(deserialize_with = "units::duration::deserialize")]
    pub credential_timeout: Duration,
    /// How long its answer is good. Default `10m`.
    #[serde(deserialize_with = "units::duration::deserialize")]
    pub credential_lifetime: Duration,
    /// Hosts of token services outside of the upstream's domain. Default none.
    pub realms: Vec<String>,
    /// Certificates. Default those of the machine.
    pub tls: RawTls,
    /// A proxy's URL, or `none`. Default what the environment says.
    #[serde(deserialize_with = "secret")]
    pub proxy: Option<SecretString>,
    /// Who may pull what is cached of it. Default `everyone`.
    pub visibility: Visibility,
    /// With `visibility: passthrough`, how long credentials that were good are taken to be good. Default `5m`.
    #[serde(deserialize_with = "units::duration::deserialize")]
    pub access_ttl: Duration,
    /// Default `cache.revalidate_after`.
    #[serde(deserialize_with = "units::duration_or_inherited::deserialize")]
    pub revalidate_after: Option<Duration>,
    /// How long a list of tags is served without asking again; 0 asks every time. Default `1m`.
    #[serde(deserialize_with = "units::duration::deserialize")]
    pub revalidate_lists_after: Duration,
    /// How long after its last check a tag may still be served when the upstream cannot be asked. Default `forever`.
    #[serde(deserialize_with = "units::duration_or_forever::deserialize")]
    pub stale_for: Option<Duration>,
    /// With a stale answer at hand, wait no longer for the upstream. Default `1s`.
    #[serde(deserialize_with = "units::duration::deserialize")]
    pub stale_after_wait: Duration,
    /// How long a "not found" is remembered. Default `10s`.
    #[serde(deserialize_with = "units::duration::deserialize")]
    pub negative_ttl: Duration,
    /// Requests of its rate limit kept for what is not cached. Default 0.
    pub rate_reserve: u64,
    /// For the TCP and TLS handshakes. Default `5s`.
    #[serde(deserialize_with = "units::duration::deserialize")]
    pub connect_timeout: Duration,
    /// From request to the first byte of the answer. Default `20s`.
    #[serde(deserialize_with = "units::duration::deserialize")]
    pub first_byte_timeout: Duration,
    /// Between two bytes of a body. Default `30s`.
    #[serde(deserialize_with = "units::duration::deserialize")]
    pub no_progress_timeout: Duration,
    /// Attempts after the first one, while none makes progress. Default 3.
    pub retries: u32,
    /// Requests at a time for one large blob. Default 4.
    pub parallel: usize,
    /// How much of a large blob one of them asks for. Default `16MiB`.
    #[serde(rename = "piece_size", deserialize_with = "units::bytes::deserialize")]
    pub piece_bytes: u64,
    /// Transfers of blobs at a time. Default 32.
    pub connections_max: usize,
    /// Bytes of blobs per second. Default `unlimited`.
    #[serde(rename = "bandwidth_max", deserialize_with = "units::bytes_or_unlimited::deserialize")]
    pub bandwidth_max_bytes: Option<u64>,
    /// Whether blobs are fetched before they are asked for. Default `on_pull`.
    pub prefetch: Prefetch,
    /// Blobs fetched ahead at a time. Default 4.
    pub prefetch_max: usize,
    /// Globs of tags that never change and are never asked about again. Default none.
    pub immutable_tags: Vec<String>,
    /// Other times for some tags; the first rule that fits counts. Default none.
    pub tags: Vec<RawTagRule>,
    /// What becomes of a cached tag the upstream no longer has. Default `serve`.
    pub on_upstream_404: OnUpstream404,
    /// What may be held of it. Default `unlimited`.
    #[serde(rename = "quota", deserialize_with = "units::bytes_or_unlimited::deserialize")]
    pub quota_bytes: Option<u64>,
}

/// One of an upstream's `tags` as written.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawTagRule {
    /// A glob of tags; must be there.
    pub pattern: Option<String>,
    /// How long they are served without asking again; must be there.
    #[serde(deserialize_with = "units::duration_or_inherited::deserialize")]
    pub revalidate_after: Option<Duration>,
}

impl Default for RawUpstream {
    fn default() -> Self {
        Self {
            url: None,
            send_ns: false,
            default: false,
            hosts: Vec::new(),
            username: None,
            password: None,
            password_file: None,
            urls: Vec::new(),
            accounts: None,
            docker_config: None,
            credential_helper: None,
            credential_timeout: Duration::from_secs(5),
            credential_lifetime: Duration::from_mins(10),
            realms: Vec::new(),
            tls: RawTls::default(),
            proxy: None,
            visibility: Visibility::default(),
            access_ttl: Duration::from_mins(5),
            revalidate_after: None,
            revalidate_lists_after: Duration::from_mins(1),
            stale_for: None,
            stale_after_wait: Duration::from_secs(1),
            negative_ttl: Duration::from_secs(10),
            rate_reserve: 0,
            connect_timeout: Duration::from_secs(5),
            first_byte_timeout: Duration::from_secs(20),
            no_progress_timeout: Duration::from_secs(30),
            retries: 3,
            parallel: 4,
            piece_bytes: 16 << 20,
            connections_max: 32,
            bandwidth_max_bytes: None,
            prefetch: Prefetch::default(),
            prefetch_max: 4,
            immutable_tags: Vec::new(),
            tags: Vec::new(),
            on_upstream_404: OnUpstream404::default(),
            quota_bytes: None,
        }
    }
}

impl RawUpstream {
    /// Takes out who we are beside `url`, or at the first of `urls`.
    pub fn identity(&mut self) -> RawIdentity {
        RawIdentity {
            username: self.username.take(),
            password: self.password.take(),
            password_file: self.password_file.take(),
            accounts: self.accounts.take(),
            docker_config: self.docker_config.take(),
            credential_helper: self.credential_helper.take(),
        }
    }
}

/// Every way to say who we are; one of them should have been used.
#[derive(Default)]
pub(super) struct RawIdentity {
    pub username: Option<String>,
    pub password: Option<SecretString>,
    pub password_file: Option<PathBuf>,
    pub accounts: Option<Vec<RawAccount>>,
    pub docker_config: Option<PathBuf>,
    pub credential_helper: Option<String>,
}

/// One of several accounts as written.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawAccount {
    /// User name.
    pub username: Option<String>,
    /// Password or token.
    #[serde(deserialize_with = "secret")]
    pub password: Option<SecretString>,
    /// File that holds the password.
    pub password_file: Option<PathBuf>,
}

/// `tls` as written.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawTls {
    /// Certificates of authorities, a PEM file. Default none.
    pub ca: Option<PathBuf>,
    /// Our certificate, a PEM file. Default none.
    pub certificate: Option<PathBuf>,
    /// Its key, a PEM file. Default none.
    pub key: Option<PathBuf>,
    /// Default false.
    pub insecure: bool,
}

/// One of `urls` as written: a URL, or a map of it and of who we are there.
#[derive(Default)]
pub(super) struct RawSource {
    pub url: Option<String>,
    pub identity: RawIdentity,
    /// It is not a map.
    pub is_text: bool,
}

impl<'de> Deserialize<'de> for RawSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SourceVisitor)
    }
}

struct SourceVisitor;

impl<'de> Visitor<'de> for SourceVisitor {
    type Value = RawSource;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a URL, or a map with `url` and who we are there")
    }

    fn visit_str<E>(self, url: &str) -> Result<RawSource, E> {
        Ok(RawSource { url: Some(url.to_owned()), identity: RawIdentity::default(), is_text: true })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawSource, A::Error> {
        #[derive(Default, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        struct Fields {
            url: Option<String>,
            username: Option<String>,
            #[serde(deserialize_with = "secret")]
            password: Option<SecretString>,
            password_file: Option<PathBuf>,
            accounts: Option<Vec<RawAccount>>,
            docker_config: Option<PathBuf>,
            credential_helper: Option<String>,
        }
        let fields = Fields::deserialize(MapAccessDeserializer::new(map))?;
        let Fields { url, username, password, password_file, accounts, docker_config, credential_helper } = fields;
        let identity = RawIdentity { username, password, password_file, accounts, docker_config, credential_helper };
        Ok(RawSource { url, identity, is_text: false })
    }
}

pub(super) fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SecretString>, D::Error> {
    Ok(Some(SecretString::from(String::deserialize(deserializer)?)))
}

/// The upstream asked for names that carry no host.
const DEFAULT_UPSTREAM: &str = "docker.io";

/// The public registries most images come from, asked only for names that carry their host.
const NAMED_UPSTREAMS: [&str; 6] =
    ["gcr.io", "ghcr.io", "mcr.microsoft.com", "public.ecr.aws", "quay.io", "registry.k8s.io"];

/// Puts the built-in upstreams where none were written, so that the environment can add to them.
pub(super) fn default_upstreams(tree: &mut Node) {
    if tree.get(&KeyPath::of(&["upstreams"])).is_some() {
        return;
    }
    let at = |host: &str| vec!["upstreams".to_owned(), host.to_owned()];
    for host in NAMED_UPSTREAMS {
        tree.set(&at(host), Node::empty_map(Origin::Default));
    }
    let mut default = at(DEFAULT_UPSTREAM);
    default.push("default".to_owned());
    tree.set(&default, Node::scalar("true", Origin::Default));
}
