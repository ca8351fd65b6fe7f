//! Where log lines go and what they look like.

use std::io::IsTerminal as _;

use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::EnvFilter;

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

/// Sends log lines to standard error, off the threads that serve: a stalled reader of the log stalls nobody else.
/// `filter` is a level or a list of `module=level`. Lines are written until the guard is dropped.
pub fn start(format: Format, filter: &str) -> WorkerGuard {
    let (writer, guard) = tracing_appender::non_blocking(std::io::stderr());
    let is_terminal = std::io::stderr().is_terminal();
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    let as_json = format == Format::Json || (format == Format::Auto && !is_terminal);
    // Only the first start in a process counts; tests start many servers.
    if as_json {
        let _ = lines.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init();
    } else {
        let _ = lines.with_ansi(is_terminal).with_target(false).try_init();
    }
    guard
}
