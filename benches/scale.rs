//! A large store, measured: does anything cost more because there is much of everything?
//!
//! `cargo bench --bench scale` makes a store of a million blobs, 100 000 manifests, 10 000 repositories and 200 000 tags and
//! prints what it measured beside what is aimed at; `cargo bench --bench scale -- 0.01` does the same with a hundredth of it.
//! Nothing here fails because of a time. `BENCH_DIR` says where the store is made, `ENTREPOT` may name another binary.
//!
//! What is real: every row of the index, written by the very functions that serve (`Metadata::put_manifest`,
//! `Metadata::commit_blob`), so that the schema cannot differ; the manifests that are asked for; the files of the blobs that are
//! evicted, one block each. What is not: blobs that are neither read nor evicted have a row and no file.
#![expect(clippy::disallowed_methods, reason = "a benchmark reads its own environment and files")]

#[path = "scale/load.rs"]
mod load;
#[path = "scale/server.rs"]
mod server;
#[path = "scale/store.rs"]
mod store;
#[path = "peers/table.rs"]
mod table;

use std::cell::Cell;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use load::Load;
use server::Server;
use store::{Shape, Store};
use table::{Table, median, mib, ms};

pub type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// How long each rate is measured.
const MEASURED_FOR: Duration = Duration::from_secs(5);
/// Longer than eviction takes.
const EVICTED_WITHIN: Duration = Duration::from_mins(5);
/// How often the server is asked how far it is.
const ASKED_EVERY: Duration = Duration::from_millis(100);
/// What has to find room.
const NEW: &str = "new";
/// Pairs of runs whose ratios are compared.
const RUNS: usize = 3;

