//! Minutes of everything at once over a store that is too small: pulls of more than it holds, clients that leave half-way, pushes,
//! mounts, deletes, sessions opened and cancelled, garbage collected, while the disk is measured every 20 ms.
//!
//! `cargo bench --bench soak -- [SECONDS [SEED]]`, ten minutes by default. `TMPDIR` says where the store lies, which is memory
//! otherwise. Ends with 1 if the bound was passed, a byte was wrong, a push was lost, or anything was left over.
#![expect(clippy::disallowed_methods, reason = "a benchmark owns its files, tasks and processes")]

#[path = "../tests/it/support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the tests, which use all of it")]
mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use support::client::Call;
use support::consistency::findings;
use support::disk::OnDisk;
use support::drill::{Dice, Origin, Pulls, Pusher};
use support::process::Process;
use tokio::sync::watch;

const MINUTES: usize = 10;
const BOUND_BYTES: u64 = 300 << 20;
const CACHE_BYTES: u64 = 200 << 20;
/// What the upstream has: more than the bound.
const IMAGES: usize = 60;
const IMAGE_BYTES_MAX: usize = 14 << 20;
const PULLERS: usize = 4;
const PUSHERS: usize = 3;
/// Pushes are slow enough not to fill the store by themselves.
const PUSH_EVERY: Duration = Duration::from_millis(700);
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// Longer than a push takes here.
const GRACE: Duration = Duration::from_secs(10);
const SAMPLE_EVERY: Duration = Duration::from_millis(20);

/// What the disk had, sampled.
#[derive(Default)]
struct Samples {
    taken: usize,
    max_bytes: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    // Cargo itself passes `--bench`.
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse::<usize>().ok());
    let (seconds, seed) = (numbers.next().unwrap_or(MINUTES * 60), numbers.next().unwrap_or(1) as u64);
    let folder = support::registry::folder();
    let mut dice = Dice::new(seed);
    let lengths = (0..IMAGES).map(|_| 1000 + dice.below(IMAGE_BYTES_MAX)).collect::<Vec<_>>();
    let origin = Origin::of(seed, &lengths).await;
    let offered: usize = lengths.iter().sum();
    println!("{seconds} s, seed {seed}: {} MB at the upstream, bound {} MB", offered >> 20, BOUND_BYTES >> 20);
    let upstream = format!("{{url: \"{}\", default: true, piece_size: 1MiB}}", origin.base_url());
    let config = format!(
        "upstreams: {{hub.example: {upstream}}}\nlocal_only: [\"team/**\"]\n\
         storage: {{min_free: 0, max_size: {BOUND_BYTES}B}}\ncache: {{max_size: {CACHE_BYTES}B}}\n"
    );
    std::fs::write(folder.path().join("config.yaml"), config).expect("it can be written to");
    let store = folder.path().join("data");
    let process = Process::serve(folder.path(), &[]).await;
    let ended = Arc::new(AtomicBool::new(false));
    let sampling = {
        let (store, ended) = (store.clone(), Arc::clone(&ended));
        std::thread::spawn(move || sample(&store, &ended))
    };
    let until = Instant::now() + Duration::from_secs(seconds as u64);
    let mut pushers: Vec<Pusher> =
        (0..PUSHERS).map(|n| Pusher::new(&format!("team/p{n}"), seed + 1 + n as u64)).collect();
    let pulling = (0..PULLERS).map(|_| pull(&origin, process.address, Dice::new(dice.roll()), until));
    let pulling: Vec<_> = pulling.collect();
    let leaving = leave(&origin, process.address, Dice::new(dice.roll()), until);
    let pushing = pushers.iter_mut().map(|pusher| push(pusher, process.address, until));
    let sweeping = sweep(process.address, until);
    let (pulled, left, _, swept) =
        tokio::join!(futures::future::join_all(pulling), leaving, futures::future::join_all(pushing), sweeping);
    ended.store(true, Ordering::Relaxed);
    let samples = sampling.join().expect("sampling does not panic");

    let mut pulls = Pulls::default();
    for pulled in pulled {
        pulls.add(pulled);
    }
    let (mut lost, mut errors, mut acknowledged) = (Vec::new(), BTreeMap::<String, usize>::new(), 0);
    for pusher in &mut pushers {
        pusher.forget_unnamed();
        lost.extend(pusher.check(process.address).await);
        pulls.refused.append(&mut pusher.refused);
        acknowledged += pusher.acknowledged;
    }
    for error in &pulls.refused {
        *errors.entry(error.split(' ').next().unwrap_or_default().to_owned()).or_default() += 1;
    }
    process.terminate();
    let (code, _) = process.ended().await;
    let mut leaked: Vec<String> = findings(&store, None).await.iter().map(ToString::to_string).collect();
    leaked.extend(OnDisk::of(&store).crumbs());
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
    let ratio = samples.max_bytes as f64 / BOUND_BYTES as f64;
    println!("{} samples, max {} of {BOUND_BYTES} bytes: max/bound {ratio:.4}", samples.taken, samples.max_bytes);
    println!("complete pulls {}, clients that left {left}, acknowledged changes {acknowledged}", pulls.complete);
    println!("blobs collected as garbage {swept}");
    println!("errors by status {errors:?}");
    println!("wrong bytes {}, lost pushes {}, left over {}", pulls.wrong_bytes.len(), lost.len(), leaked.len());
    for what in pulls.wrong_bytes.iter().chain(&lost).chain(&leaked) {
        println!("  {what}");
    }
    let is_sound = pulls.wrong_bytes.is_empty() && lost.is_empty() && leaked.is_empty();
    if is_sound && ratio <= 1.0 && code == Some(0) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn pull(origin: &Origin, address: SocketAddr, mut dice: Dice, until: Instant) -> Pulls {
    let (steps, _) = watch::channel(0);
    let mut pulls = Pulls::default();
    while Instant::now() < until {
        pulls.add(origin.pull_some(address, Dice::new(dice.roll()), 3, &steps).await);
    }
    pulls
}

