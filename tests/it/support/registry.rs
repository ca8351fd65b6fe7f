//! `TestRegistry`: the whole registry on a port and in a folder of its own, in a runtime of its own.
//!
//! The runtime is what a process is to the real one: [`TestRegistry::restart`] ends it with everything that runs in it, as
//! a process ends, and starts another over the same store. [`TestRegistry::finish`] is how every test ends: it stops the
//! registry in good order and fails if anything is left over or miscounted.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use entrepot::cache::space::{Limits, Sums};
use entrepot::cli::serve::{self, Opened};
use entrepot::clock::Clock;
use entrepot::config::{self, Config, Limit};
use entrepot::metadata::Metadata;
use entrepot::oci::Digest;
use entrepot::registry::Registry;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::client::{Answer, Call, Reading};
use super::consistency::assert_consistent;
use super::disk;
use super::upstream::FakeUpstream;

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

/// The upstream that [`TestRegistry::over`] sets up.
pub const HUB: &str = "hub.example";

/// Where a blob is asked for.
pub fn blob_path(repository: &str, digest: &Digest) -> String {
    format!("/v2/{repository}/blobs/{digest}")
}

/// Where a manifest is asked for, by tag or digest.
pub fn manifest_path(repository: &str, reference: impl std::fmt::Display) -> String {
    format!("/v2/{repository}/manifests/{reference}")
}

/// A registry before it starts.
pub struct Builder {
    config: Config,
}

/// A running registry.
pub struct TestRegistry {
    config: Config,
    clock: Clock,
    running: Option<Running>,
    /// Last, so that the store outlives whatever uses it.
    store: TempDir,
}

struct Running {
    runtime: Runtime,
    registry: Arc<Registry>,
    address: SocketAddr,
    shutdown: CancellationToken,
    serving: JoinHandle<()>,
}

/// What a test leaves in the staging folder on purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Partial fills that a later pull would continue.
    pub fills: usize,
    /// Upload sessions that nobody ended.
    pub uploads: usize,
}

impl Builder {
    /// An upstream of this name, answered by `fake`.
    pub fn upstream(self, name: &str, fake: &FakeUpstream) -> Self {
        self.add(name, fake, false)
    }

    /// The upstream of names without a host.
    pub fn default_upstream(self, name: &str, fake: &FakeUpstream) -> Self {
        self.add(name, fake, true)
    }

    pub fn cache_max(self, bytes: u64) -> Self {
        self.config(|config| config.cache.max_size = Limit::Bytes(bytes))
    }

    pub fn storage_max(self, bytes: u64) -> Self {
        self.config(|config| config.storage.max_size = Limit::Bytes(bytes))
    }

    /// For how long the tags of the upstreams named so far are fresh.
    pub fn revalidate_after(self, time: Duration) -> Self {
        self.config(|config| config.upstreams.iter_mut().for_each(|upstream| upstream.revalidate_after = time))
    }

    /// Any change to the upstreams named so far.
    pub fn upstreams(self, mut change: impl FnMut(&mut config::Upstream)) -> Self {
        self.config(|config| config.upstreams.iter_mut().for_each(&mut change))
    }

    /// Any change to the configuration.
    pub fn config(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    fn add(mut self, name: &str, fake: &FakeUpstream, is_default: bool) -> Self {
        let mut upstream = Config::default().upstreams.swap_remove(0);
        name.clone_into(&mut upstream.name);
        upstream.url = fake.base_url().parse().expect("the fake has a URL");
        upstream.is_default = is_default;
        // One retry shows that there are any; more only make the tests of failures longer.
        upstream.retries = 1;
        // Tests count requests; those of prefetch switch it on.
        upstream.prefetch = config::Prefetch::Off;
        self.config.upstreams.push(upstream);
        self.config.upstreams.sort_by(|one, other| one.name.cmp(&other.name));
        self
    }

    pub async fn start(mut self) -> TestRegistry {
        let store = folder();
        self.config.storage.path = store.path().join("store");
        let mut registry = TestRegistry { config: self.config, clock: Clock::manual(), running: None, store };
        registry.start().await;
        registry
    }
}

impl TestRegistry {
    /// No upstream, room for everything a test does, no waiting for clients that are gone.
    pub fn builder() -> Builder {
        let mut config = Config::default();
        config.upstreams.clear();
        config.http.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        config.http.shutdown_grace = Duration::from_secs(5);
        config.cache.max_size = Limit::Bytes(256 << 20);
        config.storage.max_size = Limit::Bytes(512 << 20);
        config.storage.min_free = Limit::Bytes(0);
        // Its tests switch it on; others harm files and say themselves when that is noticed.
        config.storage.scrub_rate_max_bytes = 0;
        Builder { config }
    }

    /// A registry with one upstream, [`HUB`], which is the default.
    pub async fn over(fake: &FakeUpstream) -> Self {
        Self::builder().default_upstream(HUB, fake).start().await
    }

    pub fn address(&self) -> SocketAddr {
        self.running().address
    }

    /// `http://127.0.0.1:PORT` with this path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address())
    }

