//! What it costs to know who asks: a warm manifest by tag from a server without `auth`, and from one with users to nobody in
//! particular, to whom shows a token, and to whom shows a password each time.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use crate::client::{get_with, pull};
use crate::content::Blob;
use crate::manifest::{WRK_SECONDS, requests_per_second};
use crate::origin::{Origin, REPOSITORY, manifest_path};
use crate::process::{Server, binary, installed};
use crate::table::{Table, median, ratio};
use crate::{Bench, Result};

const USER: &str = "bench";
const PASSWORD: &str = "bench";
const FRESH: Duration = Duration::from_hours(1);

pub fn run(bench: &Bench) -> Result<()> {
    if !installed("wrk") {
        return Ok(());
    }
    let blob = Blob::create(bench.dir.join("blob"), 1 << 20, 2)?;
    let origin = Origin::start()?;
    origin.hold(std::slice::from_ref(&blob));
    let open = Server::entrepot(&bench.dir.join("open"), origin.addr)?;
    let users = bench.dir.join("htpasswd");
    fs::write(&users, user_line()?)?;
    // Longer than the benchmark: a token that expires on the way would stop it.
    let auth = format!("auth: {{htpasswd: {}, anonymous: pull, token_lifetime: 1h}}\n", users.display());
    let guarded = Server::entrepot_with(&bench.dir.join("guarded"), origin.addr, FRESH, &auth)?;
    for server in [&open, &guarded] {
        pull(server.addr, &manifest_path())?;
    }
    let password = format!("Basic {}", BASE64_STANDARD.encode(format!("{USER}:{PASSWORD}")));
    let token = format!("Bearer {}", token(guarded.addr, &password)?);
    // A server that looked at no token would be fast.
    get_with(guarded.addr, &manifest_path(), "Authorization: Bearer none\r\n")?.expect(401)?;
    let contestants = [
        ("no `auth`", &open, None),
        ("anonymous", &guarded, None),
        ("a token", &guarded, Some(token.as_str())),
        ("a password", &guarded, Some(password.as_str())),
    ];
    let mut rates = contestants.map(|_| Vec::new());
    let mut costs = contestants.map(|_| Vec::new());
    for _ in 0..bench.runs {
        for (at, (_, server, authorization)) in contestants.iter().enumerate() {
            let before = server.cpu()?;
            let rate = requests_per_second(server.addr, *authorization)?;
            costs[at].push(server.cpu()?.saturating_sub(before).as_secs_f64() * 1e6 / (rate * WRK_SECONDS));
            rates[at].push(rate);
        }
    }
    let columns = ["who asks", "requests/s", "against no `auth`", "server CPU, µs a request", "against no `auth`"];
    let mut table = Table::new("Warm manifest by tag, `wrk -t1 -c16 -d5s`, and who asks for it", &columns);
    for ((name, ..), (rate, cost)) in contestants.iter().zip(rates.iter().zip(&costs)) {
        table.row(&[
            (*name).to_owned(),
            format!("{:.0}", median(rate)),
            format!("{:.2}×", ratio(rate, &rates[0])),
            format!("{:.1}", median(cost)),
            format!("{:.2}×", ratio(cost, &costs[0])),
        ]);
    }
    table.print();
    Ok(())
}

/// A line for the file of users.
fn user_line() -> Result<Vec<u8>> {
    let mut command = Command::new(binary());
    command.args(["hash-password", USER]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut running = command.spawn()?;
    running.stdin.take().ok_or("no input")?.write_all(format!("{PASSWORD}\n").as_bytes())?;
    Ok(running.wait_with_output()?.stdout)
}

fn token(server: SocketAddr, password: &str) -> Result<String> {
    let path = format!("/token?service=entrepot&scope=repository:{REPOSITORY}:pull");
    let answer = get_with(server, &path, &format!("Authorization: {password}\r\n"))?.expect(200)?;
    let answer: Value = serde_json::from_slice(&answer.body()?)?;
    Ok(answer["token"].as_str().ok_or("an answer without a token")?.to_owned())
}