/// Clients that read a little and go.
async fn leave(origin: &Origin, address: SocketAddr, mut dice: Dice, until: Instant) -> usize {
    let mut left = 0;
    while Instant::now() < until {
        origin.leave_half_way(address, &mut dice).await;
        left += 1;
        tokio::time::sleep(Duration::from_millis(dice.below(200) as u64)).await;
    }
    left
}

async fn push(pusher: &mut Pusher, address: SocketAddr, until: Instant) {
    let (steps, _) = watch::channel(0);
    while Instant::now() < until {
        pusher.work(address, "team/p0", &[], 1, &steps).await;
        tokio::time::sleep(PUSH_EVERY).await;
    }
}

/// Collects garbage again and again; a blob that no manifest names is some after the grace period. Returns how many went.
async fn sweep(address: SocketAddr, until: Instant) -> u64 {
    let path = format!("/api/v1/gc?grace={}s", GRACE.as_secs());
    let mut swept = 0;
    while Instant::now() < until {
        tokio::time::sleep(SWEEP_EVERY).await;
        let answer = Call::new("POST", &path).send(address).await;
        swept += answer.json()["blobs"].as_u64().expect("a sweep says what it took");
    }
    swept
}

/// Blocks of everything below the store, folders included, until the end.
fn sample(store: &Path, ended: &AtomicBool) -> Samples {
    let (mut samples, mut next) = (Samples::default(), Instant::now());
    while !ended.load(Ordering::Relaxed) {
        samples.taken += 1;
        samples.max_bytes = samples.max_bytes.max(allocated_bytes(store));
        next += SAMPLE_EVERY;
        std::thread::park_timeout(next.saturating_duration_since(Instant::now()));
    }
    samples
}

/// A file that is renamed while the folders are read may be seen twice: only what is there under its inode counts.
fn allocated_bytes(store: &Path) -> u64 {
    let (mut folders, mut seen) = (vec![PathBuf::from(store)], BTreeMap::new());
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.filter_map(Result::ok) {
            let Ok(metadata) = entry.metadata() else { continue };
            seen.insert(metadata.ino(), metadata.blocks() * 512);
            if metadata.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    seen.into_values().sum()
}