    /// The registry itself.
    pub fn registry(&self) -> &Registry {
        &self.running().registry
    }

    pub fn metadata(&self) -> &Metadata {
        &self.registry().depot().metadata
    }

    /// The sums of the ledger.
    pub fn sums(&self) -> Sums {
        self.registry().depot().room.sums()
    }

    /// What Prometheus would read.
    pub fn metrics(&self) -> String {
        self.registry().depot().metrics.render()
    }

    /// The ledger's bounds.
    pub fn limits(&self) -> Limits {
        self.registry().depot().room.limits()
    }

    /// The folder of the store.
    pub fn store(&self) -> PathBuf {
        self.store.path().join("store")
    }

    /// Moves the registry's clock on.
    pub fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    /// What the registry's clock says, Unix milliseconds.
    pub fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    pub async fn get(&self, path: &str) -> Answer {
        Call::get(path).send(self.address()).await
    }

    pub async fn head(&self, path: &str) -> Answer {
        Call::head(path).send(self.address()).await
    }

    /// A GET whose body is not read yet.
    pub async fn open(&self, path: &str) -> Reading {
        Call::get(path).open(self.address()).await
    }

    pub async fn send(&self, call: Call) -> Answer {
        call.send(self.address()).await
    }

    /// Pushes a blob in one request. Returns its digest.
    pub async fn push_blob(&self, repository: &str, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::of(entrepot::oci::Algorithm::Sha256, &bytes);
        let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
        let answer = self.send(Call::new("POST", &path).body(bytes)).await;
        assert_eq!(answer.status(), 201, "{:?}", answer.body);
        digest
    }

    /// Pushes a manifest. Returns the answer.
    pub async fn push_manifest(&self, repository: &str, reference: &str, media_type: &str, bytes: Bytes) -> Answer {
        let path = format!("/v2/{repository}/manifests/{reference}");
        self.send(Call::new("PUT", &path).header("content-type", media_type).body(bytes)).await
    }

    /// Waits until no fill is under way.
    pub async fn fills_end(&self) {
        self.until("every fill ends", |registry| registry.registry().fills().is_empty()).await;
    }

    /// Waits for what the registry does on its own account and tells nobody.
    pub async fn until(&self, what: &str, wanted: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !wanted(self) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "waited in vain until {what}");
    }

    /// Ends the registry as a process ends that was told to, with whatever fills it has, and starts another over the
    /// same store. The port is another one.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.start().await;
    }

    /// Ends the registry and leaves its store to somebody else until [`TestRegistry::resume`].
    pub async fn pause(mut self) -> Self {
        self.stop().await;
        self
    }

    /// Starts it again over its store.
    pub async fn resume(mut self) -> Self {
        self.start().await;
        self
    }

    /// Ends the registry as a killed process ends, and starts another over the same store.
    pub async fn kill_and_restart(&mut self) {
        let running = self.running.take().expect("the registry runs");
        running.end().await;
        self.start().await;
    }

    /// Stops the registry; fails the test if anything is left over or miscounted.
    pub async fn finish(self) {
        self.finish_leaving(Leftovers::default()).await;
    }

    /// As [`TestRegistry::finish`], for a test that leaves something to be continued.
    pub async fn finish_leaving(mut self, leftovers: Leftovers) {
        self.fills_end().await;
        let registry = self.stop().await;
        let room = &registry.depot().room;
        let sums = room.sums();
        assert_eq!(room.n_pins(), 0, "blobs are still pinned");
        if leftovers.uploads == 0 {
            assert_eq!(room.quota_promised_bytes(), 0, "bytes are still promised under quotas");
            assert_eq!(room.unwritten_bytes(), 0, "bytes still count as promised and not written");
        }
        assert_eq!(sums.filling, 0, "fills still have space reserved");
        assert_eq!(sums.deleting, 0, "bytes still wait to be deleted");
        assert_eq!(sums.uploading > 0, leftovers.uploads > 0, "uploads have {} bytes reserved", sums.uploading);
        drop(registry);
        let found = OnDisk::of(&self.store());
        assert_eq!(found.leftovers, leftovers, "files in the staging folder");
        assert_eq!(found.n_puts, 0, "small blobs still on their way in");
        assert_eq!(sums.partial, found.partial_bytes, "the ledger's partial fills against the disk");
        assert_consistent(&self.store(), Some(sums)).await;
    }

    /// What the ledger, the index and the disk say of each other while nothing is under way.
    pub async fn assert_consistent(&self, after: &str) {
        self.fills_end().await;
        let room = &self.registry().depot().room;
        assert_eq!(room.n_pins(), 0, "blobs are pinned after {after}");
        let mut drift = disk::OnDisk::of(&self.store()).drift(disk::Told::by(self.sums()));
        let (totals, sums) = (self.metadata().totals().await.expect("the index can be read"), self.sums());
        if (totals.cached_bytes, totals.pushed_bytes) != (sums.cached, sums.pushed) {
            drift.push(format!("{totals:?} in the index, {sums:?} in the ledger"));
        }
        assert!(drift.is_empty(), "after {after}: {drift:#?}");
        assert!(!self.metadata().recount().await.expect("it can be written"), "miscounted after {after}");
    }

    /// Stops the registry and tries to open its store while something is wrong; nothing may come of it but an error or an
    /// opened store. Then it is started again.
    pub async fn try_to_open(&mut self, wrong: impl FnOnce() -> Box<dyn FnOnce()>) {
        self.stop().await;
        let (config, clock) = (self.config.clone(), self.clock.clone());
        let heal = wrong();
        let trying = tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
            runtime.block_on(async {
                if let Ok(opened) = serve::open(&config, clock).await {
                    opened.metadata.close().await;
                }
            });
            runtime.shutdown_timeout(PATIENCE);
        });
        trying.await.expect("opening does not panic");
        heal();
        self.start().await;
    }

    /// Ends the registry and starts another over the same store, configured differently.
    pub async fn reconfigure(&mut self, change: impl FnOnce(&mut Config)) {
        self.stop().await;
        change(&mut self.config);
        self.start().await;
    }

    async fn start(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime starts");
        let (config, clock, shutdown) = (self.config.clone(), self.clock.clone(), CancellationToken::new());
        let stop = shutdown.clone();
        let (opened_to, opened) = tokio::sync::oneshot::channel();
        let serving = runtime.spawn(async move {
            let listener = TcpListener::bind(config.http.listen).await.expect("loopback has a free port");
            let address = listener.local_addr().expect("a bound listener has an address");
            let opened = open(&config, clock).await;
            assert!(opened_to.send((Arc::clone(&opened.registry), address)).is_ok(), "the test waits for the start");
            serve::serve_opened(listener, &config, opened, stop).await.expect("serving ends well");
        });
        let (registry, address) = opened.await.expect("the registry starts");
        self.running = Some(Running { runtime, registry, address, shutdown, serving });
    }

    /// What is left is not served any more, and no task of it runs.
    async fn stop(&mut self) -> Arc<Registry> {
        let mut running = self.running.take().expect("the registry runs");
        running.shutdown.cancel();
        let served = tokio::time::timeout(PATIENCE, &mut running.serving).await;
        served.expect("the registry stops in time").expect("serving does not panic");
        running.end().await
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("the registry runs")
    }
}

