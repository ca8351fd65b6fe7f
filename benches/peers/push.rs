//! A push against hashing the same bytes once, and against Distribution.

use crate::client::{Push, push};
use crate::content::{Blob, store};
use crate::origin::Origin;
use crate::process::{Server, installed};
use crate::table::{Table, median, mib, ratio};
use crate::{Bench, Result};

pub fn run(bench: &Bench) -> Result<()> {
    let mut blob = Blob::create(bench.dir.join("blob"), bench.blob_bytes, 5)?;
    let origin = Origin::start()?;
    let mut servers = vec![Server::entrepot(&bench.dir.join("entrepot"), origin.addr)?];
    if installed("docker-registry") {
        servers.push(Server::distribution(&bench.dir.join("distribution"))?);
    }
    let mut table = Table::new(
        format!("Push of {:.0} MiB", mib(blob.size_bytes)),
        &["server", "as", "s", "of hashing alone", "of writing and syncing alone", "entrepot is"],
    );
    let mut seed = 1000;
    for (how, name) in [(Push::Put, "one PUT"), (Push::ChunkedPatch, "chunked PATCH")] {
        let mut times: Vec<Vec<f64>> = servers.iter().map(|_| Vec::new()).collect();
        let (mut hashed, mut synced) = (Vec::new(), Vec::new());
        for _ in 0..bench.runs {
            seed += 1;
            // Bytes that no server has: one that is sent them again might take a shorter way.
            hashed.push(blob.change(seed)?.as_secs_f64());
            synced.push(store(&blob, &bench.dir.join("copy"))?.1.as_secs_f64());
            for (server, times) in servers.iter().zip(&mut times) {
                times.push(push(server.addr, "team/bench", &blob, how)?.as_secs_f64());
            }
        }
        for (server, own) in servers.iter().zip(&times) {
            table.row(&[
                server.name.to_owned(),
                name.to_owned(),
                format!("{:.2}", median(own)),
                format!("{:.2}×", ratio(own, &hashed)),
                format!("{:.2}×", ratio(own, &synced)),
                format!("{:.2}×", ratio(&times[0], own)),
            ]);
        }
    }
    table.print();
    Ok(())
}
