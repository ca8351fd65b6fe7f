//! Benchmarks against peers: entrepot, nginx and Distribution side by side on loopback, reported as ratios.
//!
//! `cargo bench --bench peers` runs every topic, `cargo bench --bench peers -- warm push` only those named. The runs of
//! two servers alternate and the median of the ratios of neighbouring runs is reported, so that a machine that slows
//! down in between does not favour either. Nothing here fails because of a time.
//!
//! | Variable | Meaning | Default |
//! | --- | --- | --- |
//! | `BENCH_GIB` | size of the big blob in GiB, also `0.25` | 1 |
//! | `BENCH_RUNS` | how often each pair is measured | 5 |
//! | `BENCH_CROWD_MIB` | blob sizes of `crowd` in MiB | 64 |
//! | `BENCH_DIR` | where the temporary directory is made | the system's |
//! | `ENTREPOT` | another entrepot binary | the one just built |
//!
//! The peers are Debian's packages `nginx-light`, `docker-registry` and `wrk`; one that is missing is said and left out.
#![expect(clippy::disallowed_methods, reason = "a benchmark reads its own environment and files")]

#[path = "peers/capped.rs"]
mod capped;
#[path = "peers/client.rs"]
mod client;
#[path = "peers/cold.rs"]
mod cold;
#[path = "peers/content.rs"]
mod content;
#[path = "peers/crowd.rs"]
mod crowd;
#[path = "peers/docker.rs"]
mod docker;
#[path = "peers/manifest.rs"]
mod manifest;
#[path = "peers/memory.rs"]
mod memory;
#[path = "peers/origin.rs"]
mod origin;
#[path = "peers/outage.rs"]
mod outage;
#[path = "peers/process.rs"]
mod process;
#[path = "peers/push.rs"]
mod push;
#[path = "peers/table.rs"]
mod table;
#[path = "peers/token.rs"]
mod token;
#[path = "peers/warm.rs"]
mod warm;

use std::error::Error;
use std::path::PathBuf;
use std::str::FromStr;

pub type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// What every topic is given.
pub struct Bench {
    /// Everything that is written goes below this directory.
    pub dir: PathBuf,
    pub blob_bytes: u64,
    pub runs: usize,
}

type Topic = (&'static str, fn(&Bench) -> Result<()>);

const TOPICS: [Topic; 10] = [
    ("warm", warm::run),
    ("manifest", manifest::run),
    ("token", token::run),
    ("cold", cold::run),
    ("capped", capped::run),
    ("docker", docker::run),
    ("crowd", crowd::run),
    ("push", push::run),
    ("memory", memory::run),
    ("outage", outage::run),
];

fn main() -> Result<()> {
    // Cargo itself passes `--bench`.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|name| !name.starts_with('-')).collect();
    if let Some(unknown) = wanted.iter().find(|name| TOPICS.iter().all(|(topic, _)| topic != name)) {
        let known: Vec<_> = TOPICS.iter().map(|(topic, _)| *topic).collect();
        return Err(format!("no topic {unknown}; there are {}", known.join(", ")).into());
    }
    let parent = std::env::var_os("BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let gib: f64 = setting("BENCH_GIB", 1.0)?;
    let runs = setting("BENCH_RUNS", 5)?;
    println!("{gib} GiB blobs, {runs} runs, {} cores", std::thread::available_parallelism()?);
    for (name, run) in TOPICS {
        if wanted.is_empty() || wanted.iter().any(|topic| topic == name) {
            let dir = tempfile::Builder::new().prefix("entrepot-bench.").tempdir_in(&parent)?;
            run(&Bench { dir: dir.path().to_owned(), blob_bytes: to_bytes(gib), runs })?;
        }
    }
    Ok(())
}

/// A number from the environment.
pub fn setting<T>(name: &str, default: T) -> Result<T>
where
    T: FromStr<Err: Error + Send + Sync + 'static>,
{
    match std::env::var(name) {
        Ok(value) => value.parse().map_err(|error: T::Err| format!("{name}={value}: {error}").into()),
        Err(_) => Ok(default),
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few GiB, rounded to MiB")]
fn to_bytes(gib: f64) -> u64 {
    ((gib * 1024.0) as u64) << 20
}
