//! A warm manifest by tag, as many as `wrk` can ask for in five seconds.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use crate::client::{Push, pull, push, push_manifest};
use crate::content::{Blob, EMPTY_CONFIG, MANIFEST_TYPE, digest_of, manifest};
use crate::origin::{Origin, REPOSITORY, manifest_path};
use crate::process::{Server, installed};
use crate::table::{Table, median, ratio};
use crate::{Bench, Result};

pub fn run(bench: &Bench) -> Result<()> {
    if !installed("wrk") {
        return Ok(());
    }
    let blob = Blob::create(bench.dir.join("blob"), 1 << 20, 2)?;
    let origin = Origin::start()?;
    origin.hold(std::slice::from_ref(&blob));
    let mut servers = vec![
        Server::entrepot(&bench.dir.join("entrepot"), origin.addr)?,
        Server::entrepot_quiet(&bench.dir.join("quiet"), origin.addr)?,
    ];
    if installed("nginx") {
        let root = static_root(bench, &manifest(std::slice::from_ref(&blob), EMPTY_CONFIG))?;
        servers.push(Server::nginx_logging(&bench.dir.join("nginx"), &root)?);
        servers.push(Server::nginx(&bench.dir.join("nginx-quiet"), &root)?);
    }
    if installed("docker-registry") {
        servers.push(distribution_with(bench, &blob)?);
    }
    let mut rates: Vec<Vec<f64>> = servers.iter().map(|_| Vec::new()).collect();
    for server in &servers {
        pull(server.addr, &manifest_path())?;
    }
    for _ in 0..bench.runs {
        for (server, rates) in servers.iter().zip(&mut rates) {
            rates.push(requests_per_second(server.addr, None)?);
        }
    }
    let title = "Warm manifest by tag, `wrk -t1 -c16 -d5s`";
    let mut table = Table::new(title, &["server", "requests/s", "entrepot is", "entrepot without a log is"]);
    for (server, own) in servers.iter().zip(&rates) {
        let against = |ours: &[f64]| format!("{:.2}×", ratio(ours, own));
        table.row(&[server.name.to_owned(), format!("{:.0}", median(own)), against(&rates[0]), against(&rates[1])]);
    }
    table.print();
    Ok(())
}

/// The manifest as a file.
fn static_root(bench: &Bench, bytes: &[u8]) -> Result<PathBuf> {
    let root = bench.dir.join("static");
    let path = root.join(manifest_path().trim_start_matches('/'));
    fs::create_dir_all(path.parent().ok_or("a manifest's path has a parent")?)?;
    fs::write(path, bytes)?;
    Ok(root)
}

fn distribution_with(bench: &Bench, blob: &Blob) -> Result<Server> {
    let server = Server::distribution(&bench.dir.join("distribution"))?;
    let path = bench.dir.join("config");
    fs::write(&path, EMPTY_CONFIG)?;
    let config = Blob { path, digest: digest_of(EMPTY_CONFIG), size_bytes: EMPTY_CONFIG.len() as u64 };
    push(server.addr, REPOSITORY, &config, Push::Put)?;
    push(server.addr, REPOSITORY, blob, Push::Put)?;
    push_manifest(server.addr, REPOSITORY, "1", &manifest(std::slice::from_ref(blob), EMPTY_CONFIG))?;
    Ok(server)
}

/// How long `wrk` asks.
pub const WRK_SECONDS: f64 = 5.0;

/// As many as `wrk` gets in five seconds, with that `Authorization`.
pub fn requests_per_second(server: SocketAddr, authorization: Option<&str>) -> Result<f64> {
    let url = format!("http://{server}{}", manifest_path());
    let mut wrk = Command::new("wrk");
    // On a machine that is busy otherwise two seconds, its default, are not enough for every answer.
    wrk.args(["-t1", "-c16", "-d5s", "--timeout", "30s", "-H"]).arg(format!("Accept: {MANIFEST_TYPE}"));
    wrk.args(authorization.map(|value| format!("-HAuthorization: {value}")));
    let output = wrk.arg(&url).output()?;
    let text = String::from_utf8(output.stdout)?;
    if text.contains("Non-2xx") || text.contains("Socket errors") {
        return Err(format!("wrk saw errors: {text}").into());
    }
    let line = text.lines().find_map(|line| line.strip_prefix("Requests/sec:")).ok_or("wrk printed no rate")?;
    Ok(line.trim().parse()?)
}
