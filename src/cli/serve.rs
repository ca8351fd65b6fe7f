//! The composition root: builds everything bottom-up from the configuration and serves it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::FutureExt as _;
use futures::future::OptionFuture;
use globset::{GlobMatcher, GlobSet, GlobSetBuilder};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::issuing::{self, Bells};
use super::{access, reconfigure, reload, trail, upstreams, webhooks};
use crate::auth::Authority;
use crate::blobs::{Blobs, FRESH_BYTES_OF_ALL_MAX};
use crate::cache::quotas::{Quota, Quotas};
use crate::cache::space::Limits;
use crate::cache::{
    Depot, FillTurns, LaneLimits, ListLimits, Memory, Mirror, Policy, Room, ScrubOptions, SweepOptions, Visibility,
    learn_names, recorded_names,
};
use crate::clock::Clock;
use crate::config::{self, Config, LoadedConfig, LogFormat, OnUpstream404, ProxyProtocol, ServeFlags};
use crate::fault;
use crate::http::server::{ServerOptions, listen, serve};
use crate::http::{AppOptions, AppState, OwnNames, Site, Tls, admin};
use crate::metadata::{self, Metadata, PinPattern};
use crate::metrics::Metrics;
use crate::oci::Host;
use crate::registry::retention::Rule;
use crate::registry::{Names, Options, Registry, Sparse};
use crate::storage::Store;
use crate::tasks::Intervals;
use crate::telemetry;
use crate::upstream::Upstream;
use crate::webhooks::Webhooks;

/// Threads for file IO and digests: fills, uploads and cold reads each hold one for a moment, and none of them waits for
/// another. Each that ran keeps memory of its own, so there are not more than disks and processors can use.
const BLOCKING_THREADS_MAX: usize = 64;

/// `entrepot serve`: until SIGINT or SIGTERM.
pub fn run(flags: &ServeFlags, loaded: &LoadedConfig) -> anyhow::Result<()> {
    let config = &loaded.config;
    let format = match config.log.format {
        LogFormat::Auto => telemetry::Format::Auto,
        LogFormat::Text => telemetry::Format::Text,
        LogFormat::Json => telemetry::Format::Json,
    };
    let _log =
        telemetry::start(format, &config.log.level, usize::try_from(config.log.buffer_bytes).unwrap_or(usize::MAX));
    loaded.warnings.iter().for_each(|warning| warn!("{warning}"));
    raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .build()
        .context("starting the runtime")?;
    let served = runtime.block_on(async {
        let listener =
            listen(config.http.listen).with_context(|| format!("listening on {} (http.listen)", config.http.listen))?;
        let shutdown = stop_on_signal()?;
        let opened = open(config, Clock::System).await?;
        let watching = reconfigure::watch(flags.clone(), Arc::clone(config), Arc::clone(&opened.authority));
        tokio::select! {
            served = serve_opened(listener, config, opened, shutdown) => served,
            failed = watching => match failed? {},
        }
    });
    // What still runs is server-owned and continues from its staging file after the next start.
    runtime.shutdown_background();
    served
}

/// Every connection and every open blob is a file; the usual soft limit of 1024 is for programs that use `select`.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).is_err() {
        warn!(files = limit.current, "the limit of open files could not be raised");
    }
}

/// Serves a registry that is open, on a listener until `shutdown`, and closes its index.
pub async fn serve_opened(
    listener: TcpListener,
    config: &Config,
    opened: Opened,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let address = listener.local_addr().context("asking for the address that is listened on")?;
    let Opened { registry, authority, metrics, metadata, store } = opened;
    let clock = registry.depot().clock.clone();
    report_limits(config, &metrics);
    let tls = reload::Watched::open(config, &metrics)?;
    let bells = Bells::default();
    let keeper = issuing::keeper(config, tls.as_ref().map(|watched| &watched.tls), &store, &bells, &clock, &metrics)?;
    let issuing = keeper.map(|keeper| Box::pin(keeper.run(Arc::clone(&bells.insists), shutdown.clone())));
    let issuing = OptionFuture::from(issuing).map(drop);
    let (audit, _audited) = trail::open(config, &clock, &metrics)?.unzip();
    // Whoever reads that it serves may send a signal.
    let (hangups, for_audit) = (reload::Hangups::listen()?, reload::Hangups::listen()?);
    say_ready(config, address);
    let auditing = trail::run(audit.clone(), for_audit, clock.clone(), shutdown.clone());
    access::say(config);
    let jobs = crate::tasks::run(Arc::clone(&registry), intervals(config), audit.clone(), shutdown.clone());
    metadata.forget_other_webhooks().await?;
    let telling =
        Webhooks::new(webhooks::options(config, &metrics)?, &metadata, &clock, &metrics)?.run(shutdown.clone());
    let scrubbing = crate::tasks::scrub::run(Arc::clone(&registry), shutdown.clone());
    let sweeping = crate::tasks::sweep::run(Arc::clone(&registry), shutdown.clone());
    let reloading = reload::run(tls.clone(), bells, hangups, clock, shutdown.clone());
    let tls = tls.map(|watched| watched.tls);
    let state = AppState::new(
        Arc::clone(&registry),
        authority,
        metrics.clone(),
        AppOptions { audit, ..app_options(config, tls.clone()) },
    );
    let serving = serve(listener, Site::new(state), server_options(config, tls, metrics), shutdown);
    let (served, (), (), (), (), (), (), ()) =
        tokio::join!(serving, jobs, scrubbing, sweeping, reloading, issuing, telling, auditing);
    registry.queue_pulls().await;
    fault::point("stop: served");
    // Nothing may want the index any more when it is closed.
    registry.fills().stop().await;
    fault::point("stop: fills ended");
    info!(connections_cut = served.connections_cut, "stopped serving");
    metadata.close().await;
    fault::point("stop: index closed");
    Ok(())
}

