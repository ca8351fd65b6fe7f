//! Garbage collection beside the requests: what goes, what stays, and every moment in which somebody could come in between.

mod asked;
mod goes;
mod moments;
mod schedules;

use std::time::Duration;

use entrepot::cache::{SweepRequest, Swept};
use entrepot::oci::Digest;

use crate::support::client::Call;
use crate::support::registry::{TestRegistry, blob_path, manifest_path};

/// A sweep that leaves nothing for later.
const AT_ONCE: SweepRequest = SweepRequest { grace: Some(Duration::ZERO), full: false, dry_run: false };
/// A sweep as the server makes it by itself.
const AS_USUAL: SweepRequest = SweepRequest { grace: None, full: false, dry_run: false };
/// A little longer than the usual grace period.
const PAST_THE_GRACE: Duration = Duration::from_secs(3601);

async fn sweep(registry: &TestRegistry, request: SweepRequest) -> Swept {
    registry.registry().sweeper().sweep(request).await.expect("the store can be swept")
}

async fn delete_manifest(registry: &TestRegistry, repository: &str, digest: &Digest) {
    let answer = registry.send(Call::new("DELETE", &manifest_path(repository, digest))).await;
    assert_eq!(answer.status(), 202, "{:?}", answer.body);
}

async fn delete_blob(registry: &TestRegistry, repository: &str, digest: &Digest) {
    let answer = registry.send(Call::new("DELETE", &blob_path(repository, digest))).await;
    assert_eq!(answer.status(), 202, "{:?}", answer.body);
}

async fn has_blob(registry: &TestRegistry, repository: &str, digest: &Digest) -> bool {
    registry.get(&blob_path(repository, digest)).await.status() == 200
}

async fn has_manifest(registry: &TestRegistry, repository: &str, digest: &Digest) -> bool {
    registry.get(&manifest_path(repository, digest)).await.status() == 200
}
