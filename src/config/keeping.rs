//! `pin` and `retention`: what stays of the cache whatever else has to go, and what goes of what was pushed.

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

/// The glob that a pattern of `pin` stands for, over `REPOSITORY:TAG`: without a tag it means every tag.
pub fn pin_glob(pattern: &str) -> Result<globset::Glob, globset::Error> {
    let has_tag = pattern.rsplit('/').next().is_some_and(|last| last.contains(':'));
    if has_tag { units::glob(pattern) } else { units::glob(&format!("{pattern}:*")) }
}

impl Check<'_> {
    /// The patterns of `pin`.
    pub(super) fn pins(&mut self, patterns: &[String]) {
        for (index, pattern) in patterns.iter().enumerate() {
            if let Err(error) = pin_glob(pattern) {
                let fault = Fault::Pattern { pattern: pattern.clone(), reason: error.kind().clone() };
                self.refuse(KeyPath::of(&["pin"]).then(Step::Index(index)), fault);
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
