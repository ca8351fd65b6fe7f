//! Who asks, as far as it matters to the answer.

use std::fmt;
use std::sync::Arc;

use crate::cache::Witness;
use crate::oci::{RepositoryName, Tag};
use crate::upstream::Credentials;

/// The client of a request.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    /// Who it says it is.
    pub credentials: Option<Credentials>,
    /// Who that is, if it has been proven: what it may have at a time is counted by this name.
    pub identity: Option<Arc<str>>,
    /// It does not trust what is cached, and may have it looked after: an upstream is asked again, stored bytes are
    /// digested again.
    pub insists: bool,
    /// It wants what is stored here and nothing else: no upstream is asked on its account.
    pub only_stored: bool,
    /// What it may see of repositories besides the one that it asks for.
    pub sight: Sight,
    /// The tags that nobody moves or deletes in the repository that it asks for.
    pub keeps: Keeps,
    /// What is told of its request, if anybody listens.
    pub witness: Option<Arc<Witness>>,
}

type Sees = dyn Fn(&RepositoryName) -> bool + Send + Sync;

/// Which repositories somebody may pull from, by the names under which they are kept here. Everything, by default.
#[derive(Clone, Default)]
pub struct Sight(Option<Arc<Sees>>);

impl Sight {
    /// What `sees` says yes to.
    pub fn new(sees: impl Fn(&RepositoryName) -> bool + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(sees)))
    }

    /// May its owner pull from this repository?
    pub fn sees(&self, name: &RepositoryName) -> bool {
        self.0.as_ref().is_none_or(|sees| sees(name))
    }
}

impl fmt::Debug for Sight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Sight(some)" } else { "Sight(all)" })
    }
}

type KeepsTag = dyn Fn(&Tag) -> bool + Send + Sync;

/// Which tags are set once and for all. None, by default.
#[derive(Clone, Default)]
pub struct Keeps(Option<Arc<KeepsTag>>);

impl Keeps {
    /// What `keeps` says yes to.
    pub fn new(keeps: impl Fn(&Tag) -> bool + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(keeps)))
    }

    /// Is this tag set once and for all?
    pub fn keeps(&self, tag: &Tag) -> bool {
        self.0.as_ref().is_some_and(|keeps| keeps(tag))
    }

    /// Is no tag?
    pub fn is_nothing(&self) -> bool {
        self.0.is_none()
    }
}

impl fmt::Debug for Keeps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Keeps(some)" } else { "Keeps(nothing)" })
    }
}
