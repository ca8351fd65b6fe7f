//! The real binary as a process of its own: what it prints, how it ends, and what a kill leaves.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tokio::task::{JoinHandle, spawn_blocking};

use super::client::{Answer, Call};

/// What a command that ends by itself said and returned.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// A process that serves. Dropped, it is killed.
pub struct Process {
    child: Child,
    pub address: SocketAddr,
    /// Reads the log to its end, so that the process never waits for a reader.
    log: Option<JoinHandle<Vec<String>>>,
}

/// The binary in `folder`, with nothing of this process's environment that could configure it.
fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_entrepot"));
    command.args(arguments).current_dir(folder).stdin(Stdio::null()).env_clear();
    command
}

/// Runs a command that ends by itself, and keeps the caller's thread until then.
pub fn run_now(folder: &Path, arguments: &[&str]) -> Ended {
    ended(command(folder, arguments).output())
}

fn ended(output: std::io::Result<std::process::Output>) -> Ended {
    let output = output.expect("the binary runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("people can read it");
    Ended { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Runs a command that ends by itself.
pub async fn run(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Ended {
    let mut command = command(folder, arguments);
    command.envs(environment.iter().copied());
    ended(spawn_blocking(move || command.output()).await.expect("nothing panics"))
}

impl Process {
    /// Starts `entrepot serve` in `folder` on a free port and waits until its log says that it serves.
    pub async fn serve(folder: &Path, arguments: &[&str]) -> Self {
        Self::try_serve(folder, arguments).await.unwrap_or_else(|said| panic!("it did not start: {said}"))
    }

    /// As [`Process::serve`], for one that may end before; an error is what it said then.
    pub async fn try_serve(folder: &Path, arguments: &[&str]) -> Result<Self, String> {
        let arguments = [&["serve", "--listen", "127.0.0.1:0", "--log-format", "json"], arguments].concat();
        let mut child = command(folder, &arguments).stderr(Stdio::piped()).spawn().expect("the binary starts");
        let stderr = child.stderr.take().expect("its log is piped");
        let started = spawn_blocking(move || address_in(stderr)).await.expect("nothing panics");
        let (address, mut log, mut lines) = match started {
            Ok(started) => started,
            Err(said) => {
                child.wait().expect("it is our child");
                return Err(said);
            }
        };
        let log = spawn_blocking(move || {
            lines.extend(log.by_ref().lines().map_while(Result::ok));
            lines
        });
        Ok(Self { child, address, log: Some(log) })
    }

    pub async fn send(&self, call: Call) -> Answer {
        call.send(self.address).await
    }

    /// Ends it as `kill -9` does.
    pub fn kill(mut self) {
        self.child.kill().expect("it still runs");
        self.child.wait().expect("it is our child");
    }

    /// Asks it to stop, and does not wait for that. It may have ended already.
    pub fn terminate(&self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process has a number");
        // It is not waited for yet, so its number is nobody else's.
        kill_process(pid, Signal::TERM).expect("it is our child");
    }

    /// Waits for its end. Returns its exit code and its log.
    pub async fn ended(mut self) -> (Option<i32>, Vec<String>) {
        let log = self.log.take().expect("nobody else took it").await.expect("nothing panics");
        (self.child.wait().expect("it is our child").code(), log)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails if it has ended already, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads the log up to the line that tells the address. An error is all that was said instead.
fn address_in(stderr: ChildStderr) -> Result<(SocketAddr, BufReader<ChildStderr>, Vec<String>), String> {
    let (mut log, mut lines) = (BufReader::new(stderr), Vec::new());
    loop {
        let mut line = String::new();
        if log.read_line(&mut line).unwrap_or(0) == 0 {
            return Err(lines.join("\n"));
        }
        let json: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        lines.push(line.trim_end().to_owned());
        if let Some(address) = json["address"].as_str() {
            return Ok((address.parse().expect("an address"), log, lines));
        }
    }
}
