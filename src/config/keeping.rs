//! `quotas`, `pin` and `retention`: what repositories may hold, what stays whatever else has to go, what goes of what was pushed.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    diagnose::Fault,
    tree::{KeyPath, Step},
    units,
    validate::Check,
};

/// A rule on what stays of pushed content. The first that matches a repository counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    /// A glob ([`units::glob`]) of repositories; must be there.
    pub repositories: String,
    /// So many tags stay, the last written. Default: this keeps none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_last: Option<usize>,
    /// Globs of tags that stay and do not count among the last. Default none.
    pub keep_tags: Vec<String>,
    /// Tags stay whose manifest was pulled or pushed within this time. Default: this keeps none.
    #[serde(with = "units::duration_or_inherited", skip_serializing_if = "Option::is_none")]
    pub keep_pulled_within: Option<Duration>,
    /// Manifests that nothing leads to go when they were neither pulled nor pushed for so long. Default: they stay.
    #[serde(with = "units::duration_or_inherited", skip_serializing_if = "Option::is_none")]
    pub delete_untagged_after: Option<Duration>,
}

/// A bound on what the repositories that a pattern matches hold together. The first that matches a repository counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RepositoryQuota {
    /// A glob ([`units::glob`]) of repositories; must be there.
    pub repositories: String,
    /// The bound; must be there.
    #[serde(rename = "max_size", with = "units::bytes")]
    pub max_size_bytes: u64,
}

/// The globs of repositories and of tags that a pattern of `pin` stands for: without a tag it means every tag.
pub fn pin_globs(pattern: &str) -> Result<(globset::Glob, globset::Glob), globset::Error> {
    // A colon before the last slash belongs to the host's port.
    let (repositories, tags) = match pattern.rsplit_once(':') {
        Some((repositories, tags)) if !tags.contains('/') => (repositories, tags),
        _ => (pattern, "*"),
    };
    Ok((units::glob(repositories)?, units::glob(tags)?))
}

impl Check<'_> {
    /// The patterns of `pin`.
    pub(super) fn pins(&mut self, patterns: &[String]) {
        for (index, pattern) in patterns.iter().enumerate() {
            if let Err(error) = pin_globs(pattern) {
                let fault = Fault::Pattern { pattern: pattern.clone(), reason: error.kind().clone() };
                self.refuse(KeyPath::of(&["pin"]).then(Step::Index(index)), fault);
            }
        }
    }

    /// Each of `quotas` says whose it is, and what it is.
    pub(super) fn quotas(&mut self, quotas: &[RepositoryQuota]) {
        for (index, quota) in quotas.iter().enumerate() {
            let path = KeyPath::of(&["quotas"]).then(Step::Index(index));
            if quota.repositories.is_empty() {
                self.refuse(path, Fault::Missing { key: "repositories" });
                continue;
            }
            if quota.max_size_bytes == 0 {
                self.refuse(path.clone().then(Step::Key("max_size".to_owned())), Fault::Zero);
            }
            if let Err(error) = units::glob(&quota.repositories) {
                let fault = Fault::Pattern { pattern: quota.repositories.clone(), reason: error.kind().clone() };
                self.refuse(path.then(Step::Key("repositories".to_owned())), fault);
            }
        }
    }

    /// The rules of `retention`: each says of what it is, and what goes by it.
    pub(super) fn retention(&mut self, rules: &[Retention]) {
        for (index, rule) in rules.iter().enumerate() {
            let path = KeyPath::of(&["retention"]).then(Step::Index(index));
            if rule.repositories.is_empty() {
                self.refuse(path, Fault::Missing { key: "repositories" });
                continue;
            }
            if let Err(error) = units::glob(&rule.repositories) {
                let fault = Fault::Pattern { pattern: rule.repositories.clone(), reason: error.kind().clone() };
                self.refuse(path.clone().then(Step::Key("repositories".to_owned())), fault);
            }
            self.globs(&path.clone().then(Step::Key("keep_tags".to_owned())), &rule.keep_tags);
            let deletes_tags = rule.keep_last.is_some() || rule.keep_pulled_within.is_some();
            if !deletes_tags && (rule.delete_untagged_after.is_none() || !rule.keep_tags.is_empty()) {
                self.refuse(path, Fault::DeletesNothing);
            }
        }
    }
}
