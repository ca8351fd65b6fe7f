//! Memory: many slow readers of one big blob, cold at first, and pushes beside them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::client::{Push, get, push};
use crate::content::Blob;
use crate::origin::{Origin, blob_path, manifest_path};
use crate::process::Server;
use crate::table::{Table, mib};
use crate::{Bench, Result};

const READERS: usize = 200;
const READER_BYTES_PER_SECOND: u64 = 1 << 20;
const READING: Duration = Duration::from_secs(20);
const PUSHES: u64 = 20;

pub fn run(bench: &Bench) -> Result<()> {
    let blob = Blob::create(bench.dir.join("blob"), bench.blob_bytes, 6)?;
    let pushed: Vec<Blob> = (0..PUSHES)
        .map(|n| Blob::create(bench.dir.join(format!("push-{n}")), bench.blob_bytes / 8, 2000 + n))
        .collect::<Result<_>>()?;
    let origin = Origin::start()?;
    origin.hold(std::slice::from_ref(&blob));
    let server = Server::entrepot(&bench.dir.join("entrepot"), origin.addr)?;
    let idle = server.memory("VmRSS")?;
    get(server.addr, &manifest_path())?.expect(200)?.sink(None)?;

    let (done, peak_own) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        // The kernel keeps the peak of all resident memory itself; that of the anonymous part has to be watched.
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                peak_own.fetch_max(server.memory("RssAnon").unwrap_or(0), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(50));
            }
        });
        let result = load(&server, &blob, &pushed);
        done.store(true, Ordering::Relaxed);
        result
    })?;

    let mut table = Table::new(
        format!("{READERS} slow pulls of one cold blob of {:.0} MiB and {PUSHES} pushes at once", mib(blob.size_bytes)),
        &["upstream GETs", "idle, MiB", "peak RSS, MiB", "of it anonymous, MiB", "bytes in flight, MiB"],
    );
    let in_flight = blob.size_bytes * READERS as u64 + pushed.iter().map(|blob| blob.size_bytes).sum::<u64>();
    table.row(&[
        origin.take_blob_gets().to_string(),
        format!("{:.0}", mib(idle)),
        format!("{:.0}", mib(server.memory("VmHWM")?)),
        format!("{:.0}", mib(peak_own.load(Ordering::Relaxed))),
        format!("{:.0}", mib(in_flight)),
    ]);
    table.print();
    Ok(())
}

fn load(server: &Server, blob: &Blob, pushed: &[Blob]) -> Result<()> {
    thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS)
            .map(|_| {
                scope.spawn(|| get(server.addr, &blob_path(blob))?.expect(200)?.sip(READER_BYTES_PER_SECOND, READING))
            })
            .collect();
        let uploads: Vec<_> = pushed
            .iter()
            .enumerate()
            .map(|(n, blob)| {
                let how = if n % 2 == 0 { Push::Put } else { Push::ChunkedPatch };
                scope.spawn(move || push(server.addr, "team/bench", blob, how))
            })
            .collect();
        for reader in readers {
            reader.join().map_err(|_| "a reader panicked")??;
        }
        for upload in uploads {
            upload.join().map_err(|_| "a push panicked")??;
        }
        Ok(())
    })
}