impl Running {
    async fn end(self) -> Arc<Registry> {
        let Self { runtime, registry, serving, .. } = self;
        drop(serving);
        // Waits for blocking jobs, which is why it must not happen on a thread of the test's own runtime.
        let ended = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(PATIENCE)).await;
        ended.expect("the runtime ends");
        registry
    }
}

impl Drop for TestRegistry {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.runtime.shutdown_background();
            assert!(std::thread::panicking(), "a test must end with finish(), which looks for what is left over");
        }
    }
}

/// Memory where there is some to be had as a file system: a disk's syncs make these tests ten times as long and prove
/// nothing, for nothing here pulls a plug. `TMPDIR` says otherwise.
pub fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let folder = match std::env::var_os("TMPDIR") {
        None if memory.is_dir() => tempfile::tempdir_in(memory),
        _ => tempfile::tempdir(),
    };
    folder.expect("there is a place for temporary files")
}

/// The store as the file system sees it, in allocated bytes.
#[derive(Debug, Default)]
struct OnDisk {
    partial_bytes: u64,
    n_puts: usize,
    leftovers: Leftovers,
}

impl OnDisk {
    fn of(store: &Path) -> Self {
        let fills = files(&store.join("staging/fills"));
        let uploads = files(&store.join("staging/uploads")).len();
        Self {
            partial_bytes: fills.values().sum(),
            n_puts: files(&store.join("staging/puts")).len(),
            leftovers: Leftovers { fills: fills.len(), uploads },
        }
    }
}

/// Bytes on disk of everything that came from upstreams or is on its way, as the file system counts them.
pub fn bytes_on_disk(store: &Path) -> u64 {
    ["blobs", "staging"].iter().flat_map(|folder| files(&store.join(folder)).into_values()).sum()
}

/// The files below a folder with the space they take. What vanishes while it is looked at is not there.
pub fn files(folder: &Path) -> HashMap<PathBuf, u64> {
    use std::os::unix::fs::MetadataExt as _;
    let mut found = HashMap::new();
    let Ok(entries) = std::fs::read_dir(folder) else { return found };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        match std::fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => found.extend(files(&path)),
            Ok(metadata) => {
                found.insert(path, metadata.blocks() * 512);
            }
            Err(_) => {}
        }
    }
    found
}

/// Opens a store that may have been closed just now. A process that another test is just starting has a copy of every open file
/// until it becomes its own program, the lock of the closed store among them.
async fn open(config: &Config, clock: Clock) -> Opened {
    let began = Instant::now();
    loop {
        match serve::open(config, clock.clone()).await {
            Ok(opened) => return opened,
            Err(error) => {
                let is_held = format!("{error:#}").contains("in use by another process");
                assert!(is_held && began.elapsed() < PATIENCE, "the store opens: {error:#}");
                tokio::task::yield_now().await;
            }
        }
    }
}
