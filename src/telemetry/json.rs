//! Log lines for programs: one JSON object an event, written in one go.
//!
//! Every request makes a line, and the formatter of `tracing-subscriber` goes through three writers for each piece of one:
//! that took a fifth of what a small answer costs.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::time::{Duration, SystemTime};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_log::NormalizeEvent as _;
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::lines::Lines;

/// Memory kept for the next line; what a long one took beyond it is given back.
const KEPT_BYTES: usize = 4 * 1024;

/// Writes events as lines of JSON: time, level, the event's own fields, and where it comes from.
pub struct Json(Lines);

thread_local! {
    static LINE: RefCell<Line> = RefCell::default();
}

/// A line that is being put together.
#[derive(Default)]
struct Line {
    bytes: Vec<u8>,
    /// The last line's second, and how it is written: with the dot after which its parts follow.
    second: Option<u64>,
    written: String,
    /// A value that has to be text before it can be quoted.
    text: String,
}

impl Json {
    /// Writes to `lines`.
    pub const fn new(lines: Lines) -> Self {
        Self(lines)
    }
}

impl<S: Subscriber> Layer<S> for Json {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        LINE.with(|line| match line.try_borrow_mut() {
            Ok(mut line) => self.write(&mut line, event),
            // A value that logs something while it is written has a line of its own.
            Err(_) => self.write(&mut Line::default(), event),
        });
    }
}

impl Json {
    fn write(&self, line: &mut Line, event: &Event<'_>) {
        // What a library says through the `log` crate says where it comes from among its fields.
        let normalized = event.normalized_metadata();
        let metadata = normalized.as_ref().unwrap_or_else(|| event.metadata());
        line.bytes.push(b'{');
        line.key("timestamp");
        line.moment(now());
        line.key("level");
        line.quote(metadata.level().as_str());
        event.record(line);
        line.key("target");
        line.quote(metadata.target());
        line.bytes.extend_from_slice(b"}\n");
        // It goes to memory, where it fits or is counted as dropped.
        let _ = (&self.0).write_all(&line.bytes);
        line.bytes.clear();
        line.text.clear();
        line.bytes.shrink_to(KEPT_BYTES);
        line.text.shrink_to(KEPT_BYTES);
    }
}

impl Line {
    fn key(&mut self, key: &str) {
        if self.bytes.len() > 1 {
            self.bytes.push(b',');
        }
        self.quote(key);
        self.bytes.push(b':');
    }

    /// As RFC 3339 wants it, to the microsecond. Most lines are of the second of the one before.
    fn moment(&mut self, now: SystemTime) {
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        if self.second != Some(since.as_secs()) {
            let second = SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs());
            self.written = humantime::format_rfc3339_seconds(second).to_string().replace('Z', ".");
            self.second = Some(since.as_secs());
        }
        self.bytes.push(b'"');
        self.bytes.extend_from_slice(self.written.as_bytes());
        let (mut digits, mut rest) = (*b"000000", since.subsec_micros());
        for digit in digits.iter_mut().rev() {
            // A remainder of ten is a digit.
            *digit = b'0' + u8::try_from(rest % 10).unwrap_or_default();
            rest /= 10;
        }
        self.bytes.extend_from_slice(&digits);
        self.bytes.extend_from_slice(b"Z\"");
    }

    fn quote(&mut self, text: &str) {
        quote(&mut self.bytes, text);
    }

    fn display(&mut self, value: fmt::Arguments<'_>) {
        self.text.clear();
        // A value that cannot say what it is leaves what it has said.
        let _ = self.text.write_fmt(value);
        quote(&mut self.bytes, &self.text);
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the log tells the machine's time, whatever a test has the store believe"
)]
fn now() -> SystemTime {
    SystemTime::now()
}

/// Nearly every text is its own quotation, which is found out faster than it is escaped.
fn quote(bytes: &mut Vec<u8>, text: &str) {
    let is_special = |byte: &u8| *byte < b' ' || *byte == b'"' || *byte == b'\\';
    // Without an early end, so that many bytes are looked at in one step.
    if text.as_bytes().iter().fold(false, |found, byte| found | is_special(byte)) {
        return put(bytes, text);
    }
    bytes.reserve(text.len() + 2);
    bytes.push(b'"');
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(b'"');
}

/// Numbers, texts and truth values cannot fail to be JSON, nor can memory be written to in vain.
fn put(bytes: &mut Vec<u8>, value: impl serde::Serialize) {
    let _ = serde_json::to_writer(bytes, &value);
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        if !field.name().starts_with("log.") {
            self.key(field.name());
            self.quote(value);
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if !field.name().starts_with("log.") {
            self.key(field.name());
            put(&mut self.bytes, value);
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.key(field.name());
        put(&mut self.bytes, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.key(field.name());
        put(&mut self.bytes, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.key(field.name());
        put(&mut self.bytes, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.key(field.name());
        self.display(format_args!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    /// What is written, for all to see.
    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Seen {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(log: impl FnOnce()) -> Vec<serde_json::Value> {
        let seen = Seen::default();
        let (lines, guard) = Lines::start(seen.clone(), 1 << 20, |_| unreachable!("there is room for all"));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(Json::new(lines)), log);
        drop(guard);
        let text = String::from_utf8(seen.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn every_kind_of_value_is_what_it_was_and_what_is_not_there_is_left_out() {
        let lines = logged(|| {
            let nothing: Option<&str> = None;
            tracing::warn!(
                name = "a \"b\"\n\u{1}é",
                bytes = 7_u64,
                left = -3_i64,
                share = 0.5,
                whole = true,
                host = %"x\\y",
                list = ?["a"],
                nothing,
                "{} happened",
                "something\t"
            );
        });
        let [line] = &*lines else { panic!("{lines:?}") };
        let timestamp = line["timestamp"].as_str().unwrap();
        assert!(humantime::parse_rfc3339(timestamp).is_ok(), "{timestamp}");
        let expected = serde_json::json!({
            "timestamp": timestamp, "level": "WARN", "message": "something\t happened", "name": "a \"b\"\n\u{1}é",
            "bytes": 7, "left": -3, "share": 0.5, "whole": true, "host": "x\\y", "list": "[\"a\"]",
            "target": module_path!(),
        });
        assert_eq!(*line, expected);
    }

    #[test]
    fn a_moment_is_written_to_the_microsecond_whatever_was_written_before() {
        let mut line = Line::default();
        for (since, written) in [
            (Duration::ZERO, "1970-01-01T00:00:00.000000Z"),
            (Duration::from_micros(1_700_000_000_000_042), "2023-11-14T22:13:20.000042Z"),
            (Duration::from_nanos(1_700_000_000_999_999_999), "2023-11-14T22:13:20.999999Z"),
            (Duration::from_millis(1_700_000_001_500), "2023-11-14T22:13:21.500000Z"),
        ] {
            line.bytes.clear();
            line.moment(SystemTime::UNIX_EPOCH + since);
            assert_eq!(serde_json::from_slice::<String>(&line.bytes).unwrap(), written);
        }
    }

    #[test]
    fn what_logs_while_it_is_logged_has_a_line_of_its_own() {
        struct Talkative;
        impl fmt::Display for Talkative {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                tracing::info!("inner");
                f.write_str("said")
            }
        }
        let lines = logged(|| tracing::info!(value = %Talkative, "outer"));
        let said: Vec<&str> = lines.iter().map(|line| line["message"].as_str().unwrap()).collect();
        // The dispatcher lets no event in while one is under way; a value that talks must not break its line.
        assert_eq!(said.last(), Some(&"outer"));
        assert_eq!(lines.last().unwrap()["value"], "said");
    }
}
