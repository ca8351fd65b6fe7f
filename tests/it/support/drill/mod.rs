//! Crash drills: the real binary under load, killed at a named point or at any moment, started again, and held against what it
//! had acknowledged, against what the upstream has, and against the disk.

mod dice;
mod puller;
mod pusher;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::watch;

pub use dice::Dice;
pub use puller::{Origin, Pulls};
pub use pusher::Pusher;

use super::client::Call;
use super::consistency::findings;
use super::disk::{OnDisk, Told};
use super::process::Process;
use super::registry;

/// Bound of what is cached: less than the upstream has, so that blobs are evicted all the time.
const CACHE_MAX_BYTES: u64 = 1_200_000;
const PUSHERS: usize = 3;
const PULLERS: usize = 3;
/// What each client does in a round, if it is not interrupted.
const STEPS: usize = 6;
/// A kill at any moment comes after so many steps of its clients, at most, and so much time.
const ANYTIME_WITHIN_STEPS: usize = 30;
const ANYTIME_WITHIN_US: usize = 5_000;

/// When the process dies.
#[derive(Clone, Copy, Debug)]
pub enum Kill {
    /// When it comes to this point for so many times.
    At(&'static str, usize),
    /// At any moment of the load.
    Anytime,
}

/// What came of the rounds so far.
#[derive(Debug, Default)]
pub struct Tally {
    pub rounds: usize,
    /// Kills by where they came.
    pub kills: BTreeMap<&'static str, usize>,
    /// Rounds that ended in good order because the point was not come to.
    pub survived: usize,
    /// Changes that were acknowledged.
    pub acknowledged: usize,
    pub lost: Vec<String>,
    pub wrong_bytes: Vec<String>,
    pub drift: Vec<String>,
    /// Partial fills that a restart went on with.
    pub continued: usize,
    /// Answers that were errors of the server.
    pub refused: Vec<String>,
}

impl Tally {
    /// Nothing lost, wrong, miscounted or refused.
    pub fn is_sound(&self) -> bool {
        [&self.lost, &self.wrong_bytes, &self.drift, &self.refused].iter().all(|found| found.is_empty())
    }

    #[allow(dead_code, reason = "the bench adds up several stores")]
    pub fn add(&mut self, mut other: Self) {
        self.rounds += other.rounds;
        self.survived += other.survived;
        self.acknowledged += other.acknowledged;
        self.continued += other.continued;
        other.kills.into_iter().for_each(|(point, kills)| *self.kills.entry(point).or_default() += kills);
        self.lost.append(&mut other.lost);
        self.wrong_bytes.append(&mut other.wrong_bytes);
        self.drift.append(&mut other.drift);
        self.refused.append(&mut other.refused);
    }
}

/// A store, its clients, and the upstream.
pub struct Drill {
    folder: TempDir,
    origin: Origin,
    pushers: Vec<Pusher>,
    dice: Dice,
    pub tally: Tally,
}

impl Drill {
    pub async fn new(seed: u64) -> Self {
        let (folder, origin) = (registry::folder(), Origin::start(seed).await);
        let upstream = format!("{{url: \"{}\", default: true, piece_size: 64KiB, prefetch: off}}", origin.base_url());
        let config = format!(
            "upstreams: {{hub.example: {upstream}}}\nlocal_only: [\"team/**\"]\nstorage: {{min_free: 0, max_size: 1GiB}}\n\
             cache: {{max_size: {CACHE_MAX_BYTES}B}}\nhttp: {{shutdown_grace: 5s}}\n"
        );
        std::fs::write(folder.path().join("config.yaml"), config).expect("it can be written to");
        let pushers = (0..PUSHERS).map(|n| Pusher::new(&format!("team/p{n}"), seed + 1 + n as u64)).collect();
        Self { folder, origin, pushers, dice: Dice::new(seed), tally: Tally::default() }
    }