/// A registry over an open store, not serving yet.
pub struct Opened {
    /// The registry.
    pub registry: Arc<Registry>,
    /// Who may do what in it.
    pub authority: Arc<Authority>,
    /// Its counters.
    pub metrics: Metrics,
    /// Its index, to be closed in the end.
    pub metadata: Metadata,
    /// Its store.
    pub store: Arc<Store>,
}

/// Opens the store and puts it in order after whatever ended its last use.
pub async fn open(config: &Config, clock: Clock) -> anyhow::Result<Opened> {
    let metrics = Metrics::new();
    let store = Arc::new(Store::open(&config.storage.path, config.storage.create)?);
    let blobs = Blobs::new(Arc::clone(&store));
    let index = metadata::Options { names: Some(recorded_names(&blobs)), ..metadata::Options::new(store.index_path()) };
    let metadata = Metadata::open(index).await?;
    fault::point("start: index opened");
    store.mark_complete()?;
    fault::point("start: marked complete");
    if let Some(recorded) = metadata.names_to_learn() {
        warn!("the index is older than the record of names beside it, and learns from that");
        for lost in learn_names(&metadata, &blobs, &recorded, clock.now_ms()).await? {
            error!(repository = %lost.repository, manifest = %lost.manifest, digest = %lost.digest, "pushed content is lost");
        }
    }
    metadata.pin_by_patterns(pin_patterns(config)?, &config.pin).await?;
    webhooks::subscribe(config, &metadata).await?;
    let file_system = store.file_system()?;
    let limits = limits(config, file_system.total_bytes);
    let room = Room::open(
        metadata.clone(),
        blobs.clone(),
        limits,
        quotas(config)?,
        config.storage.quarantine_max_bytes,
        clock.clone(),
        metrics.clone(),
    )
    .await?;
    metrics.limit("fills_max", config.cache.fills_max as u64);
    metrics.limit("undigested_in_memory_max_bytes", FRESH_BYTES_OF_ALL_MAX);
    let depot = Arc::new(Depot {
        metadata: metadata.clone(),
        blobs,
        room,
        clock: clock.clone(),
        metrics: metrics.clone(),
        fills: FillTurns::new(config.cache.fills_max),
        refreshes: Arc::new(Semaphore::new(config.cache.refresh_ahead_max)),
        fill_timeout: config.cache.fill_timeout,
        stopping: CancellationToken::new(),
    });
    let memory = Arc::new(Memory::new(config.cache.manifests_in_memory_bytes));
    let mirrors = mirrors(config, &clock, &metrics)?;
    let options = Options {
        sparse: match config.push.sparse {
            config::Sparse::Refuse => Sparse::Refuse,
            config::Sparse::Indexes => Sparse::Indexes,
            config::Sparse::Accept => Sparse::Accept,
        },
        manifest_max_bytes: config.push.manifest_max_bytes,
        sessions_max: config.push.sessions_max,
        sessions_per_identity_max: match config.push.sessions_per_identity_max {
            0 => usize::MAX,
            max => max,
        },
        scrub: ScrubOptions {
            every: config.storage.scrub_every,
            bytes_per_second_max: config.storage.scrub_rate_max_bytes,
        },
        retention: retention_rules(config)?,
        sweep: SweepOptions { grace: config.gc.grace, interval: config.gc.interval, batch_max: config.gc.batch_max },
        lists: ListLimits { entries_max: config.cache.list_entries_max, bytes_max: config.cache.lists_max_bytes },
    };
    let registry = Arc::new(Registry::new(names(config)?, mirrors, depot, memory, options));
    registry.restore_uploads().await?;
    let authority = Authority::open(access::standing(config)?, metadata.clone(), clock, &metrics).await?;
    fault::point("start: ready");
    Ok(Opened { registry, authority: Arc::new(authority), metrics, metadata, store })
}

