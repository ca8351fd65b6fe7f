//! Removes what nobody needs any more, again and again.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::cache::SweepRequest;
use crate::registry::Registry;
use crate::report::Chain;

/// Goes on until `shutdown`, which ends a sweep under way after its batch, whoever asked for it.
pub async fn run(registry: Arc<Registry>, shutdown: CancellationToken) {
    let sweeper = registry.sweeper();
    let interval = sweeper.options().interval;
    let sweeping = async {
        while !interval.is_zero() {
            tokio::time::sleep(interval).await;
            if let Err(error) = sweeper.sweep(SweepRequest::default()).await {
                warn!(error = %Chain(&error), "sweeping the store failed and will be tried again");
            }
        }
        // It is done when it is asked for.
        std::future::pending::<()>().await;
    };
    let stopped = async {
        shutdown.cancelled().await;
        sweeper.stop().await;
    };
    // Biased to the sweep, so that one that ends has told what it did before nobody listens.
    tokio::select! {
        biased;
        () = sweeping => {}
        () = stopped => {}
    }
}