    fn store(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// One life and death, and what is there afterwards.
    pub async fn round(&mut self, kill: Kill) {
        self.tally.rounds += 1;
        let killed = self.live_and_die(kill).await;
        match (killed, kill) {
            (true, Kill::At(point, _)) => *self.tally.kills.entry(point).or_default() += 1,
            (true, Kill::Anytime) => *self.tally.kills.entry("at any moment").or_default() += 1,
            (false, _) => self.tally.survived += 1,
        }
        let left = OnDisk::of(&self.store());
        let process = Process::serve(self.folder.path(), &[]).await;
        self.check(&process, &left).await;
        process.terminate();
        let (code, log) = process.ended().await;
        assert_eq!(code, Some(0), "{log:#?}");
        let found = findings(&self.store(), None).await;
        self.tally.drift.extend(found.iter().map(|finding| format!("{}: {finding}", finding.kind().as_str())));
        self.tally.drift.extend(OnDisk::of(&self.store()).crumbs());
    }

    /// True if it was killed; otherwise it ended in good order.
    async fn live_and_die(&mut self, kill: Kill) -> bool {
        let crash = match kill {
            Kill::At(point, nth) => format!("--crash-at={point}@{nth}"),
            Kill::Anytime => String::new(),
        };
        let arguments: Vec<&str> = Some(crash.as_str()).filter(|crash| !crash.is_empty()).into_iter().collect();
        // Some points are come to before it serves.
        let Ok(process) = Process::try_serve(self.folder.path(), &arguments).await else { return true };
        let after_steps = 1 + self.dice.below(ANYTIME_WITHIN_STEPS);
        let then_after = Duration::from_micros(self.dice.below(ANYTIME_WITHIN_US) as u64);
        let (steps, mut stepped) = watch::channel(0);
        let steps = &steps;
        let mut process = Some(process);
        let address = process.as_ref().expect("it was just started").address;
        let mut pulls = Pulls::default();
        {
            let offered: Vec<_> =
                self.pushers.iter().map(|pusher| (pusher.repository().to_owned(), pusher.offered())).collect();
            let pushing = self.pushers.iter_mut().enumerate().map(|(n, pusher)| {
                let (from, blobs) = offered[(n + 1) % offered.len()].clone();
                async move { pusher.work(address, &from, &blobs, STEPS, steps).await }
            });
            // Without a grace period a sweep takes what a push is about to name, so that one comes before the pushes.
            let pushing = async {
                sweep(address, steps).await;
                futures::future::join_all(pushing).await
            };
            let pulling =
                (0..PULLERS).map(|_| self.origin.pull_some(address, Dice::new(self.dice.roll()), STEPS, steps));
            let pulling: Vec<_> = pulling.collect();
            let working = async {
                let (_, pulled) = tokio::join!(pushing, futures::future::join_all(pulling));
                for pulled in pulled {
                    pulls.add(pulled);
                }
            };
            let killing = async {
                if matches!(kill, Kill::Anytime) {
                    stepped.wait_for(|steps| *steps >= after_steps).await.expect("the sender is here");
                    tokio::time::sleep(then_after).await;
                    process.take().expect("nobody else ends it").kill();
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = working => {}
                () = killing => {}
            }
        }
        self.tally.wrong_bytes.append(&mut pulls.wrong_bytes);
        for pusher in &mut self.pushers {
            self.tally.acknowledged += std::mem::take(&mut pusher.acknowledged);
            self.tally.refused.append(&mut pusher.refused);
        }
        let Some(process) = process else { return true };
        process.terminate();
        process.ended().await.0.is_none()
    }

    async fn check(&mut self, process: &Process, left: &OnDisk) {
        let now = OnDisk::of(&self.store());
        let metrics = process.send(Call::get("/metrics")).await;
        self.tally.drift.extend(now.drift(Told::by_metrics(&String::from_utf8_lossy(&metrics.body))));
        let (continued, wrong) = self.origin.continue_fills(process.address, left, &self.store()).await;
        self.tally.continued += continued;
        self.tally.drift.extend(wrong);
        for pusher in &mut self.pushers {
            self.tally.lost.extend(pusher.check(process.address).await);
        }
    }
}

/// Collects the garbage that deletes have left. Nobody answers where the server was killed meanwhile.
async fn sweep(address: SocketAddr, steps: &watch::Sender<usize>) {
    steps.send_modify(|steps| *steps += 1);
    if let Ok(answer) = Call::new("POST", "/api/v1/gc?grace=0s").try_send(address).await {
        assert_eq!(answer.status(), 200, "{:?}", answer.body);
    }
}
