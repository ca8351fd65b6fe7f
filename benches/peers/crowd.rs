//! A hundred clients at once on one cold blob: how often the upstream is asked, and how long the last one waits.

use std::net::SocketAddr;
use std::thread;

use crate::client::{get, pull};
use crate::content::Blob;
use crate::origin::{Origin, blob_path, manifest_path};
use crate::process::Server;
use crate::table::{Table, median, ratio};
use crate::{Bench, Result, setting};

const CLIENTS: usize = 100;

pub fn run(bench: &Bench) -> Result<()> {
    let mut table = Table::new(
        format!("{CLIENTS} clients at once on one cold blob"),
        &["blob, MiB", "upstream GETs", "slowest directly, s", "slowest through entrepot, s", "entrepot is"],
    );
    // Several sizes may be given: `BENCH_CROWD_MIB=64,256`.
    for size in setting("BENCH_CROWD_MIB", "64".to_owned())?.split(',') {
        table.row(&measure(bench, size.trim().parse()?)?);
    }
    table.print();
    Ok(())
}

fn measure(bench: &Bench, size_mib: u64) -> Result<[String; 5]> {
    let blob = Blob::create(bench.dir.join(format!("blob-{size_mib}")), size_mib << 20, 4)?;
    let origin = Origin::start()?;
    origin.hold(std::slice::from_ref(&blob));
    let (mut direct, mut through, mut gets) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..bench.runs {
        direct.push(slowest(origin.addr, &blob)?);
        let dir = bench.dir.join(format!("crowd-{size_mib}-{run}"));
        let server = Server::entrepot(&dir, origin.addr)?;
        get(server.addr, &manifest_path())?.expect(200)?.sink(None)?;
        origin.take_blob_gets();
        through.push(slowest(server.addr, &blob)?);
        gets.push(origin.take_blob_gets());
        drop(server);
        std::fs::remove_dir_all(dir)?;
    }
    gets.sort_unstable();
    gets.dedup();
    let gets: Vec<_> = gets.iter().map(ToString::to_string).collect();
    Ok([
        size_mib.to_string(),
        gets.join(", "),
        format!("{:.2}", median(&direct)),
        format!("{:.2}", median(&through)),
        format!("{:.2}×", ratio(&through, &direct)),
    ])
}

/// Seconds until the last of the clients has everything.
fn slowest(server: SocketAddr, blob: &Blob) -> Result<f64> {
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let path = blob_path(blob);
            thread::spawn(move || pull(server, &path))
        })
        .collect();
    let mut slowest = 0.0;
    for client in clients {
        let pulled = client.join().map_err(|_| "a client panicked")??;
        slowest = pulled.total.as_secs_f64().max(slowest);
    }
    Ok(slowest)
}
