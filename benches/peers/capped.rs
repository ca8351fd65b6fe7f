//! Cold pulls where the upstream bounds each connection: one large blob, and an image whose client asks for three layers at
//! a time, as docker does.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{get, pull};
use crate::content::Blob;
use crate::origin::{Origin, blob_path, manifest_path};
use crate::process::Server;
use crate::table::{Table, median, mib, ratio};
use crate::{Bench, Result};

const BYTES_PER_SECOND: u64 = 40_000_000;
const LAYERS: u64 = 10;
/// What docker asks for at a time.
const AT_A_TIME: usize = 3;

pub fn run(bench: &Bench) -> Result<()> {
    let blob = Blob::create(bench.dir.join("blob"), bench.blob_bytes, 7)?;
    let title = format!("Cold blob of {:.0} MiB, 40 MB/s for each connection", mib(blob.size_bytes));
    compare(bench, title, std::slice::from_ref(&blob))?;
    let layers: Vec<Blob> = (0..LAYERS)
        .map(|n| Blob::create(bench.dir.join(format!("layer-{n}")), bench.blob_bytes / 20, 3000 + n))
        .collect::<Result<_>>()?;
    let title = format!(
        "Cold image of {LAYERS} layers of {:.0} MiB, {AT_A_TIME} asked for at a time",
        mib(layers[0].size_bytes)
    );
    compare(bench, title, &layers)
}

fn compare(bench: &Bench, title: String, layers: &[Blob]) -> Result<()> {
    let origin = Origin::capped(BYTES_PER_SECOND)?;
    origin.hold(layers);
    let (mut direct, mut through) = (Vec::new(), Vec::new());
    for run in 0..bench.runs {
        direct.push(pull_image(origin.addr, layers)?.as_secs_f64());
        origin.take_blob_gets();
        let dir = bench.dir.join(format!("capped-{run}"));
        let server = Server::entrepot(&dir, origin.addr)?;
        through.push(pull_image(server.addr, layers)?.as_secs_f64());
        drop(server);
        std::fs::remove_dir_all(dir)?;
    }
    let columns = ["directly, s", "through entrepot, s", "requests upstream", "entrepot is, of directly"];
    let mut table = Table::new(title, &columns);
    table.row(&[
        format!("{:.2}", median(&direct)),
        format!("{:.2}", median(&through)),
        origin.take_blob_gets().to_string(),
        format!("{:.2}×", ratio(&through, &direct)),
    ]);
    table.print();
    Ok(())
}

/// The manifest, and then the layers in their order.
fn pull_image(server: SocketAddr, layers: &[Blob]) -> Result<Duration> {
    let started = Instant::now();
    get(server, &manifest_path())?.expect(200)?.sink(None)?;
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        let pullers: Vec<_> = (0..AT_A_TIME)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    while let Some(layer) = layers.get(next.fetch_add(1, Ordering::Relaxed)) {
                        pull(server, &blob_path(layer))?;
                    }
                    Ok(())
                })
            })
            .collect();
        pullers.into_iter().try_for_each(|puller| puller.join().map_err(|_| "a puller panicked")?)
    })?;
    Ok(started.elapsed())
}
