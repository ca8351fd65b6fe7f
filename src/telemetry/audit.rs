//! The audit log: who did what, from where, and by which rule that was allowed or denied; a JSON object a line.
//!
//! Its lines take the way of the log's ([`Lines`]) to a file of their own, so an event costs a copy in memory. Serving never
//! waits for the file: what cannot be written is lost and counted, and the log, the metrics and `/readyz` say so. An event is in
//! the file some hundredths of a second later; what came within that time is lost with the process, a regular end loses nothing.

use std::fs::File;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use tracing::{error, info};

use super::lines::{Guard, Lines};

/// The audit log of a server.
#[derive(Clone, Debug)]
pub struct Audit {
    lines: Lines,
    state: Arc<State>,
    pulls: bool,
}

/// One event. What is not known, or makes no sense for it, is left out.
#[derive(Debug, Default, Serialize)]
pub struct Entry<'a> {
    /// When, by RFC 3339 in UTC.
    pub time: String,
    /// What: the words of the request log, and `mount_blob`, `push_blob`, `retention_delete`, `audit_opened`.
    pub event: &'a str,
    /// `allowed` or `denied`.
    pub decision: &'a str,
    /// What decided: `auth.rules[N]`, `closed`, `grant`, `default`, `http.admin_from`, `immutable`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Who it is proven to be; `entrepot` for what the server does by itself.
    pub identity: &'a str,
    /// Who it said it was and could not prove.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claimed: Option<&'a str>,
    /// From where: the address of the client, as trusted proxies tell it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<IpAddr>,
    /// The method of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<&'a str>,
    /// The repository as the request named it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// Tag, digest, or what else the request was about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<&'a str>,
    /// Further tags that a push set.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pub tags: &'a [String],
    /// Where a blob was mounted from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<&'a str>,
    /// What was pushed, deleted or pulled, by the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<&'a str>,
    /// The status of the answer; none if the client left before there was one. What it wanted may have happened all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The name of the request in the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// How the file is.
#[derive(Debug, Default)]
struct State {
    /// Somebody has moved the file away.
    reopens: AtomicBool,
    /// Lines that could not be written.
    unwritten: AtomicU64,
    /// Why, if that is so now.
    problem: Mutex<Option<String>>,
}

impl Audit {
    /// Appends to the file, which is made with mode 0600 if it is not there. More than `bytes_max` are never kept in memory
    /// for it. Events are written until the guard is dropped.
    pub fn open(path: &Path, pulls: bool, bytes_max: usize, now: String) -> io::Result<(Self, Guard)> {
        let state = Arc::new(State::default());
        let trail =
            Trail { path: path.to_owned(), file: Some(open(path)?), is_half_written: false, state: Arc::clone(&state) };
        let (lines, guard) = Lines::start(trail, bytes_max, tell);
        let audit = Self { lines, state, pulls };
        audit.opened(now);
        Ok((audit, guard))
    }

    /// Are pulls events, too?
    pub const fn has_pulls(&self) -> bool {
        self.pulls
    }

    /// Writes an event down.
    pub fn record(&self, entry: &Entry<'_>) {
        let mut line = serde_json::to_vec(entry).expect("names are texts, and nothing else can fail");
        line.push(b'\n');
        // It goes to memory, where it fits or is counted as dropped.
        let _ = (&self.lines).write_all(&line);
    }

    /// The file was moved away: from now on there is another one.
    pub fn reopen(&self, now: String) {
        self.state.reopens.store(true, Ordering::Release);
        self.opened(now);
    }

    /// Why events are lost, if they are.
    pub fn problem(&self) -> Option<String> {
        self.state.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many events are lost.
    pub fn lost(&self) -> u64 {
        self.lines.dropped() + self.state.unwritten.load(Ordering::Relaxed)
    }

    fn opened(&self, time: String) {
        let (event, decision, identity) = ("audit_opened", "allowed", "entrepot");
        self.record(&Entry { time, event, decision, identity, ..Entry::default() });
    }
}

fn tell(dropped: u64) -> String {
    format!("{{\"event\":\"audit_dropped\",\"events\":{dropped}}}\n")
}

/// The file, as its writer has it.
struct Trail {
    path: PathBuf,
    file: Option<File>,
    /// A line broke off: the next one begins anew.
    is_half_written: bool,
    state: Arc<State>,
}

impl Trail {
    fn try_write(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.state.reopens.swap(false, Ordering::AcqRel) {
            self.file = None;
        }
        let mut file = match self.file.take() {
            Some(file) => file,
            None => open(&self.path)?,
        };
        let result = (|| {
            if self.is_half_written {
                file.write_all(b"\n")?;
            }
            self.is_half_written = true;
            file.write_all(lines)
        })();
        self.is_half_written = result.is_err();
        self.file = Some(file);
        result
    }
}

impl Write for Trail {
    /// Never fails: nobody up there could do more about it than what is done here.
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        let written = self.try_write(lines);
        let found = written.as_ref().err().map(|error| format!("{}: {error}", self.path.display()));
        let mut problem = self.state.problem.lock().unwrap_or_else(PoisonError::into_inner);
        match &found {
            Some(found) => {
                let lost = lines.split_inclusive(|byte| *byte == b'\n').count() as u64;
                self.state.unwritten.fetch_add(lost, Ordering::Relaxed);
                if problem.is_none() {
                    error!(error = found, "the audit log cannot be written: events are lost, serving goes on");
                }
            }
            None if problem.is_some() => info!("the audit log is written again"),
            None => {}
        }
        *problem = found;
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[expect(clippy::disallowed_methods, reason = "the audit log is where the operator wants it, not in the store")]
fn open(path: &Path) -> io::Result<File> {
    File::options().append(true).create(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(path: &Path) -> Vec<String> {
        let text = std::fs::read_to_string(path).unwrap();
        let event = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["event"].to_string();
        text.lines().map(event).collect()
    }

    fn entry(event: &str) -> Entry<'_> {
        Entry { event, ..Entry::default() }
    }

    #[test]
    fn the_file_is_for_its_owner_alone_and_is_opened_anew_when_it_was_moved() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let (path, moved) = (folder.path().join("audit.log"), folder.path().join("audit.log.1"));
        let (audit, guard) = Audit::open(&path, false, 1 << 20, "then".to_owned()).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::rename(&path, &moved).unwrap();
        audit.reopen("now".to_owned());
        audit.record(&entry("after"));
        drop(guard);
        let mut all = if moved.exists() { events(&moved) } else { Vec::new() };
        all.extend(events(&path));
        assert_eq!(all, ["\"audit_opened\"", "\"audit_opened\"", "\"after\""]);
        assert!(std::fs::read_to_string(&path).unwrap().contains(r#"{"time":"now""#));
        assert_eq!((audit.lost(), audit.problem()), (0, None));
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_told_until_it_can() {
        let state = Arc::new(State::default());
        let full = Some(File::options().write(true).open("/dev/full").unwrap());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let mut trail = Trail { path: path.clone(), file: full, is_half_written: false, state: Arc::clone(&state) };
        trail.write_all(b"{}\n{}\n").unwrap();
        assert_eq!(state.unwritten.load(Ordering::Relaxed), 2);
        assert!(state.problem.lock().unwrap().as_ref().unwrap().contains("audit.log"));
        state.reopens.store(true, Ordering::Release);
        trail.write_all(b"{\"event\":1}\n").unwrap();
        assert_eq!(*state.problem.lock().unwrap(), None);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "\n{\"event\":1}\n", "a line that broke off ends first");
    }
}
