//! Retention: what was pushed and no rule of the configuration keeps is deleted now and then.

use std::sync::Arc;

use tracing::{info, warn};

use crate::registry::Registry;
use crate::report::Chain;

/// Deletes what the rules do not keep, and says of each what and why.
pub async fn run_once(registry: &Arc<Registry>) {
    match registry.apply_retention().await {
        Ok(gone) => {
            for expired in &gone {
                let (repository, reference, rule, why) =
                    (&expired.repo, &expired.reference, &expired.rule, &expired.why);
                info!(%repository, %reference, digest = %expired.digest, rule, why, "deleted by retention");
            }
        }
        Err(error) => warn!(error = %Chain(&error), "applying the rules of retention failed and will be tried again"),
    }
}
