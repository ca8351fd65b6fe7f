//! Compares every stored blob with its digest, again and again.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::registry::Registry;
use crate::report::Chain;

/// How long to wait when there is nothing to check, or when checking failed.
const REST: Duration = Duration::from_secs(10);

/// Goes on until `shutdown`, and writes down where it is before it returns.
pub async fn run(registry: Arc<Registry>, shutdown: CancellationToken) {
    let scrub = registry.scrub();
    let Some(mut rate) = scrub.rate() else { return };
    loop {
        let rest = match shutdown.run_until_cancelled(scrub.advance(&mut rate)).await {
            None => break,
            Some(Ok(true)) => Duration::ZERO,
            Some(Ok(false)) => REST,
            Some(Err(error)) => {
                warn!(error = %Chain(&error), "checking the stored blobs failed and will be tried again");
                REST
            }
        };
        if shutdown.run_until_cancelled(tokio::time::sleep(rest)).await.is_none() {
            break;
        }
    }
    if let Err(error) = scrub.keep().await {
        warn!(error = %Chain(&error), "writing down how far the check of the stored blobs has come failed");
    }
}