/// The bounds in bytes on a file system of this size. The cache's bound gives way to a smaller store where nobody chose it.
fn limits(config: &Config, total_bytes: u64) -> Limits {
    let bytes_of = |limit: config::Limit| limit.bytes_of(total_bytes);
    let store_max_bytes = bytes_of(config.storage.max_size);
    let mut cache_max_bytes = bytes_of(config.cache.max_size);
    if config.cache.max_size == config::Cache::default().max_size {
        cache_max_bytes = cache_max_bytes.min(store_max_bytes);
    }
    Limits { cache_max_bytes, store_max_bytes, min_free_bytes: bytes_of(config.storage.min_free) }
}

/// Those of `quotas`, then those of the upstreams: the first that matches a repository counts.
fn quotas(config: &Config) -> anyhow::Result<Quotas> {
    let mut all = Vec::new();
    for quota in &config.quotas {
        all.push(Quota {
            name: format!("the quota of {}", quota.repositories),
            repositories: config::units::glob(&quota.repositories)?.compile_matcher(),
            max_bytes: quota.max_size_bytes,
        });
    }
    for upstream in &config.upstreams {
        let Some(max_bytes) = upstream.quota_bytes else { continue };
        let repositories = config::units::glob(&format!("{}/**", upstream.name))?.compile_matcher();
        all.push(Quota { name: format!("the quota of upstream {}", upstream.name), repositories, max_bytes });
    }
    Ok(Quotas::new(all))
}

fn pin_patterns(config: &Config) -> anyhow::Result<Vec<PinPattern>> {
    let pattern = |written: &String| {
        let (repositories, tags) = config::pin_globs(written)?;
        Ok(PinPattern { repositories: repositories.compile_matcher(), tags: tags.compile_matcher() })
    };
    config.pin.iter().map(pattern).collect()
}

/// The rules on what stays of pushed content.
pub(super) fn retention_rules(config: &Config) -> anyhow::Result<Vec<Rule>> {
    let rule = |rule: &config::Retention| {
        Ok(Rule {
            written: rule.repositories.clone(),
            repositories: config::units::glob(&rule.repositories)?.compile_matcher(),
            keep_last: rule.keep_last,
            keep_tags: globs(&rule.keep_tags)?,
            keep_pulled_within: rule.keep_pulled_within,
            delete_untagged_after: rule.delete_untagged_after,
        })
    };
    config.retention.iter().map(rule).collect()
}

fn intervals(config: &Config) -> Intervals {
    Intervals { sessions_expire_after: config.push.sessions_expire_after, retention_every: config.push.retention_every }
}

/// Every upstream, none of them asked yet.
pub(super) fn mirrors(config: &Config, clock: &Clock, metrics: &Metrics) -> anyhow::Result<Vec<Arc<Mirror>>> {
    config.upstreams.iter().map(|upstream| mirror(upstream, config, clock, metrics)).collect()
}

pub(super) fn names(config: &Config) -> anyhow::Result<Names> {
    let mut hosts = HashMap::new();
    let mut upstreams = Vec::new();
    for upstream in &config.upstreams {
        let host: Host = upstream.name.parse()?;
        hosts.extend(upstream.hosts.iter().map(|header| (header.clone(), host.clone())));
        upstreams.push(host);
    }
    let default = config.default_upstream().map(|upstream| upstream.name.parse()).transpose()?;
    Ok(Names { upstreams, default, hosts, overlay: globs(&config.overlay)?, local_only: globs(&config.local_only)? })
}

fn mirror(
    configured: &config::Upstream,
    config: &Config,
    clock: &Clock,
    metrics: &Metrics,
) -> anyhow::Result<Arc<Mirror>> {
    let options = upstreams::options(configured, config, clock, metrics)?;
    let policy = Policy {
        revalidate_after: configured.revalidate_after,
        tags: configured.tags.iter().map(tag_rule).collect::<anyhow::Result<_>>()?,
        stale_for: configured.stale_for,
        stale_after_wait: configured.stale_after_wait,
        negative_ttl: configured.negative_ttl,
        rate_reserve: configured.rate_reserve,
        revalidate_lists_after: configured.revalidate_lists_after,
        immutable_tags: globs(&configured.immutable_tags)?,
        forget_on_404: configured.on_upstream_404 == OnUpstream404::Forget,
        retries_max: configured.retries,
        parallel: configured.parallel,
        piece_bytes: configured.piece_bytes,
        lanes: LaneLimits {
            connections_max: configured.connections_max,
            bytes_per_second_max: configured.bandwidth_max_bytes,
        },
        prefetches: configured.prefetch == config::Prefetch::OnPull,
        prefetch_max: configured.prefetch_max,
        offline: config.offline,
        visibility: match configured.visibility {
            config::Visibility::Passthrough => Visibility::Passthrough {
                access_ttl: configured.access_ttl,
                has_own_credentials: configured.identity != config::Identity::Anonymous,
            },
            config::Visibility::Everyone | config::Visibility::Authenticated => Visibility::Everyone,
        },
    };
    Ok(Arc::new(Mirror::new(Upstream::new(options)?, policy, clock.clone(), metrics.clone())))
}

