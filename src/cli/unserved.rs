//! The registry over a store that nobody serves, asked without a port: whoever may read the files reaches it, nobody else.

use std::path::PathBuf;
use std::sync::Arc;

use super::serve::{self, Opened};
use crate::clock::Clock;
use crate::config::Config;
use crate::http::Inside;
use crate::metadata::Metadata;
use crate::oci::Digest;
use crate::registry::Registry;

/// The registry of a store at rest. It holds the store's lock.
pub struct Unserved {
    inside: Inside,
    registry: Arc<Registry>,
    metadata: Metadata,
}

impl Unserved {
    /// Opens the store as a server does.
    pub async fn open(config: &Config) -> anyhow::Result<Self> {
        // Who has the files needs no leave of theirs, and is kept waiting by no limit on clients.
        let mut config = config.clone();
        config.auth = None;
        config.http.requests_per_second_max = 0;
        let Opened { registry, authority, metrics, metadata, .. } = serve::open(&config, Clock::System).await?;
        let inside = Inside::new(Arc::clone(&registry), authority, metrics, serve::app_options(&config, None));
        Ok(Self { inside, registry, metadata })
    }

    /// The registry.
    pub fn inside(&self) -> &Inside {
        &self.inside
    }

    /// The file of a blob that is stored, which stays for as long as nobody but us uses the store.
    pub fn file_of(&self, digest: &Digest) -> PathBuf {
        self.registry.depot().blobs.store().blob_path(digest)
    }

    /// Ends it in good order.
    pub async fn close(self) {
        self.registry.fills().stop().await;
        self.metadata.close().await;
    }
}
