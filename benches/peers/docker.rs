//! A cold `docker pull` of an image of ten layers where the upstream bounds each connection: with a real dockerd, which fetches
//! three layers at a time and unpacks them in their order.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::content::Blob;
use crate::origin::{Origin, REPOSITORY};
use crate::process::{Process, Server, installed};
use crate::table::{Table, median, mib, ratio};
use crate::{Bench, Result};

const BYTES_PER_SECOND: u64 = 40_000_000;
const LAYERS: u64 = 10;

pub fn run(bench: &Bench) -> Result<()> {
    if !["dockerd", "docker", "containerd"].into_iter().all(installed) {
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        println!("\ndockerd needs root: left out");
        return Ok(());
    }
    let layers: Vec<Blob> = (0..LAYERS).map(|n| layer(&bench.dir, n, bench.blob_bytes / 20)).collect::<Result<_>>()?;
    let origin = Origin::capped(BYTES_PER_SECOND)?;
    origin.hold_image(&layers, config(&layers));
    let docker = Docker::start(&bench.dir.join("docker"))?;
    let (mut direct, mut through) = (Vec::new(), Vec::new());
    for run in 0..bench.runs {
        direct.push(docker.pull(origin.addr)?.as_secs_f64());
        let dir = bench.dir.join(format!("docker-{run}"));
        let server = Server::entrepot(&dir, origin.addr)?;
        through.push(docker.pull(server.addr)?.as_secs_f64());
        drop(server);
        fs::remove_dir_all(dir)?;
    }
    let title =
        format!("docker pull, cold, {LAYERS} layers of {:.0} MiB, 40 MB/s a connection", mib(layers[0].size_bytes));
    let mut table = Table::new(title, &["directly, s", "through entrepot, s", "entrepot is, of directly"]);
    table.row(&[
        format!("{:.2}", median(&direct)),
        format!("{:.2}", median(&through)),
        format!("{:.2}×", ratio(&through, &direct)),
    ]);
    table.print();
    Ok(())
}

/// A tar with one file of pseudo-random bytes; uncompressed, so that its digest is its diff id.
fn layer(dir: &Path, n: u64, bytes: u64) -> Result<Blob> {
    let content = Blob::create(dir.join(format!("content-{n}")), bytes, 5000 + n)?;
    let path = dir.join(format!("layer-{n}.tar"));
    let mut tar = tar::Builder::new(File::create(&path)?);
    tar.append_path_with_name(&content.path, format!("srv/{n}"))?;
    tar.into_inner()?.sync_all()?;
    fs::remove_file(content.path)?;
    Blob::of(path)
}

fn config(layers: &[Blob]) -> Vec<u8> {
    let diff_ids: Vec<_> = layers.iter().map(|layer| &layer.digest).collect();
    json!({ "architecture": "amd64", "os": "linux", "config": {}, "rootfs": { "type": "layers", "diff_ids": diff_ids } })
        .to_string()
        .into_bytes()
}

/// A dockerd of our own over a containerd of our own, all of whose files are below one directory.
struct Docker {
    socket: PathBuf,
    // In the order in which they end.
    _dockerd: Process,
    _containerd: Process,
}

impl Docker {
    fn start(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let below = |name: &str| dir.join(name).display().to_string();
        fs::write(
            dir.join("containerd.toml"),
            format!(
                "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
                 [grpc]\n  address = {:?}\n[plugins.\"io.containerd.internal.v1.opt\"]\n  path = {:?}\n",
                below("containerd"),
                below("containerd-state"),
                below("containerd.sock"),
                below("opt"),
            ),
        )?;
        let containerd = Process::start("containerd", &["--config", &below("containerd.toml")], dir)?;
        let is_20 =
            String::from_utf8(Command::new("dockerd").arg("--version").output()?.stdout)?.contains("version 20.");
        // Only 20.10 writes a key below /etc/docker unless told otherwise.
        let settings = if is_20 { json!({ "deprecated-key-path": below("key.json") }) } else { json!({}) };
        fs::write(dir.join("daemon.json"), settings.to_string())?;
        let socket = dir.join("docker.sock");
        let host = format!("unix://{}", socket.display());
        let folders =
            [("--config-file", "daemon.json"), ("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "pid")];
        let mut arguments: Vec<String> =
            folders.iter().flat_map(|(flag, name)| [(*flag).to_owned(), below(name)]).collect();
        arguments.extend(["--containerd".to_owned(), below("containerd.sock"), "--host".to_owned(), host]);
        let plain = ["--storage-driver=overlay2", "--iptables=false", "--ip6tables=false", "--bridge=none"];
        arguments.extend(plain.map(str::to_owned));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let docker = Self { socket, _dockerd: Process::start("dockerd", &arguments, dir)?, _containerd: containerd };
        let started = Instant::now();
        while docker.run(&["version"]).is_err() {
            if started.elapsed() > Duration::from_secs(30) {
                return Err(
                    format!("dockerd did not come up:\n{}", fs::read_to_string(dir.join("dockerd.log"))?).into()
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(docker)
    }

    /// How long a pull takes; the image is removed again.
    fn pull(&self, registry: SocketAddr) -> Result<Duration> {
        let image = format!("{registry}/{REPOSITORY}:1");
        let started = Instant::now();
        self.run(&["pull", "--quiet", &image])?;
        let took = started.elapsed();
        self.run(&["image", "rm", "--force", &image])?;
        Ok(took)
    }

    fn run(&self, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new("docker");
        command.arg("--host").arg(format!("unix://{}", self.socket.display())).args(arguments);
        let output = command.stdin(Stdio::null()).output()?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)).into())
    }
}
