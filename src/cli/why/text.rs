//! The explanation for people: a heading a line, the answer last.

use std::fmt::Write as _;
use std::time::Duration;

use crate::cli::sizes::size;
use crate::http::admin::Moment;
use crate::http::admin::why::{LifetimeWhy, ManifestWhy, StateWhy, TagWhy, UpstreamWhy, Why};

/// Blobs and children shown; `--json` has them all.
const SHOWN_MAX: usize = 12;

/// The whole text.
pub fn text(told_by: &str, why: &Why) -> String {
    let mut lines = Lines(String::new());
    lines.add("reference", &why.reference);
    lines.add("told by", told_by);
    name(&mut lines, why);
    if let Some(upstream) = &why.upstream {
        lines.add("upstream", &format!("{}, where it is {}", upstream.host, upstream.repository));
        if let Some(sign_in) = &upstream.sign_in {
            lines.add("sign in", sign_in);
        }
    }
    match &why.tag {
        Some(tag) => self::tag(&mut lines, tag, why.now),
        None if why.reference.contains('@') => {}
        None => lines.add("tag", "not known here"),
    }
    match &why.manifest {
        Some(manifest) => self::manifest(&mut lines, manifest),
        None => lines.add("manifest", "not known here"),
    }
    if let Some(upstream) = &why.upstream {
        self::upstream(&mut lines, upstream, why.now);
    }
    let refusal = why.next.status.zip(why.next.code.as_ref());
    let refusal = refusal.map_or_else(String::new, |(status, code)| format!(" ({status} {code})"));
    lines.add("next pull", &format!("{}{refusal}: {}", why.next.action, why.next.says));
    lines.0
}

/// Lines with a heading each; an empty one goes on with what is above.
struct Lines(String);

impl Lines {
    fn add(&mut self, heading: &str, text: &str) {
        let _ = writeln!(self.0, "{heading:<11}{text}");
    }
}

fn name(lines: &mut Lines, why: &Why) {
    lines.add("name", &why.name.says);
    if let Some(private) = &why.name.private {
        let overlay =
            if why.name.overlay { "; overlay lets the upstream answer the rest" } else { ": no upstream is asked" };
        lines.add("", &format!("{private} was pushed to{overlay}"));
    }
    if why.name.local_only {
        lines.add("", "local_only: no upstream is asked");
    }
}

fn tag(lines: &mut Lines, tag: &TagWhy, now: Moment) {
    let origin = if tag.pushed { "pushed" } else { "confirmed by the upstream" };
    lines.add("tag", &format!("{} → {}", tag.name, tag.digest));
    lines.add("", &format!("{origin} {}", when(tag.checked_at, now)));
    let Some(LifetimeWhy { fresh_until, stale_until, rule }) = &tag.lifetime else { return };
    let until =
        |moment: &Option<Moment>| moment.map_or_else(|| "for ever".to_owned(), |at| format!("until {}", when(at, now)));
    let is_over = fresh_until.is_some_and(|at| at <= now);
    lines.add("fresh", &format!("{}{} ({rule})", if is_over { "no more, was " } else { "" }, until(fresh_until)));
    lines.add("", &format!("if the upstream fails it is served {}", until(stale_until)));
}

fn manifest(lines: &mut Lines, manifest: &ManifestWhy) {
    let here = if manifest.here { "here" } else { "evicted" };
    lines.add("manifest", &manifest.digest);
    lines.add("", &format!("{}, {} bytes, {here}", manifest.media_type, manifest.size_bytes));
    if !manifest.blobs.is_empty() {
        let (here, missing) = (size(manifest.here_bytes), size(manifest.missing_bytes));
        lines.add("blobs", &format!("{}, {here} here, {missing} missing", manifest.blobs.len()));
    }
    for blob in manifest.blobs.iter().take(SHOWN_MAX) {
        lines.add("", &format!("{}  {:>10}  {}", blob.digest, size(blob.size_bytes), blob.state));
    }
    more(lines, manifest.blobs.len());
    if !manifest.children.is_empty() {
        let here = manifest.children.iter().filter(|child| child.here).count();
        lines.add("children", &format!("{}, {here} here", manifest.children.len()));
    }
    for child in manifest.children.iter().take(SHOWN_MAX) {
        let state = match (child.here, child.missing_bytes) {
            (false, _) => "not here".to_owned(),
            (true, 0) => format!("here with its {} blobs", child.blobs),
            (true, missing) => format!("here, {} of its {} blobs missing", size(missing), child.blobs),
        };
        lines.add("", &format!("{}  {state}", child.digest));
    }
    more(lines, manifest.children.len());
}

fn more(lines: &mut Lines, all: usize) {
    if all > SHOWN_MAX {
        lines.add("", &format!("and {} more", all - SHOWN_MAX));
    }
}

fn upstream(lines: &mut Lines, upstream: &UpstreamWhy, now: Moment) {
    let Some(StateWhy { trouble, failures, budget, remembered, answers }) = &upstream.state else {
        lines.add("asking", "how the upstream does is known to a running server only");
        return;
    };
    let breaker = match (trouble, failures) {
        (Some(trouble), _) => trouble.clone(),
        (None, 0) => format!("{} may be asked", upstream.host),
        (None, failures) => format!("{} may be asked, though it failed {failures} times in a row", upstream.host),
    };
    lines.add("asking", &breaker);
    if let Some(remembered) = remembered {
        lines.add("", &format!("remembered: {remembered}"));
    }
    if let Some(budget) = budget {
        let of = budget.limit.map_or_else(String::new, |limit| format!(" of {limit}"));
        let back = budget.resets_at.map_or_else(String::new, |at| format!(", all back by {}", when(at, now)));
        lines.add("budget", &format!("{}{of} requests left{back}", budget.remaining));
    }
    for (index, answer) in answers.iter().enumerate() {
        let heading = if index == 0 { "answers" } else { "" };
        let at = when(answer.at, now);
        lines.add(heading, &format!("{at}  {}: {} in {} ms", answer.operation, answer.result, answer.took_ms));
    }
    if answers.is_empty() {
        lines.add("answers", "not asked since the server started");
    }
}

/// A moment and how far it is from now.
fn when(at: Moment, now: Moment) -> String {
    let spoken = distance(at, now);
    if at > now { format!("{at} (in {spoken})") } else { format!("{at} ({spoken} ago)") }
}

/// How far two moments are apart, in two units, which tell enough: `3h 20m`.
pub(in crate::cli) fn distance(at: Moment, now: Moment) -> String {
    let distance = Duration::from_secs(at.0.abs_diff(now.0) / 1000);
    let spoken: Vec<String> =
        humantime::format_duration(distance).to_string().split(' ').take(2).map(str::to_owned).collect();
    spoken.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_short() {
        let now = Moment(1_750_000_000_000);
        assert_eq!(when(Moment(now.0 + 3_723_999), now), "2025-06-15T16:08:43Z (in 1h 2m)");
        assert_eq!(when(Moment(now.0 - 5_000), now), "2025-06-15T15:06:35Z (5s ago)");
    }
}