fn main() -> Result<()> {
    let factor = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let factor: f64 = factor.map_or(Ok(1.0), |text| text.parse())?;
    let parent = std::env::var_os("BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::Builder::new().prefix("entrepot-scale.").tempdir_in(parent)?;
    let shape = Shape::of(factor);
    println!("{shape}, {} cores", std::thread::available_parallelism()?);
    let began = Instant::now();
    let large = Store::create(&dir.path().join("large"), &shape)?;
    println!("made in {:.0} s", began.elapsed().as_secs_f64());
    let small = Store::create(&dir.path().join("small"), &Shape::small())?;
    let mut table = Table::new(format!("A store of {shape}"), &["what", "measured", "aim"]);
    start(&large, &mut table)?;
    pages(&large, &mut table)?;
    manifests(&large, &small, &mut table)?;
    evictions(&large, &mut table)?;
    garbage(&large, &mut table)?;
    table.print();
    Ok(())
}

/// From the start of the process to the first `200` of `/readyz`, and what the process takes then.
fn start(store: &Store, table: &mut Table) -> Result<()> {
    let mut times = Vec::new();
    let mut empty = Vec::new();
    let nothing = store.dir.join("nothing");
    for _ in 0..RUNS {
        times.push(ms(Server::start(store, None)?.ready_after));
        empty.push(ms(Server::start_at(&nothing, None)?.ready_after));
    }
    row(table, "start to ready", format!("{:.0} ms", median(&times)), "≤ 1 s");
    row(table, "the same with an empty store", format!("{:.0} ms", median(&empty)), "");
    Ok(())
}

/// Pages of tags and of the catalog, each begun at another place.
fn pages(store: &Store, table: &mut Table) -> Result<()> {
    let server = Server::start(store, None)?;
    for (what, paths) in [
        ("a page of 100 tags, p99", store.tag_pages(100)),
        ("a page of 1000 tags, p99", store.tag_pages(1000)),
        ("a page of 100 repositories, p99", store.catalog_pages(100)),
        ("a page of 1000 repositories, p99", store.catalog_pages(1000)),
    ] {
        let measured = Load { connections: 1, paths }.run(server.addr, MEASURED_FOR)?;
        row(table, what, format!("{:.2} ms", measured.percentile_ms(99.0)), "≤ 5 ms");
    }
    Ok(())
}

/// Warm manifests by tag: the same ones of a large and of a small store, turn about.
fn manifests(large: &Store, small: &Store, table: &mut Table) -> Result<()> {
    let servers = [Server::start(large, None)?, Server::start(small, None)?];
    let load = |store: &Store| Load { connections: 16, paths: store.manifest_paths() };
    let loads = [load(large), load(small)];
    for (server, load) in servers.iter().zip(&loads) {
        load.once(server.addr)?;
    }
    let mut rates = [Vec::new(), Vec::new()];
    for _ in 0..RUNS {
        for ((server, load), rates) in servers.iter().zip(&loads).zip(&mut rates) {
            rates.push(load.run(server.addr, MEASURED_FOR)?.per_second());
        }
    }
    let measured = format!(
        "{:.0} against {:.0} requests/s, {:.2}×",
        median(&rates[0]),
        median(&rates[1]),
        table::ratio(&rates[0], &rates[1])
    );
    row(table, "warm manifests, against a store of nothing else", measured, "≥ 0.9×");
    Ok(())
}

/// A store whose limit was lowered below what is there, when somebody needs room, while manifests are pulled.
fn evictions(store: &Store, table: &mut Table) -> Result<()> {
    let victims = store.victims as u64;
    let load = Load { connections: 4, paths: store.manifest_paths() };
    let unbound = Server::start(store, None)?;
    load.once(unbound.addr)?;
    let calm = load.run(unbound.addr, MEASURED_FOR)?;
    drop(unbound);
    let server = Server::start(store, Some(store.cached_bytes - store.victim_bytes()))?;
    load.once(server.addr)?;
    let (addr, path, before, began) = (server.addr, store.cold_path(NEW), server.evicted()?, Instant::now());
    let asking = std::thread::spawn(move || load::send(addr, "PUT", &path, NEW));
    // What is too much may go by itself before anybody asks for room: all of it counts from here on.
    let is_over = || began.elapsed() > EVICTED_WITHIN || server.evicted().is_ok_and(|evicted| evicted >= victims);
    let busy = load.run_until(server.addr, seldom(is_over))?;
    let took = began.elapsed();
    let (status, body) = asking.join().map_err(|_| "the asking thread panicked")??;
    if status != 201 {
        return Err(format!("no room was made: {status} {body}").into());
    }
    let evicted = server.evicted()? - before;
    let rate = per_second(evicted, took);
    let measured = format!("{rate:.0} ({evicted} in {:.2} s, {before} before that)", took.as_secs_f64());
    row(table, "blobs evicted per second", measured, "≥ 2000");
    let (calm_ms, busy_ms) = (calm.percentile_ms(99.0), busy.percentile_ms(99.0));
    row(
        table,
        "warm manifests meanwhile, p99",
        format!("{busy_ms:.2} ms after {calm_ms:.2} ms, {:.1}×", busy_ms / calm_ms),
        "≤ 2×",
    );
    let (now, peak) = (server.memory("VmRSS")?, server.memory("VmHWM")?);
    row(table, "memory after all that", format!("{:.0} MiB, at most {:.0}", mib(now), mib(peak)), "≤ 150 MiB");
    Ok(())
}

/// The same question, asked the server a few times a second only: its metrics are work for it, and that is not what is measured.
fn seldom(is_over: impl Fn() -> bool) -> impl Fn() -> bool {
    let asked = Cell::new(Instant::now());
    move || {
        if asked.get().elapsed() < ASKED_EVERY {
            return false;
        }
        asked.set(Instant::now());
        is_over()
    }
}

/// A sweep, after one in a hundred manifests was deleted.
fn garbage(store: &Store, table: &mut Table) -> Result<()> {
    let server = Server::start(store, None)?;
    let load = Load { connections: 4, paths: store.manifest_paths() };
    load.once(server.addr)?;
    let calm = load.run(server.addr, MEASURED_FOR)?;
    let (addr, began) = (server.addr, Instant::now());
    // Everything that was pushed is looked at once after its grace period. Here all of it was pushed just now, elsewhere it
    // came over months.
    let looked_at = sweep(addr)?["reviewed"].as_f64().unwrap_or_default();
    let measured = format!("{:.0}", looked_at / began.elapsed().as_secs_f64());
    row(table, "pushed blobs looked at per second", measured, "");
    load::delete(addr, &store.garbage_paths())?;
    let began = Instant::now();
    let sweeping = std::thread::spawn(move || (sweep(addr), began.elapsed()));
    let busy = load.run_until(server.addr, || sweeping.is_finished())?;
    let (swept, took) = sweeping.join().map_err(|_| "the sweeping thread panicked")?;
    let measured = format!("{} blobs in {:.2} s", swept?["blobs"], took.as_secs_f64());
    row(table, "garbage of one manifest in a hundred collected", measured, "≤ 10 s");
    let (calm_ms, busy_ms) = (calm.percentile_ms(99.0), busy.percentile_ms(99.0));
    let measured = format!("{busy_ms:.2} ms after {calm_ms:.2} ms, {:.1}×", busy_ms / calm_ms);
    row(table, "warm manifests meanwhile, p99", measured, "");
    Ok(())
}

fn sweep(server: std::net::SocketAddr) -> Result<serde_json::Value> {
    match load::send(server, "POST", "/api/v1/gc?grace=0s", "")? {
        (200, swept) => Ok(serde_json::from_str(&swept)?),
        (status, said) => Err(format!("nothing was swept: {status} {said}").into()),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn per_second(n: u64, time: Duration) -> f64 {
    n as f64 / time.as_secs_f64()
}

fn row(table: &mut Table, what: &str, measured: String, aim: &str) {
    println!("{what}: {measured}");
    table.row(&[what.to_owned(), measured, aim.to_owned()]);
}

/// The file of a blob in a store.
pub fn blob_file(store: &Path, hex: &str) -> PathBuf {
    store.join("blobs/sha256").join(&hex[..2]).join(hex)
}
