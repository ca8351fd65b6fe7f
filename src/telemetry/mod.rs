//! Where log lines go and what they look like, and those of the audit log.

pub mod audit;
mod json;
mod lines;

use std::io::IsTerminal as _;
use std::sync::OnceLock;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use json::Json;

pub use audit::Audit;
pub use lines::{Guard, Lines};

/// The log's lines; only the first start in a process counts.
static LOG: OnceLock<Lines> = OnceLock::new();

/// How many log lines were dropped since the process began.
pub fn lines_dropped() -> u64 {
    LOG.get().map_or(0, Lines::dropped)
}

/// What log lines look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Sends log lines to standard error, off the threads that serve: a stalled reader of the log stalls nobody else, and
/// what it leaves unread beyond `buffer_bytes` is dropped and counted. `filter` is a level or a list of `module=level`.
/// Lines are written until the guard is dropped.
pub fn start(format: Format, filter: &str, buffer_bytes: usize) -> Guard {
    let is_terminal = std::io::stderr().is_terminal();
    let as_json = format == Format::Json || (format == Format::Auto && !is_terminal);
    let tell: fn(u64) -> String = if as_json { tell_in_json } else { tell_in_text };
    let (lines, guard) = Lines::start(std::io::stderr(), buffer_bytes, tell);
    LOG.get_or_init(|| lines.clone());
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    // Only the first start in a process counts; tests start many servers.
    if as_json {
        let _ = tracing_subscriber::registry().with(filter).with(Json::new(lines)).try_init();
    } else {
        let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(lines);
        let _ = subscriber.with_ansi(is_terminal).with_target(false).try_init();
    }
    guard
}

const TOO_SLOW: &str = "log lines were dropped: whatever reads this log is too slow for it";

fn tell_in_json(dropped: u64) -> String {
    format!("{{\"level\":\"WARN\",\"message\":\"{dropped} {TOO_SLOW}\"}}\n")
}

fn tell_in_text(dropped: u64) -> String {
    format!(" WARN {dropped} {TOO_SLOW}\n")
}
