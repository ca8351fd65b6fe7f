//! A warm blob: throughput, and what a GiB of it costs the server in processor time.

use std::fs;
use std::time::Instant;

use crate::client::{self, Push, pull, push};
use crate::content::Blob;
use crate::origin::{Origin, REPOSITORY, blob_path, manifest_path};
use crate::process::{Server, installed};
use crate::table::{Table, median, mib, ratio};
use crate::{Bench, Result};

/// Processor time is counted in steps of 10 ms; several GiB a sample make that small.
const PULLS_PER_SAMPLE: u32 = 4;
/// The last piece leaves before the file is durable.
const COMMIT_WITHIN: std::time::Duration = std::time::Duration::from_mins(1);

#[derive(Default)]
struct Samples {
    mib_per_second: Vec<f64>,
    cpu_seconds_per_gib: Vec<f64>,
}

pub fn run(bench: &Bench) -> Result<()> {
    let blob = Blob::create(bench.dir.join("blob"), bench.blob_bytes, 1)?;
    let origin = Origin::start()?;
    origin.hold(std::slice::from_ref(&blob));
    let mut servers = vec![Server::entrepot(&bench.dir.join("entrepot"), origin.addr)?];
    if installed("nginx") {
        servers.push(Server::nginx(&bench.dir.join("nginx"), &bench.dir.join("static"))?);
    }
    if installed("docker-registry") {
        let server = Server::distribution(&bench.dir.join("distribution"))?;
        push(server.addr, REPOSITORY, &blob, Push::Put)?;
        servers.push(server);
    }
    client::get(servers[0].addr, &manifest_path())?.expect(200)?.sink(None)?;
    pull(servers[0].addr, &blob_path(&blob))?;
    share(bench, &blob)?;
    // One pull of each that does not count: it fills the cache, and the page cache.
    for server in &servers {
        pull(server.addr, &blob_path(&blob))?;
    }
    let mut samples: Vec<Samples> = servers.iter().map(|_| Samples::default()).collect();
    for _ in 0..bench.runs {
        for (server, samples) in servers.iter().zip(&mut samples) {
            sample(server, &blob, samples)?;
        }
    }
    report(&blob, &servers, &samples);
    Ok(())
}

/// A directory laid out like a registry, so that nginx answers the same paths, and from the very file that entrepot has: how
/// the page cache came to hold a file decides what sending it costs.
fn share(bench: &Bench, blob: &Blob) -> Result<()> {
    let hex = blob.digest.trim_start_matches("sha256:");
    let stored = bench.dir.join("entrepot/store/blobs/sha256").join(&hex[..2]).join(hex);
    let path = bench.dir.join("static").join(blob_path(blob).trim_start_matches('/'));
    fs::create_dir_all(path.parent().ok_or("a blob's path has a parent")?)?;
    let deadline = Instant::now() + COMMIT_WITHIN;
    while fs::hard_link(&stored, &path).is_err() {
        if Instant::now() > deadline {
            return Err(format!("entrepot has not stored {}", stored.display()).into());
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    Ok(())
}

fn sample(server: &Server, blob: &Blob, samples: &mut Samples) -> Result<()> {
    let (cpu, started) = (server.cpu()?, Instant::now());
    for _ in 0..PULLS_PER_SAMPLE {
        pull(server.addr, &blob_path(blob))?;
    }
    let elapsed = started.elapsed().as_secs_f64();
    let pulled = mib(blob.size_bytes) * f64::from(PULLS_PER_SAMPLE);
    samples.mib_per_second.push(pulled / elapsed);
    samples.cpu_seconds_per_gib.push(server.cpu()?.saturating_sub(cpu).as_secs_f64() / (pulled / 1024.0));
    Ok(())
}

fn report(blob: &Blob, servers: &[Server], samples: &[Samples]) {
    let mut table = Table::new(
        format!("Warm blob of {:.0} MiB", mib(blob.size_bytes)),
        &["server", "MiB/s", "CPU s per GiB", "entrepot's throughput is", "entrepot's CPU is"],
    );
    for (server, own) in servers.iter().zip(samples) {
        table.row(&[
            server.name.to_owned(),
            format!("{:.0}", median(&own.mib_per_second)),
            format!("{:.3}", median(&own.cpu_seconds_per_gib)),
            format!("{:.2}×", ratio(&samples[0].mib_per_second, &own.mib_per_second)),
            format!("{:.2}×", ratio(&samples[0].cpu_seconds_per_gib, &own.cpu_seconds_per_gib)),
        ]);
    }
    table.print();
}