fn tag_rule(rule: &config::TagRule) -> anyhow::Result<(GlobMatcher, Duration)> {
    Ok((config::units::glob(&rule.pattern)?.compile_matcher(), rule.revalidate_after))
}

pub(super) fn globs(patterns: &[String]) -> anyhow::Result<GlobSet> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        set.add(config::units::glob(pattern)?);
    }
    Ok(set.build()?)
}

pub(super) fn app_options(config: &Config, tls: Option<Arc<Tls>>) -> AppOptions {
    AppOptions {
        cors_origins: config.http.cors_origins.clone(),
        read_timeout: config.http.read_timeout,
        admin: admin::Door::new(config.http.admin_from.iter().map(|network| network.0).collect()),
        names: own_names(config),
        tls,
        audit: None,
        requests_per_second_max: config.http.requests_per_second_max,
        requests_burst_max: config.http.requests_burst_max,
    }
}

/// All names that the configuration has for this server.
fn own_names(config: &Config) -> OwnNames {
    let hosts = config.upstreams.iter().flat_map(|upstream| upstream.hosts.iter().cloned());
    let realm =
        config.auth.as_ref().and_then(|auth| url::Url::parse(auth.realm.as_ref()?).ok()?.host_str().map(str::to_owned));
    OwnNames::new(config.http.names.iter().cloned().chain(hosts).chain(realm))
}

fn server_options(config: &Config, tls: Option<Arc<Tls>>, metrics: Metrics) -> ServerOptions {
    ServerOptions {
        connections_max: config.http.connections_max,
        header_timeout: config.http.header_timeout,
        write_timeout: config.http.write_timeout,
        shutdown_grace: config.http.shutdown_grace,
        connections_per_client_max: config.http.connections_per_client_max,
        trusted_proxies: config.http.trusted_proxies.iter().map(|network| network.0).collect(),
        is_introduced: config.http.proxy_protocol == ProxyProtocol::Required,
        tls,
        metrics,
        ..ServerOptions::default()
    }
}

/// The limits on clients, beside those on space that the ledger reports.
fn report_limits(config: &Config, metrics: &Metrics) {
    let Config { http, push, .. } = config;
    for (limit, value) in [
        ("http.connections_max", http.connections_max as u64),
        ("http.connections_per_client_max", http.connections_per_client_max as u64),
        ("http.requests_per_second_max", http.requests_per_second_max.into()),
        ("http.requests_burst_max", http.requests_burst_max.into()),
        ("http.tls.handshakes_max", http.tls.handshakes_max as u64),
        ("push.manifest_max", push.manifest_max_bytes),
        ("push.sessions_max", push.sessions_max as u64),
        ("push.sessions_per_identity_max", push.sessions_per_identity_max as u64),
    ] {
        metrics.limit(limit, value);
    }
    for (limit, value) in [
        ("http.header_timeout", http.header_timeout),
        ("http.read_timeout", http.read_timeout),
        ("http.write_timeout", http.write_timeout),
        ("http.shutdown_grace", http.shutdown_grace),
        ("http.tls.handshake_timeout", http.tls.handshake_timeout),
    ] {
        metrics.limit_seconds(limit, value);
    }
}

fn say_ready(config: &Config, address: SocketAddr) {
    let upstreams: Vec<&str> = config.upstreams.iter().map(|upstream| upstream.name.as_str()).collect();
    info!(
        %address,
        tls = config.http.tls.is_on(),
        store = %config.storage.path.display(),
        default_upstream = config.default_upstream().map(|upstream| upstream.name.as_str()),
        upstreams = upstreams.join(" "),
        "entrepot {} is serving",
        env!("CARGO_PKG_VERSION")
    );
}

fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    let shutdown = CancellationToken::new();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let token = shutdown.clone();
    #[expect(clippy::disallowed_methods, reason = "this is serve; it ends with the process")]
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => info!("stopping on SIGINT"),
            _ = terminate.recv() => info!("stopping on SIGTERM"),
        }
        token.cancel();
    });
    Ok(shutdown)
}
