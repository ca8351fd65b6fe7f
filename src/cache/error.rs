//! Why the cache could not answer. Shared between all who waited for the same answer, hence the `Arc`s.

use std::sync::Arc;
use std::time::Duration;

use super::space::Contradiction;
use crate::oci::{Digest, Host, ManifestInvalid};
use crate::{blobs, metadata, upstream};

/// An upstream's `Retry-After` is believed up to this.
const STAY_AWAY_MAX: Duration = Duration::from_hours(1);

/// Why the cache could not answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The upstream was asked, or had been asked a moment ago.
    #[error("asking the upstream {host}")]
    Upstream {
        /// Which.
        host: Host,
        /// What came of it.
        source: upstream::Error,
    },
    /// The upstream failed several times in a row and is left alone for a while.
    #[error("the upstream {host} keeps failing and is not asked for now")]
    Resting {
        /// Which.
        host: Host,
        /// When it will be tried again.
        retry_after: Duration,
    },
    /// `offline` is on and nothing is cached.
    #[error("the upstream {host} must not be asked (offline is on) and the content is not in the cache")]
    Offline {
        /// Which.
        host: Host,
    },
    /// What may still be asked is kept for what is not cached.
    #[error("the upstream {host} is not asked for what is cached: its rate limit is nearly used up (rate_reserve)")]
    Sparing {
        /// Which.
        host: Host,
    },
    /// The upstream took longer than a client waits.
    #[error("the upstream {host} did not answer within {} s", waited.as_secs())]
    Slow {
        /// Which.
        host: Host,
        /// For how long.
        waited: Duration,
    },
    /// What the upstream sent is not what it was asked for. Nothing of it was kept.
    #[error("the upstream {host} sent something else than {asked}")]
    Wrong {
        /// Which.
        host: Host,
        /// What it was asked for.
        asked: String,
        /// How that was found out.
        source: Arc<Wrong>,
    },
    /// There is no room to keep it, and it cannot be passed through.
    #[error("the store has no room for {bytes} bytes")]
    NoRoom {
        /// How many were wanted.
        bytes: u64,
    },
    /// The repository's quota is used up.
    #[error("{quota} allows {max_bytes} bytes, and {bytes} more do not fit")]
    OverQuota {
        /// Which.
        quota: String,
        /// The bound, in bytes.
        max_bytes: u64,
        /// How many more were wanted.
        bytes: u64,
    },
    /// The configured bounds cannot hold.
    #[error(transparent)]
    Limits(#[from] Contradiction),
    /// The blobs could not be read or written.
    #[error("using the store")]
    Blobs(#[source] Arc<blobs::Error>),
    /// The index could not be read or written.
    #[error("using the index")]
    Metadata(#[source] Arc<metadata::Error>),
    /// The server is ending, or a job of it panicked.
    #[error("the server is stopping")]
    Stopped,
}

/// How an upstream's answer was found to be wrong.
#[derive(Debug, thiserror::Error)]
pub enum Wrong {
    /// The bytes have another digest.
    #[error("the bytes have digest {actual}")]
    Digest {
        /// Theirs.
        actual: Digest,
    },
    /// The bytes are no manifest.
    #[error("the bytes are no manifest")]
    Manifest(#[source] ManifestInvalid),
    /// The body ended in good order before the announced length.
    #[error("there are less than the announced {announced_bytes} bytes")]
    TooShort {
        /// How many were announced.
        announced_bytes: u64,
    },
    /// There are more bytes than were announced.
    #[error("there are more than the announced {announced_bytes} bytes")]
    TooLong {
        /// How many were announced.
        announced_bytes: u64,
    },
    /// The pages of a list come back to one that was there before.
    #[error("its pages run in a circle")]
    Endless,
    /// A page that the one before it announced is not there.
    #[error("a page that it announced is not there")]
    Incomplete,
    /// A list that must be whole to be answered with is too long.
    #[error("it has more than {max} entries, the limit is cache.list_entries_max")]
    TooMany {
        /// The limit.
        max: usize,
    },
    /// What should list referrers is no index.
    #[error("the bytes are no index")]
    NoIndex,
}

impl Wrong {
    /// What is wrong with an announced length of nothing, if this is not the digest of nothing. That has to be found out
    /// before a client is answered: of an empty body no last piece can be withheld, so it looks complete at once.
    pub(super) fn announced(length_bytes: Option<u64>, digest: &Digest) -> Option<Self> {
        let actual = Digest::of(digest.algorithm(), b"");
        (length_bytes == Some(0) && actual != *digest).then_some(Self::Digest { actual })
    }
}

impl From<blobs::Error> for Error {
    fn from(error: blobs::Error) -> Self {
        Self::Blobs(Arc::new(error))
    }
}

impl From<metadata::Error> for Error {
    fn from(error: metadata::Error) -> Self {
        Self::Metadata(Arc::new(error))
    }
}

impl Error {
    /// Did the upstream itself say that it has no such thing?
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Upstream { source, .. } if source.is_not_found())
    }

    /// Could the upstream not even be asked?
    pub fn is_out_of_reach(&self) -> bool {
        match self {
            Self::Upstream { source, .. } => {
                matches!(source, upstream::Error::Connect { .. } | upstream::Error::TimedOut { .. })
            }
            Self::Resting { .. } | Self::Offline { .. } | Self::Slow { .. } => true,
            _ => false,
        }
    }

    /// May the same question succeed in a moment?
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Upstream { source, .. } => source.is_transient(),
            Self::Resting { .. } => true,
            _ => false,
        }
    }

    /// For how long this counts as the upstream's answer, if it is a no. An outage is none: that is the breaker's.
    pub(super) fn lasts(&self, negative_ttl: Duration) -> Option<Duration> {
        use upstream::Error::{NotFound, RateLimited, RealmRefused, Refused};
        let Self::Upstream { source, .. } = self else { return None };
        match source {
            NotFound { .. } | Refused { .. } | RealmRefused { .. } => Some(negative_ttl),
            RateLimited { retry_after, .. } => Some(retry_after.unwrap_or(negative_ttl).min(STAY_AWAY_MAX)),
            _ => None,
        }
    }

    /// One word for logs and metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Upstream { source, .. } => source.kind(),
            Self::Resting { .. } => "resting",
            Self::Offline { .. } => "offline",
            Self::Sparing { .. } => "budget",
            Self::Slow { .. } => "slow",
            Self::Wrong { .. } => "wrong",
            Self::NoRoom { .. } => "no_room",
            Self::OverQuota { .. } => "over_quota",
            Self::Limits(_) => "limits",
            Self::Blobs(_) => "store",
            Self::Metadata(_) => "index",
            Self::Stopped => "stopped",
        }
    }
}
