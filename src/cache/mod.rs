//! What makes the registry a mirror: content of upstreams, fetched once, kept, and answered for.
//!
//! Decisions are pure (`freshness`, `breaker`, `space`); what acts on them runs on the server's account (`fills`, `flights`),
//! so that no client's leaving or slowness is felt by another.

mod access;
mod answers;
mod belief;
mod breaker;
mod bypass;
mod error;
mod fetch;
mod fill;
mod fill_turns;
mod fills;
mod flights;
pub mod foresight;
pub mod freshness;
mod incoming;
mod inventory;
mod lanes;
mod learn;
mod link;
mod lists;
mod live;
mod manifests;
mod memory;
mod mirror;
mod notice;
mod outcome;
mod pace;
mod plan;
mod prefetch;
mod proof;
pub mod quotas;
mod revalidate;
mod room;
mod scrub;
pub mod space;
mod sweep;
mod turns;
mod verifier;

use std::sync::Arc;
use std::time::Duration;

use crate::oci::RepositoryName;
use crate::upstream::Upstream;

pub use access::{Access, Probe};
pub use answers::LastAnswer;
pub use bypass::Bypass;
pub use error::{Error, Wrong};
pub use fill_turns::{FillTurn, FillTurns};
pub use fills::{Depot, Fill, Fills, Start};
pub use flights::{Flights, Role, to_the_end};
pub use foresight::Lifetime;
pub use inventory::{Finding, Inventory, Stocktaking};
pub use lanes::LaneLimits;
pub use learn::{Nameless, learn_names, recorded_names};
pub use lists::{ListLimits, Listed, Lists};
pub use live::{FillView, Priority};
pub use manifests::{Manifests, PulledManifest, Staleness};
pub use memory::{Memory, StoredManifest};
pub use mirror::{Mirror, Policy, Visibility};
pub use notice::{Witness, notice};
pub use outcome::Outcome;
pub use prefetch::Prefetch;
pub use proof::Proofs;
pub use room::{Pin, QuotaPromise, Reservation, Room, Verified};
pub use scrub::{Scrub, ScrubOptions, ScrubView};
pub use sweep::{Garbage, SweepOptions, SweepRequest, Sweeper, Swept};
pub use verifier::Verifier;

/// How long a client waits for the head of an answer, whatever it takes: containerd gives up at 30 s.
pub const HEADERS_WITHIN: Duration = Duration::from_secs(25);

/// A repository of an upstream: where its content is kept here, and what it is called there.
#[derive(Clone, Debug)]
pub struct Source {
    /// The upstream.
    pub mirror: Arc<Mirror>,
    /// `HOST/REPO`: the name under which its content is kept.
    pub canonical: RepositoryName,
    /// The name at the upstream.
    pub remote: RepositoryName,
    /// The upstream as the caller sees it, where we have no credentials of our own for what is not for everyone.
    pub caller: Option<Upstream>,
}

impl Source {
    /// The client to ask with, inside [`Mirror::ask`].
    pub fn upstream(&self) -> &Upstream {
        self.caller.as_ref().unwrap_or_else(|| self.mirror.upstream())
    }
}
