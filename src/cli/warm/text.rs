//! What is shown of warming: a row for each reference that has ended, and on a terminal how far the rest has come.

use std::collections::HashMap;
use std::io::{self, Write};

use crate::cli::sizes::size;
use crate::http::admin::warm::{Event, Figures, Line, Trouble};

/// Cells of the bar.
const BAR_WIDTH: usize = 24;

/// A reference that the server could not tell the end of.
pub fn lost(reference: &str, message: &str) -> Line {
    let trouble = Trouble {
        part: "reference".to_owned(),
        message: message.to_owned(),
        advice: "look whether the server still runs, then warm again: what came is kept".to_owned(),
    };
    Line { reference: reference.to_owned(), event: Event::Failed(trouble) }
}

/// What has been shown so far.
pub struct Shown {
    width: usize,
    n_references: usize,
    is_terminal: bool,
    has_header: bool,
    has_bar: bool,
    ended: usize,
    figures: HashMap<String, (Figures, bool)>,
}

impl Shown {
    /// Nothing, of these references; `is_terminal` says whether somebody looks on.
    pub fn new(references: &[String], is_terminal: bool) -> Self {
        let width = references.iter().map(|reference| reference.chars().count()).max().unwrap_or(0).max(9);
        let (n_references, figures) = (references.len(), HashMap::new());
        Self { width, n_references, is_terminal, has_header: false, has_bar: false, ended: 0, figures }
    }

    /// References something of which failed.
    pub fn n_failed(&self) -> usize {
        self.figures.values().filter(|(_, has_failed)| *has_failed).count()
    }

    /// Takes note of what happened.
    pub fn note(&mut self, line: &Line) {
        let (figures, has_failed) = self.figures.entry(line.reference.clone()).or_default();
        match &line.event {
            Event::Progress(now) => *figures = *now,
            Event::Ended(now) => {
                *figures = *now;
                self.ended += 1;
            }
            Event::Failed(_) => *has_failed = true,
            Event::Manifest { .. } | Event::Blob { .. } | Event::Skipped(_) => {}
        }
    }

    /// Shows what people want to know of it.
    pub fn show(&mut self, line: &Line, out: &mut impl Write, err: &mut impl Write) -> io::Result<()> {
        let reference = &line.reference;
        match &line.event {
            Event::Manifest { .. } | Event::Blob { .. } => return Ok(()),
            Event::Progress(_) => {}
            Event::Skipped(Trouble { part, message, .. }) => {
                self.clear(err)?;
                writeln!(err, "entrepot: {reference}: {part} is left out: {message}")?;
            }
            Event::Failed(Trouble { part, message, advice }) => {
                self.clear(err)?;
                writeln!(err, "entrepot: {reference}: {part}: {message}: {advice}")?;
            }
            Event::Ended(figures) => {
                self.clear(err)?;
                self.row(reference, figures, out)?;
            }
        }
        self.bar(err)
    }

    /// Takes the bar away.
    pub fn clear(&mut self, err: &mut impl Write) -> io::Result<()> {
        if std::mem::take(&mut self.has_bar) {
            write!(err, "\r\x1b[2K")?;
        }
        Ok(())
    }

    fn row(&mut self, reference: &str, figures: &Figures, out: &mut impl Write) -> io::Result<()> {
        let width = self.width;
        if !std::mem::replace(&mut self.has_header, true) {
            let (result, manifests, blobs, fetched, here) = ("RESULT", "MANIFESTS", "BLOBS", "FETCHED", "WAS HERE");
            writeln!(out, "{:<width$}  {result:<7} {manifests:>9} {blobs:>6} {fetched:>10} {here:>10}", "REFERENCE")?;
        }
        let result = if figures.failed == 0 { "warm" } else { "failed" };
        let (fetched, here) = (size(figures.fetched_bytes), size(figures.here_bytes));
        let Figures { manifests, blobs, .. } = figures;
        writeln!(out, "{reference:<width$}  {result:<7} {manifests:>9} {blobs:>6} {fetched:>10} {here:>10}")
    }

    fn bar(&mut self, err: &mut impl Write) -> io::Result<()> {
        if !self.is_terminal || self.ended == self.n_references {
            return Ok(());
        }
        let (mut came, mut wanted) = (0u64, 0u64);
        for (figures, _) in self.figures.values() {
            came += figures.here_bytes + figures.fetched_bytes;
            wanted += figures.wanted_bytes;
        }
        let share = came.min(wanted) * BAR_WIDTH as u64 / wanted.max(1);
        let filled = usize::try_from(share).unwrap_or(BAR_WIDTH);
        let (done, open) = ("#".repeat(filled), ".".repeat(BAR_WIDTH - filled));
        let (ended, all) = (self.ended, self.n_references);
        write!(err, "\r\x1b[2K[{done}{open}] {} of {}, {ended} of {all} references", size(came), size(wanted))?;
        self.has_bar = true;
        err.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(event: Event) -> Line {
        Line { reference: "app:1".to_owned(), event }
    }

    fn shown(is_terminal: bool) -> (String, String, usize) {
        let mut shown = Shown::new(&["app:1".to_owned()], is_terminal);
        let half =
            Figures { manifests: 1, blobs_wanted: 2, wanted_bytes: 2048, fetched_bytes: 1024, ..Figures::default() };
        let trouble = Trouble { part: "blob x".into(), message: "is gone".into(), advice: "look".into() };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        for event in [Event::Progress(half), Event::Failed(trouble), Event::Ended(Figures { failed: 1, ..half })] {
            let line = line(event);
            shown.note(&line);
            shown.show(&line, &mut out, &mut err).unwrap();
        }
        (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap(), shown.n_failed())
    }

    #[test]
    fn a_row_says_how_it_ended_and_a_line_what_failed() {
        let (out, err, n_failed) = shown(false);
        assert_eq!(
            out,
            "REFERENCE  RESULT  MANIFESTS  BLOBS    FETCHED   WAS HERE\n\
             app:1      failed          1      0    1.0 KiB        0 B\n"
        );
        assert_eq!((err.as_str(), n_failed), ("entrepot: app:1: blob x: is gone: look\n", 1));
    }

    #[test]
    fn only_a_terminal_gets_a_bar_and_keeps_none() {
        let (_, err, _) = shown(true);
        let bar = "\r\x1b[2K[############............] 1.0 KiB of 2.0 KiB, 0 of 1 references";
        assert_eq!(err, format!("{bar}\r\x1b[2Kentrepot: app:1: blob x: is gone: look\n{bar}\r\x1b[2K"));
    }
}
