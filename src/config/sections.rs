//! The sections whose written shape is already the valid one but for a few bounds; each default stands here and nowhere else.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    network::Network,
    server_tls::ServerTls,
    units::{self, Limit},
};

/// `http`: the one port that clients speak to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Address and port to listen on. Default `127.0.0.1:5000`.
    #[serde(deserialize_with = "units::address::deserialize")]
    pub listen: SocketAddr,
    /// How long requests may go on after a signal to stop; 0 cuts them at once. Default `30s`.
    #[serde(with = "units::duration")]
    pub shutdown_grace: Duration,
    /// Connections served at a time; more wait to be accepted. Default 10000.
    pub connections_max: usize,
    /// How long a client may take to send the headers of a request. Default `10s`.
    #[serde(with = "units::duration")]
    pub header_timeout: Duration,
    /// A client that sends no byte of an upload for so long is dropped; its session stays. Default `1m`.
    #[serde(with = "units::duration")]
    pub read_timeout: Duration,
    /// A client that accepts no byte of an answer for so long is dropped. Default `5m`.
    #[serde(with = "units::duration")]
    pub write_timeout: Duration,
    /// Origins whose pages may call the API from a browser; `*` is all. Default none.
    pub cors_origins: Vec<String>,
    /// Names by which clients reach this port, besides addresses, `localhost` and names without a dot. Default none.
    pub names: Vec<String>,
    /// Networks whose addresses may use the admin API below `/api/v1/`. Default loopback only.
    pub admin_from: Vec<Network>,
    /// Connections of one address at a time, beyond which they are closed at once; 0 for any number. Networks of
    /// IPv6 count as one address by their first 64 bits, and trusted proxies do not count. Default 1000.
    pub connections_per_client_max: usize,
    /// Requests of one address per second, in the long run, beyond which they are answered 429; 0 for any number.
    /// Default 0.
    pub requests_per_second_max: u32,
    /// How many of these may come at once. Default 200.
    pub requests_burst_max: u32,
    /// Networks of proxies in front of this port, whose word on who asks is taken. Default none.
    pub trusted_proxies: Vec<Network>,
    /// Whether these proxies begin each connection with the PROXY protocol. Default `off`.
    pub proxy_protocol: ProxyProtocol,
    /// TLS on this port. Default none.
    pub tls: ServerTls,
}

/// `http.proxy_protocol`: whether connections begin with a header that says whose they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocol {
    /// None does.
    #[default]
    Off,
    /// Each does, of version 1 or 2, and comes from a trusted proxy.
    Required,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 5000)),
            shutdown_grace: Duration::from_secs(30),
            connections_max: 10_000,
            header_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_mins(1),
            write_timeout: Duration::from_mins(5),
            cors_origins: Vec::new(),
            names: Vec::new(),
            admin_from: Network::loopback(),
            connections_per_client_max: 1_000,
            requests_per_second_max: 0,
            requests_burst_max: 200,
            trusted_proxies: Vec::new(),
            proxy_protocol: ProxyProtocol::default(),
            tls: ServerTls::default(),
        }
    }
}

/// `storage`: where everything is kept, and the bound on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Storage {
    /// Directory of blobs, staging and index; relative to the working directory. Default `./data`.
    pub path: PathBuf,
    /// Make a new store where there is none; with `false` a missing one is an error. Default `true`.
    pub create: bool,
    /// Hard bound of all bytes under `path`, pushed ones too. Default `80%` of the file system.
    pub max_size: Limit,
    /// What is always left free on the file system; 0 switches this off. Default `1GiB`.
    pub min_free: Limit,
    /// Damaged bytes kept to be looked at; the oldest go first. Default 1 GiB.
    #[serde(rename = "quarantine_max", with = "units::bytes")]
    pub quarantine_max_bytes: u64,
    /// How often every stored blob is read through and compared with its digest. Default 30 days.
    #[serde(with = "units::duration")]
    pub scrub_every: Duration,
    /// Bytes read for that per second; 0 switches it off. Default 20 MB.
    #[serde(rename = "scrub_rate_max", with = "units::bytes")]
    pub scrub_rate_max_bytes: u64,
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            path: PathBuf::from("./data"),
            create: true,
            max_size: Limit::Percent(80),
            min_free: Limit::Bytes(1 << 30),
            quarantine_max_bytes: 1 << 30,
            scrub_every: Duration::from_hours(30 * 24),
            scrub_rate_max_bytes: 20_000_000,
        }
    }
}

