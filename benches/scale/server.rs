//! The server under test, on a free port; dropping it ends it.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::Result;
use crate::load;
use crate::store::Store;

/// More than any start takes.
const START_MAX: Duration = Duration::from_mins(2);

/// A server process.
pub struct Server {
    pub addr: SocketAddr,
    pub ready_after: Duration,
    child: Child,
}

impl Server {
    /// Serves a store with this bound of cached bytes, or with one that nothing reaches.
    pub fn start(store: &Store, cache_max_bytes: Option<u64>) -> Result<Self> {
        Self::start_at(&store.dir, cache_max_bytes)
    }

    /// Serves the store below this directory, making it if there is none.
    pub fn start_at(dir: &Path, cache_max_bytes: Option<u64>) -> Result<Self> {
        fs::create_dir_all(dir)?;
        // Most blobs have no bytes, which a scrub would find out.
        // An upstream that refuses at once, without a packet leaving the machine: port 1 of loopback.
        let addr = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let config = dir.join("config.yaml");
        let cache_max = cache_max_bytes.unwrap_or(1 << 42);
        fs::write(
            &config,
            format!(
                "http: {{listen: \"{addr}\"}}\nstorage: {{path: {}, min_free: 0, max_size: 9TiB, scrub_rate_max: 0}}\n\
                 cache: {{max_size: {cache_max}, revalidate_after: 20years}}\nlog: {{format: json}}\n\
                 upstreams: {{docker.io: {{url: \"http://127.0.0.1:1\", default: true, retries: 0}}}}\n",
                dir.join("store").display()
            ),
        )?;
        let binary =
            std::env::var_os("ENTREPOT").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_entrepot")), PathBuf::from);
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "--"]).arg(binary).args(["serve", "--config"]).arg(&config);
        let log = dir.join("log");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?);
        let began = Instant::now();
        let mut server = Self { addr, ready_after: Duration::ZERO, child: command.spawn()? };
        while !matches!(load::get(addr, "/readyz"), Ok((200, _))) {
            if server.child.try_wait()?.is_some() || began.elapsed() > START_MAX {
                return Err(format!("it did not come up:\n{}", fs::read_to_string(log)?).into());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        server.ready_after = began.elapsed();
        Ok(server)
    }

    /// How many blobs it has evicted.
    pub fn evicted(&self) -> Result<u64> {
        let (_, body) = load::get(self.addr, "/metrics")?;
        let line = body.lines().find_map(|line| line.strip_prefix("entrepot_evicted_blobs_total "));
        Ok(line.ok_or("there is no such metric")?.trim().parse()?)
    }

    /// One of the `Vm…` lines of the process's status, in bytes.
    pub fn memory(&self, line: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let value = status.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(':')).ok_or("no such line")?;
        Ok(value.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It cannot have been reaped before, so the id is still its own.
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            kill_process(pid, Signal::TERM).ok();
        }
        let asked = Instant::now();
        while asked.elapsed() < Duration::from_secs(40) {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
