//! `FakeUpstream`: a registry on loopback that holds what a test pushes, fails as its script says, and tells what it was
//! asked.
//!
//! Nothing here depends on time: what is slow waits for a [`Gate`], what is silent stays silent.

mod content;
mod gatekeeper;
mod record;
mod reply;
mod script;
mod serve;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use entrepot::oci::{Digest, ManifestKind};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use content::Content;
pub use content::Image;
use gatekeeper::Gatekeeper;
pub use gatekeeper::{Bearer, Guard, basic};
pub use record::{Request, Requests};
use script::Script;
pub use script::{Fault, Gate, On};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

/// A registry to fetch from. Dropped, it is gone with all its connections.
pub struct FakeUpstream {
    shared: Arc<Shared>,
    address: SocketAddr,
    serving: Option<JoinHandle<()>>,
}

/// What all connections see.
struct Shared {
    base_url: String,
    state: Mutex<State>,
    /// Number of the last change to the requests, for those who wait for one.
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    content: Content,
    script: Script,
    gatekeeper: Gatekeeper,
    headers: Vec<(&'static str, String)>,
    requests: Vec<Request>,
    page_max: Option<usize>,
    has_no_referrers_api: bool,
}

impl FakeUpstream {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let base_url = format!("http://{address}");
        let shared = Shared { base_url, state: Mutex::default(), changed: watch::Sender::new(0) };
        let shared = Arc::new(shared);
        let serving = Some(tokio::spawn(accept(Arc::clone(&shared), listener)));
        Self { shared, address, serving }
    }

    /// `http://127.0.0.1:PORT`.
    pub fn base_url(&self) -> &str {
        &self.shared.base_url
    }

    /// Connections are refused from now on, those that are open are gone.
    pub async fn stop(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
            // It ends with the error that says it was aborted; only that it ended counts.
            let _ = serving.await;
        }
    }

    /// Listens on the same port again, with the same content and script.
    pub async fn restart(&mut self) {
        self.stop().await;
        let listener = TcpListener::bind(self.address).await.expect("the port is still ours");
        self.serving = Some(tokio::spawn(accept(Arc::clone(&self.shared), listener)));
    }

    pub fn push_blob(&self, repository: &str, bytes: impl Into<Bytes>) -> Digest {
        self.shared.state().content.push_blob(repository, bytes.into())
    }

    /// An OCI image with a config of its own and these layers, all of them pushed.
    pub fn push_image(&self, repository: &str, tag: &str, layers: &[&[u8]]) -> Image {
        self.shared.state().content.push_image(repository, tag, layers)
    }

    /// Any bytes as a manifest, with or without a tag.
    pub fn push_manifest(
        &self,
        repository: &str,
        tag: Option<&str>,
        kind: ManifestKind,
        bytes: impl Into<Bytes>,
    ) -> Digest {
        self.shared.state().content.push_manifest(repository, tag, kind, bytes.into())
    }

    pub fn move_tag(&self, repository: &str, tag: &str, manifest: Digest) {
        self.shared.state().content.move_tag(repository, tag, manifest);
    }

    /// Who is let in, from the next request on.
    pub fn guard(&self, guard: Guard) {
        self.shared.state().gatekeeper.guard = guard;
    }

    /// A header on every answer but challenges.
    pub fn header(&self, name: &'static str, value: &str) {
        self.shared.state().headers.push((name, value.to_owned()));
    }

    /// From now on there is no referrers API, as in registries of the distribution specification 1.0.
    pub fn without_referrers_api(&self) {
        self.shared.state().has_no_referrers_api = true;
    }

    pub fn delete_tag(&self, repository: &str, tag: &str) {
        self.shared.state().content.delete_tag(repository, tag);
    }

    /// Deletes a manifest with the tags that name it.
    pub fn delete_manifest(&self, repository: &str, manifest: &Digest) {
        self.shared.state().content.delete_manifest(repository, manifest);
    }

    /// The most tags or referrers on one page, however many are asked for.
    pub fn page_max(&self, tags: usize) {
        self.shared.state().page_max = Some(tags);
    }

    /// What is to go wrong; earlier faults go first.
    pub fn fault(&self, on: On, fault: Fault) {
        self.shared.state().script.add(on, fault);
    }

    /// Nothing goes wrong any more.
    pub fn heal(&self) {
        self.shared.state().script.clear();
    }

    pub fn requests(&self) -> Requests {
        Requests(self.shared.state().requests.clone())
    }

    /// Waits until the requests so far are as wanted. What never comes fails the test instead of hanging it.
    pub async fn until(&self, wanted: impl Fn(&Requests) -> bool) {
        let mut changes = self.shared.changed.subscribe();
        let came = tokio::time::timeout(PATIENCE, changes.wait_for(|_| wanted(&self.requests()))).await.is_ok();
        assert!(came, "the upstream was not asked as expected, but: {:#?}", self.requests());
    }
}

impl Drop for FakeUpstream {
    fn drop(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
        }
    }
}

/// The connections belong to this future: dropped with it, they are closed.
async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                connections.spawn(serve::serve(Arc::clone(&shared), stream));
            }
            // A client that goes away in the middle of an answer is part of many tests.
            Some(_) = connections.join_next() => {}
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with the state in hand")
    }

    /// Notes a request and returns its number.
    fn record(&self, request: Request) -> usize {
        let mut state = self.state();
        state.requests.push(request);
        let number = state.requests.len() - 1;
        drop(state);
        self.tell();
        number
    }

    fn answered(&self, number: usize, status: u16) {
        self.state().requests[number].status = status;
        self.tell();
    }

    fn sent(&self, number: usize, bytes: u64) {
        self.state().requests[number].bytes_sent += bytes;
        self.tell();
    }

    fn tell(&self) {
        self.changed.send_modify(|change| *change += 1);
    }
}