/// `cache`: what is kept of the upstreams.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cache {
    /// Hard bound of cached bytes; the least recently used go first. Default `50GiB`, or `storage.max_size` where
    /// that is less.
    pub max_size: Limit,
    /// How long a tag is served without asking its upstream again; 0 asks every time. Default `10m`.
    #[serde(with = "units::duration")]
    pub revalidate_after: Duration,
    /// Tags in demand that are confirmed before their time is up, at a time, so that no client waits; 0 for none.
    /// Default 4.
    pub refresh_ahead_max: usize,
    /// Blobs fetched from upstreams at a time; more wait. Default 64.
    pub fills_max: usize,
    /// How long fetching one blob may take in all; a slow one goes on from where it was. Default `6h`.
    #[serde(with = "units::duration")]
    pub fill_timeout: Duration,
    /// Memory for manifests and configs; 0 reads them from disk each time. Default `64MiB`.
    #[serde(rename = "manifests_in_memory", with = "units::bytes")]
    pub manifests_in_memory_bytes: u64,
    /// Entries in a list of an upstream's tags or referrers that is kept; a longer one is asked for page by page. Default
    /// 100000.
    pub list_entries_max: usize,
    /// Bytes of all such lists, in the index. Default `64MiB`.
    #[serde(rename = "lists_max", with = "units::bytes")]
    pub lists_max_bytes: u64,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            max_size: Limit::Bytes(50 << 30),
            revalidate_after: Duration::from_mins(10),
            refresh_ahead_max: 4,
            fills_max: 64,
            fill_timeout: Duration::from_hours(6),
            manifests_in_memory_bytes: 64 << 20,
            list_entries_max: 100_000,
            lists_max_bytes: 64 << 20,
        }
    }
}

/// `gc`: when what nobody needs any more is removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gc {
    /// How long possible garbage is left alone, and for how long what was pushed or read stays, whoever needs it. Default
    /// `1h`.
    #[serde(with = "units::duration")]
    pub grace: Duration,
    /// How often it is looked for; 0 for when `entrepot gc` is run only. Default `1m`.
    #[serde(with = "units::duration")]
    pub interval: Duration,
    /// Blobs or manifests decided upon in one transaction. Default 100.
    pub batch_max: usize,
}

impl Default for Gc {
    fn default() -> Self {
        Self { grace: Duration::from_hours(1), interval: Duration::from_mins(1), batch_max: 100 }
    }
}

/// `push`: what clients may upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Push {
    /// Whether a manifest may name content that is not here. Default `indexes`.
    pub sparse: Sparse,
    /// Largest manifest accepted. Default `4MiB`, which the spec asks every registry to accept.
    #[serde(rename = "manifest_max", with = "units::bytes")]
    pub manifest_max_bytes: u64,
    /// Upload sessions open at a time; more are answered 429. Default 1000.
    pub sessions_max: usize,
    /// Of these, those of one who signed in; 0 for any number. Default 500.
    pub sessions_per_identity_max: usize,
    /// An upload session untouched for so long is removed with its bytes. Default `24h`.
    #[serde(with = "units::duration")]
    pub sessions_expire_after: Duration,
    /// How often the rules of `retention` are applied. Default `1h`.
    #[serde(with = "units::duration")]
    pub retention_every: Duration,
}

impl Default for Push {
    fn default() -> Self {
        Self {
            sparse: Sparse::default(),
            manifest_max_bytes: 4 << 20,
            sessions_max: 1_000,
            sessions_per_identity_max: 500,
            sessions_expire_after: Duration::from_hours(24),
            retention_every: Duration::from_hours(1),
        }
    }
}

/// `push.sparse`: which manifests may be pushed without all they name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sparse {
    /// None.
    Refuse,
    /// Indexes may lack some of their manifests, as a subset of platforms does; image manifests need their blobs.
    #[default]
    Indexes,
    /// All.
    Accept,
}

/// `log`: what is written to standard error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// Default `auto`.
    pub format: LogFormat,
    /// A level, or a filter such as `info,entrepot::cache=debug`. Default `info`.
    pub level: String,
    /// Memory for lines that the log's reader has not taken yet; what does not fit is dropped and counted, because
    /// serving does not wait for the log. Default `4MiB`.
    #[serde(rename = "buffer", with = "units::bytes")]
    pub buffer_bytes: u64,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::default(), level: "info".to_owned(), buffer_bytes: 4 << 20 }
    }
}

/// `audit`: who did what, in a file of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Audit {
    /// The file; relative to the working directory. Default none: no audit log.
    pub path: PathBuf,
    /// Whether pulls are events, too. Default false.
    pub pulls: bool,
    /// Memory for events that are not written yet; what does not fit is lost and counted, because serving does not wait for
    /// the file. Default `4MiB`.
    #[serde(rename = "buffer", with = "units::bytes")]
    pub buffer_bytes: u64,
}

impl Default for Audit {
    fn default() -> Self {
        Self { path: PathBuf::new(), pulls: false, buffer_bytes: 4 << 20 }
    }
}

impl Audit {
    /// Is there none?
    pub(super) fn is_off(&self) -> bool {
        *self == Self::default()
    }
}

/// `log.format`: how a log line looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// `text` on a terminal, `json` elsewhere.
    #[default]
    Auto,
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}
