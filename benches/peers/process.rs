//! The servers under test: started on a free port with a directory of their own, measured and ended by process id.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::Result;
use crate::client;

/// A server process.
pub struct Server {
    pub name: &'static str,
    pub addr: SocketAddr,
    process: Process,
}

impl Server {
    /// entrepot with the upstream as default; `dir` is created and must be new for a cold cache.
    pub fn entrepot(dir: &Path, upstream: SocketAddr) -> Result<Self> {
        Self::entrepot_with(dir, upstream, Duration::from_hours(1), "")
    }

    /// The same without a line for each request.
    pub fn entrepot_quiet(dir: &Path, upstream: SocketAddr) -> Result<Self> {
        let no_lines = "  level: \"info,entrepot::access=warn\"\n";
        Self::entrepot_as("entrepot, no log", dir, upstream, Duration::from_hours(1), no_lines)
    }

    /// The same with tags that are fresh for so long, and with more lines of configuration.
    pub fn entrepot_with(dir: &Path, upstream: SocketAddr, revalidate_after: Duration, more: &str) -> Result<Self> {
        Self::entrepot_as("entrepot", dir, upstream, revalidate_after, more)
    }

    fn entrepot_as(
        name: &'static str,
        dir: &Path,
        upstream: SocketAddr,
        revalidate_after: Duration,
        more: &str,
    ) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let addr = free_addr()?;
        let (config, store) = (dir.join("config.yaml"), dir.join("store"));
        fs::write(
            &config,
            format!(
                "http:\n  listen: {addr}\nstorage:\n  path: {}\n  min_free: 0\n  max_size: 200GiB\ncache:\n  max_size: 100GiB\n  \
                 revalidate_after: {}s\nupstreams:\n  docker.io: {{url: \"http://{upstream}\", default: true}}\nlog:\n  format: json\n{more}",
                store.display(),
                revalidate_after.as_secs(),
            ),
        )?;
        let mut command = ending_with_us(&binary());
        command.args(["serve", "--config"]).arg(config);
        Self::start(name, command, addr, "/readyz", dir)
    }

    /// nginx with static files below `root`, set up as well as it can be for them.
    pub fn nginx(dir: &Path, root: &Path) -> Result<Self> {
        Self::nginx_as("nginx, no log", dir, root, "off")
    }

    /// The same with the log of requests that it keeps unless it is told not to.
    pub fn nginx_logging(dir: &Path, root: &Path) -> Result<Self> {
        Self::nginx_as("nginx", dir, root, "/dev/null")
    }

    fn nginx_as(name: &'static str, dir: &Path, root: &Path, access_log: &str) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let addr = free_addr()?;
        let config = dir.join("nginx.conf");
        let (dir_text, root) = (dir.display(), root.display());
        fs::write(
            &config,
            format!(
                "daemon off; worker_processes auto; user root; pid {dir_text}/pid; error_log {dir_text}/error.log;\n\
                 events {{ worker_connections 4096; }}\n\
                 http {{ access_log {access_log}; sendfile on; tcp_nopush on; keepalive_requests 1000000000; etag on;\n\
                 client_body_temp_path {dir_text}/t1; proxy_temp_path {dir_text}/t2; fastcgi_temp_path {dir_text}/t3;\n\
                 uwsgi_temp_path {dir_text}/t4; scgi_temp_path {dir_text}/t5; types {{ }}\n\
                 server {{ listen {addr}; root {root}; default_type application/octet-stream;\n\
                 add_header Docker-Distribution-API-Version registry/2.0;\n\
                 location = / {{ return 200; }}\n\
                 location ~ /manifests/ {{ default_type {}; }} }} }}\n",
                crate::content::MANIFEST_TYPE,
            ),
        )?;
        let mut command = ending_with_us(Path::new("nginx"));
        command.arg("-c").arg(config).arg("-e").arg(dir.join("error.log"));
        Self::start(name, command, addr, "/", dir)
    }

    /// Distribution as Debian ships it, on the file system.
    pub fn distribution(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let addr = free_addr()?;
        let config = dir.join("registry.yml");
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
                 storage: {{filesystem: {{rootdirectory: {}/store}}, cache: {{blobdescriptor: inmemory}}}}\nhttp: {{addr: \"{addr}\"}}\n",
                dir.display(),
            ),
        )?;
        let mut command = ending_with_us(Path::new("docker-registry"));
        command.arg("serve").arg(config);
        Self::start("Distribution", command, addr, "/v2/", dir)
    }

    fn start(name: &'static str, mut command: Command, addr: SocketAddr, ready: &str, dir: &Path) -> Result<Self> {
        let log = dir.join(format!("{name}.log"));
        // Requests are logged, as in production, but to nowhere: the disk of the log is not what is compared.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?);
        let mut server = Self { name, addr, process: Process(command.spawn()?) };
        let started = Instant::now();
        while !matches!(client::get(addr, ready), Ok(answer) if answer.status == 200) {
            if server.process.0.try_wait()?.is_some() || started.elapsed() > Duration::from_secs(30) {
                return Err(format!("{name} did not come up:\n{}", fs::read_to_string(log)?).into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    /// Processor time so far of the process and its children, user and system.
    pub fn cpu(&self) -> Result<Duration> {
        let mut ticks = 0;
        for pid in self.family()? {
            // A child may have ended since it was listed.
            let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
            let fields = stat_fields(&stat);
            ticks += fields.get(11).map_or(0, |v| v.parse().unwrap_or(0))
                + fields.get(12).map_or(0, |v| v.parse().unwrap_or(0));
        }
        Ok(Duration::from_secs(ticks) / u32::try_from(rustix::param::clock_ticks_per_second())?)
    }

    /// One of the `Vm…`/`Rss…` lines of the process's status, in bytes.
    pub fn memory(&self, line: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.0.id()))?;
        let value =
            status.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(':')).ok_or("no such line in the status")?;
        Ok(value.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
    }

    fn family(&self) -> Result<Vec<u32>> {
        let own = self.process.0.id();
        let mut family = vec![own];
        for entry in fs::read_dir("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let parent = fs::read_to_string(format!("/proc/{pid}/stat"))
                .ok()
                .and_then(|stat| stat_fields(&stat).get(1)?.parse::<u32>().ok());
            if parent == Some(own) {
                family.push(pid);
            }
        }
        Ok(family)
    }
}

/// A process that ends with its handle: asked first, and killed if it does not listen.
pub struct Process(Child);

impl Process {
    /// Starts a program whose output goes to `NAME.log` below `dir`.
    pub fn start(program: &str, arguments: &[&str], dir: &Path) -> Result<Self> {
        let log = File::create(dir.join(format!("{program}.log")))?;
        let mut command = ending_with_us(Path::new(program));
        command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Self(command.spawn()?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It cannot have been reaped before, so the id is still its own.
        if let Some(pid) = Pid::from_raw(self.0.id().cast_signed()) {
            kill_process(pid, Signal::TERM).ok();
        }
        let asked = Instant::now();
        while asked.elapsed() < Duration::from_secs(20) {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The fields after the command's name, which may itself hold blanks; field 0 is the state.
fn stat_fields(stat: &str) -> Vec<&str> {
    stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ').collect()
}

/// The entrepot under test.
pub fn binary() -> PathBuf {
    std::env::var_os("ENTREPOT").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_entrepot")), PathBuf::from)
}

/// Should the benchmark be killed, the kernel ends what it started.
fn ending_with_us(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "--"]).arg(program);
    command
}

fn free_addr() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// Whether a program is on the PATH; says so when it is not.
pub fn installed(program: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()));
    if !found {
        println!("\n{program} is not installed: left out");
    }
    found
}
