//! A cold pull against asking the origin directly: the first byte, a whole big blob, and several at once.

use std::thread;
use std::time::Instant;

use crate::client::{get, pull};
use crate::content::{Blob, hash, store};
use crate::origin::{Origin, blob_path, manifest_path};
use crate::process::Server;
use crate::table::{Table, median, mib, ms, ratio};
use crate::{Bench, Result};

const SMALL_BLOBS: u64 = 40;
const SMALL_BYTES: u64 = 8 << 20;
const AT_ONCE: u64 = 4;

pub fn run(bench: &Bench) -> Result<()> {
    first_byte(bench)?;
    whole_blob(bench)?;
    several(bench)
}

/// Many blobs, each pulled once directly and once through; the manifest that names them first, as clients do.
fn first_byte(bench: &Bench) -> Result<()> {
    let blobs: Vec<Blob> = (0..SMALL_BLOBS)
        .map(|n| Blob::create(bench.dir.join(format!("small-{n}")), SMALL_BYTES, 100 + n))
        .collect::<Result<_>>()?;
    let origin = Origin::start()?;
    origin.hold(&blobs);
    let server = Server::entrepot(&bench.dir.join("first-byte"), origin.addr)?;
    get(server.addr, &manifest_path())?.expect(200)?.sink(None)?;
    let (mut direct, mut through, mut extra) = (Vec::new(), Vec::new(), Vec::new());
    for blob in &blobs {
        direct.push(ms(pull(origin.addr, &blob_path(blob))?.first_byte));
        through.push(ms(pull(server.addr, &blob_path(blob))?.first_byte));
        extra.push(through[through.len() - 1] - direct[direct.len() - 1]);
    }
    let mut table = Table::new(
        format!("First byte of a cold blob, {SMALL_BLOBS} blobs"),
        &["directly, ms", "through entrepot, ms", "later by, ms (median)", "later by, ms (worst)"],
    );
    let worst = extra.iter().copied().fold(f64::NAN, f64::max);
    table.row(&[median(&direct), median(&through), median(&extra), worst].map(|value| format!("{value:.2}")));
    table.print();
    Ok(())
}

/// A new entrepot for every run: nothing is cheaper to make cold than an empty store.
fn whole_blob(bench: &Bench) -> Result<()> {
    let blob = Blob::create(bench.dir.join("blob"), bench.blob_bytes, 3)?;
    let origin = Origin::start()?;
    origin.hold(std::slice::from_ref(&blob));
    let (mut direct, mut hashed, mut written) = (Vec::new(), Vec::new(), Vec::new());
    let (mut bound, mut through) = (Vec::new(), Vec::new());
    for run in 0..bench.runs {
        direct.push(pull(origin.addr, &blob_path(&blob))?.total.as_secs_f64());
        hashed.push(hash(&blob.path)?.1.as_secs_f64());
        written.push(store(&blob, &bench.dir.join("copy"))?.0.as_secs_f64());
        bound.push(direct[run].max(hashed[run]).max(written[run]));
        let dir = bench.dir.join(format!("whole-{run}"));
        let server = Server::entrepot(&dir, origin.addr)?;
        get(server.addr, &manifest_path())?.expect(200)?.sink(None)?;
        through.push(pull(server.addr, &blob_path(&blob))?.total.as_secs_f64());
        drop(server);
        std::fs::remove_dir_all(dir)?;
    }
    let mut table = Table::new(
        format!("Cold blob of {:.0} MiB", mib(blob.size_bytes)),
        &["directly, s", "hashing alone, s", "writing alone, s", "through entrepot, s", "entrepot is, of the slowest"],
    );
    table.row(&[
        format!("{:.2}", median(&direct)),
        format!("{:.2}", median(&hashed)),
        format!("{:.2}", median(&written)),
        format!("{:.2}", median(&through)),
        format!("{:.2}×", ratio(&through, &bound)),
    ]);
    table.print();
    Ok(())
}

/// The same bytes as one blob and as several that are pulled at once: each has a digest of its own to be hashed.
fn several(bench: &Bench) -> Result<()> {
    let one = vec![Blob::create(bench.dir.join("one"), bench.blob_bytes, 4)?];
    let parts: Vec<Blob> = (0..AT_ONCE)
        .map(|n| Blob::create(bench.dir.join(format!("part-{n}")), bench.blob_bytes / AT_ONCE, 200 + n))
        .collect::<Result<_>>()?;
    let origin = Origin::start()?;
    let (mut whole, mut apart, mut cores) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..bench.runs {
        whole.push(at_once(bench, &origin, &one, run)?.0);
        let (took, cpu) = at_once(bench, &origin, &parts, run)?;
        apart.push(took);
        cores.push(cpu / took);
    }
    let mut table = Table::new(
        format!("{AT_ONCE} cold blobs of {:.0} MiB at once", mib(parts[0].size_bytes)),
        &["the same bytes as one blob, s", "at once, s", "of one blob", "cores that entrepot kept busy"],
    );
    table.row(&[
        format!("{:.2}", median(&whole)),
        format!("{:.2}", median(&apart)),
        format!("{:.2}×", ratio(&apart, &whole)),
        format!("{:.2}", median(&cores)),
    ]);
    table.print();
    Ok(())
}

/// Seconds, and those of processors that the server spent meanwhile.
fn at_once(bench: &Bench, origin: &Origin, blobs: &[Blob], run: usize) -> Result<(f64, f64)> {
    origin.hold(blobs);
    let dir = bench.dir.join(format!("several-{run}"));
    let server = Server::entrepot(&dir, origin.addr)?;
    get(server.addr, &manifest_path())?.expect(200)?.sink(None)?;
    let (cpu, started) = (server.cpu()?, Instant::now());
    thread::scope(|scope| {
        let pulls: Vec<_> = blobs.iter().map(|blob| scope.spawn(|| pull(server.addr, &blob_path(blob)))).collect();
        pulls.into_iter().try_for_each(|pull| pull.join().map_err(|_| "a pull panicked")?.map(drop))
    })?;
    let spent = (started.elapsed().as_secs_f64(), server.cpu()?.saturating_sub(cpu).as_secs_f64());
    drop(server);
    std::fs::remove_dir_all(dir)?;
    Ok(spent)
}
