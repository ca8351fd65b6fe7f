//! A store against its index, whatever was done to it: the check that scrub makes, as an assertion.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use entrepot::blobs::Blobs;
use entrepot::cache::space::Sums;
use entrepot::metadata::{self, Metadata};
use entrepot::storage::{Error, Store};
use entrepot::tasks::check::{Depth, Finding, Kind, check};

/// How long a start of a process may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Everything that differs in the store of this folder, which nobody serves now. Every byte is read.
pub async fn findings(store: &Path, ledger: Option<Sums>) -> Vec<Finding> {
    let blobs = Blobs::new(Arc::new(unlocked(store).await));
    let options = metadata::Options::new(blobs.store().index_path());
    let index = Metadata::open(options).await.expect("the index opens");
    let findings = check(&index, &blobs, ledger, Depth::Digests).await.expect("the store can be read");
    index.close().await;
    findings
}

/// A process that another test is just starting has a copy of every open file, the lock of this store included, until its own
/// program begins.
async fn unlocked(store: &Path) -> Store {
    let began = Instant::now();
    loop {
        match Store::open(store, false) {
            Err(Error::Locked { .. }) if began.elapsed() < PATIENCE => tokio::task::yield_now().await,
            opened => return opened.expect("nobody else has the store"),
        }
    }
}

/// A store that was left in good order has nothing to find; `ledger` is what its registry counted in the end.
pub async fn assert_consistent(store: &Path, ledger: Option<Sums>) {
    hold(&findings(store, ledger).await);
}

/// A store whose process was killed may have what a crash leaves, and nothing else.
pub async fn assert_recoverable(store: &Path) {
    let found = findings(store, None).await;
    hold(&found.into_iter().filter(|finding| finding.kind() != Kind::Leftover).collect::<Vec<_>>());
}

fn hold(findings: &[Finding]) {
    let lines: Vec<String> = findings.iter().map(|finding| format!("{}: {finding}", finding.kind().as_str())).collect();
    assert!(findings.is_empty(), "{} findings in the store:\n{}", lines.len(), lines.join("\n"));
}
