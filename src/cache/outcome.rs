//! How an answer came about: one vocabulary for the `Entrepot-Cache` header, the log and the metrics.

/// How a request was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// From the cache, without asking anybody.
    Hit,
    /// From the upstream, by the transfer that this request started.
    Miss,
    /// From the upstream, by a transfer that another request had started.
    Coalesced,
    /// From the cache, after the upstream confirmed it.
    Revalidated,
    /// From the cache, although the upstream could not confirm it.
    Stale,
    /// From the upstream, without being kept.
    Bypass,
    /// Content that was pushed here.
    Local,
}

impl Outcome {
    /// All of them, those of most answers first.
    pub const ALL: [Self; 7] =
        [Self::Hit, Self::Local, Self::Revalidated, Self::Miss, Self::Coalesced, Self::Stale, Self::Bypass];

    /// The word in header, log and metric.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Coalesced => "coalesced",
            Self::Revalidated => "revalidated",
            Self::Stale => "stale",
            Self::Bypass => "bypass",
            Self::Local => "local",
        }
    }
}
