//! A cached tag that has to be confirmed: by an upstream that is dead, and for a thousand clients at once.

use std::net::SocketAddr;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use crate::client::pull;
use crate::content::Blob;
use crate::origin::{Mood, Origin, manifest_path};
use crate::process::Server;
use crate::table::{Table, median, ms};
use crate::{Bench, Result};

const CLIENTS: usize = 1_000;
/// Pulls after the first one that meets a dead upstream.
const AFTERWARDS: usize = 200;
/// For how long a tag is fresh here, and a little more than that.
const FRESH: Duration = Duration::from_secs(5);
const EXPIRED: Duration = Duration::from_millis(5_200);

pub fn run(bench: &Bench) -> Result<()> {
    let mut dead = Table::new(
        "A cached tag whose upstream is dead",
        &["upstream", "fresh, ms", "first pull, ms", "afterwards median, ms", "afterwards slowest, ms"],
    );
    for (name, mood) in [("takes requests and is silent", Mood::Silent), ("hangs up", Mood::HangsUp)] {
        let (origin, server) = with_tag(bench, name)?;
        let fresh = pull(server.addr, &manifest_path())?.total;
        origin.be(mood);
        thread::sleep(EXPIRED);
        let first = pull(server.addr, &manifest_path())?.total;
        let afterwards = (0..AFTERWARDS).map(|_| Ok(ms(pull(server.addr, &manifest_path())?.total)));
        let afterwards: Vec<f64> = afterwards.collect::<Result<_>>()?;
        let slowest = afterwards.iter().copied().fold(0.0, f64::max);
        let figures = [ms(fresh), ms(first), median(&afterwards), slowest].map(|figure| format!("{figure:.1}"));
        dead.row(&[&[name.to_owned()], figures.as_slice()].concat());
    }
    dead.print();
    let mut crowd = Table::new(
        format!("{CLIENTS} clients at once on one tag that has to be confirmed"),
        &["run", "upstream requests", "slowest, s"],
    );
    for run in 0..bench.runs {
        let (origin, server) = with_tag(bench, &format!("crowd {run}"))?;
        thread::sleep(EXPIRED);
        origin.take_manifest_requests();
        let slowest = all_at_once(server.addr)?;
        crowd.row(&[
            run.to_string(),
            origin.take_manifest_requests().to_string(),
            format!("{:.2}", slowest.as_secs_f64()),
        ]);
    }
    crowd.print();
    Ok(())
}

/// A server that has the tag, just confirmed.
fn with_tag(bench: &Bench, name: &str) -> Result<(Origin, Server)> {
    let dir = bench.dir.join(name.replace(' ', "-"));
    std::fs::create_dir_all(&dir)?;
    let blob = Blob::create(dir.join("blob"), 1 << 20, 6)?;
    let origin = Origin::start()?;
    origin.hold(std::slice::from_ref(&blob));
    let server = Server::entrepot_with(&dir.join("entrepot"), origin.addr, FRESH, "")?;
    pull(server.addr, &manifest_path())?;
    Ok((origin, server))
}

/// How long the last of them waits.
fn all_at_once(server: SocketAddr) -> Result<Duration> {
    let barrier = Barrier::new(CLIENTS);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| {
                    barrier.wait();
                    pull(server, &manifest_path())
                })
            })
            .collect();
        let mut slowest = Duration::ZERO;
        for client in clients {
            slowest = slowest.max(client.join().map_err(|_| "a client panicked")??.total);
        }
        Ok(slowest)
    })
}
