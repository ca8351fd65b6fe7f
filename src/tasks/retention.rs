//! Retention: what was pushed and no rule of the configuration keeps is deleted now and then.

use std::sync::Arc;

use tracing::{info, warn};

use crate::clock::written;
use crate::registry::Registry;
use crate::report::Chain;
use crate::telemetry::Audit;
use crate::telemetry::audit::Entry;

/// Deletes what the rules do not keep, and says of each what and why.
pub async fn run_once(registry: &Arc<Registry>, audit: Option<&Audit>) {
    match registry.apply_retention().await {
        Ok(gone) => {
            for expired in &gone {
                let (repository, reference, rule, why) =
                    (&expired.repo, &expired.reference, &expired.rule, &expired.why);
                if let Some(audit) = audit {
                    let (digest, reference) = (expired.digest.to_string(), reference.to_string());
                    audit.record(&Entry {
                        time: written(registry.depot().clock.now_ms()),
                        event: "retention_delete",
                        decision: "allowed",
                        rule: Some(format!("retention {rule}")),
                        identity: "entrepot",
                        repository: Some(repository.to_string()),
                        reference: Some(&reference),
                        digest: Some(&digest),
                        ..Entry::default()
                    });
                }
                info!(%repository, %reference, digest = %expired.digest, rule, why, "deleted by retention");
            }
        }
        Err(error) => warn!(error = %Chain(&error), "applying the rules of retention failed and will be tried again"),
    }
}
