//! The rows of the table: each fault, and what it means to whoever meets it.

use bytes::Bytes;

use super::{LAYER_BYTES, REPOSITORY, TAG};

use crate::support::content;
use crate::support::upstream::{Bearer, FakeUpstream, Fault, Gate, Guard, Image, On};

/// How a pull ends that meets the fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With the right bytes, which are kept.
    Served,
    /// With an error of this status and code before the first byte; nothing is kept.
    Refused(u16, &'static str),
    /// With a connection that breaks off before the last piece; nothing wrong is kept.
    Broken,
}

use End::{Broken, Refused, Served};

/// What an upstream does wrong from a moment on.
#[derive(Clone)]
pub enum Wrong {
    /// This, at every request.
    Always(Fault),
    /// As before, but the gate is opened only after somebody has come to it.
    Gated(Gate, Fault),
    /// Every token is good for one request.
    TokensExpire,
    /// The same content is at a second host only.
    Elsewhere,
    /// Connections are refused.
    Refuses,
    /// The same, for ever.
    IsGone,
    /// The tag names another manifest.
    TagMoves,
    /// The tag is not there any more.
    TagGoes,
}

/// A fault in every situation. A number of requests is what the upstream sees of them at most.
pub struct Row {
    pub name: &'static str,
    pub wrong: Wrong,
    /// A tag of which nothing is known.
    pub manifest: (End, usize),
    /// A blob of which nothing is known.
    pub blob: (End, usize),
    /// A tag that has to be confirmed.
    pub expired: (&'static str, usize),
    /// A blob of which a part has come.
    pub mid_blob: (End, usize),
    /// Waiting for it is part of it.
    pub is_slow: bool,
}

const UNKNOWN: End = Refused(404, "NAME_UNKNOWN");
const LIMITED: End = Refused(429, "TOOMANYREQUESTS");
const NONSENSE: End = Refused(502, "UNAVAILABLE");
const NO_ANSWER: End = Refused(504, "UNAVAILABLE");

pub fn rows() -> Vec<Row> {
    [refusals(), silences(), bodies(), places()].into_iter().flatten().collect()
}

type Expected = (End, usize);

fn row(
    name: &'static str,
    wrong: Wrong,
    manifest: Expected,
    blob: Expected,
    expired: (&'static str, usize),
    mid_blob: Expected,
) -> Row {
    Row { name, wrong, manifest, blob, expired, mid_blob, is_slow: false }
}

fn slow(row: Row) -> Row {
    Row { is_slow: true, ..row }
}

fn status(status: u16) -> Wrong {
    Wrong::Always(Fault::status(status))
}

fn gated(fault: fn(Gate) -> Fault) -> Wrong {
    let gate = Gate::closed();
    Wrong::Gated(gate.clone(), fault(gate))
}

/// The upstream answers that it will not.
fn refusals() -> Vec<Row> {
    vec![
        row("tokens expire", Wrong::TokensExpire, (Served, 3), (Served, 3), ("revalidated", 3), (Served, 3)),
        row("401", status(401), (UNKNOWN, 1), (UNKNOWN, 1), ("stale", 1), (Broken, 2)),
        row("403", status(403), (UNKNOWN, 1), (UNKNOWN, 1), ("stale", 1), (Broken, 2)),
        row(
            "404",
            status(404),
            (Refused(404, "MANIFEST_UNKNOWN"), 1),
            (Refused(404, "BLOB_UNKNOWN"), 1),
            ("stale", 1),
            (Broken, 2),
        ),
        row("429", status(429), (LIMITED, 1), (LIMITED, 1), ("stale", 1), (Broken, 2)),
        row(
            "429 with Retry-After",
            Wrong::Always(Fault::rate_limited(7)),
            (LIMITED, 1),
            (LIMITED, 1),
            ("stale", 1),
            (Broken, 1),
        ),
        row("500", status(500), (NONSENSE, 2), (NONSENSE, 2), ("stale", 2), (Broken, 4)),
        row("503", status(503), (NONSENSE, 2), (NONSENSE, 2), ("stale", 2), (Broken, 4)),
    ]
}

/// The upstream does not answer, or slowly.
fn silences() -> Vec<Row> {
    vec![
        row("refused", Wrong::Refuses, (NO_ANSWER, 0), (NO_ANSWER, 0), ("stale", 0), (Broken, 0)),
        row("gone for good", Wrong::IsGone, (NO_ANSWER, 0), (NO_ANSWER, 0), ("stale", 0), (Broken, 0)),
        row("hangs up", Wrong::Always(Fault::Hangup), (NO_ANSWER, 2), (NO_ANSWER, 2), ("stale", 2), (Broken, 4)),
        slow(row("silent", Wrong::Always(Fault::Silent), (NO_ANSWER, 2), (NO_ANSWER, 2), ("stale", 2), (Broken, 4))),
        slow(row("slow first byte", gated(Fault::SlowFirstByte), (Served, 1), (Served, 1), ("stale", 1), (Served, 1))),
        row(
            "slow drip",
            gated(|gate| Fault::Drip(gate, 50_000)),
            (Served, 1),
            (Served, 1),
            ("revalidated", 1),
            (Served, 1),
        ),
    ]
}

/// The upstream answers with a body that is not what it should be.
fn bodies() -> Vec<Row> {
    let (cut, reset) = (Fault::CutAfter(70_000), Fault::ResetAfter(70_000));
    vec![
        row("cut in good order", Wrong::Always(cut), (Served, 1), (Served, 3), ("revalidated", 1), (Served, 2)),
        // What the sender's buffer still holds at a reset is lost, so that there may be more than the least number of them.
        row("reset", Wrong::Always(reset), (Served, 4), (Served, 60), ("revalidated", 1), (Served, 60)),
        row(
            "cut before the first byte",
            Wrong::Always(Fault::CutAfter(0)),
            (NONSENSE, 2),
            (Broken, 3),
            ("revalidated", 1),
            (Broken, 2),
        ),
        row("too short", Wrong::Always(Fault::Short(10)), (NONSENSE, 1), (Broken, 1), ("revalidated", 1), (Broken, 1)),
        row("too long", Wrong::Always(Fault::Long(10)), (NONSENSE, 1), (Broken, 1), ("revalidated", 1), (Broken, 1)),
        row(
            "less than announced",
            Wrong::Always(Fault::LengthOff(10)),
            (NONSENSE, 2),
            (Broken, 2),
            ("revalidated", 1),
            (Broken, 1),
        ),
        row(
            "more than announced",
            Wrong::Always(Fault::LengthOff(-10)),
            (NONSENSE, 1),
            (Broken, 1),
            ("revalidated", 1),
            (Broken, 1),
        ),
        row("no length", Wrong::Always(Fault::Chunked), (Served, 1), (Served, 1), ("revalidated", 1), (Served, 1)),
        row(
            "wrong bytes",
            Wrong::Always(Fault::WrongBytes),
            (NONSENSE, 1),
            (Broken, 1),
            ("revalidated", 1),
            (Broken, 1),
        ),
        row("a web page", Wrong::Always(Fault::Html), (NONSENSE, 1), (Broken, 1), ("stale", 1), (Broken, 1)),
        row("not HTTP", Wrong::Always(Fault::NotHttp), (NONSENSE, 1), (NONSENSE, 1), ("stale", 1), (Broken, 1)),
    ]
}

/// The content is not where it was asked for.
fn places() -> Vec<Row> {
    vec![
        row("no ranges", Wrong::Always(Fault::NoRange), (Served, 1), (Served, 1), ("revalidated", 1), (Served, 1)),
        row(
            "another range than asked for",
            Wrong::Always(Fault::ContentRange("bytes 7-9/10".to_owned())),
            (NONSENSE, 1),
            (NONSENSE, 1),
            ("stale", 1),
            (Broken, 1),
        ),
        row("redirected", Wrong::Elsewhere, (Served, 1), (Served, 1), ("revalidated", 1), (Served, 1)),
        row(
            "redirected in a circle",
            Wrong::Always(Fault::Redirect("/round".to_owned())),
            (NONSENSE, 2),
            (NONSENSE, 2),
            ("stale", 2),
            (Broken, 2),
        ),
        row("tag moved", Wrong::TagMoves, (Served, 1), (Served, 1), ("miss", 2), (Served, 1)),
        row(
            "tag deleted",
            Wrong::TagGoes,
            (Refused(404, "MANIFEST_UNKNOWN"), 1),
            (Served, 1),
            ("stale", 1),
            (Served, 1),
        ),
    ]
}

/// The layer that is not the one the tests are about.
const FIRST_LAYER: &[u8] = b"the first layer";

/// An upstream with an image of two layers, and what is to go wrong with it.
pub struct Scene {
    pub fake: FakeUpstream,
    second: FakeUpstream,
    pub image: Image,
    pub layer: Bytes,
    wrong: Wrong,
}

impl Scene {
    pub async fn set(row: &Row) -> Self {
        let (fake, second) = (FakeUpstream::start().await, FakeUpstream::start().await);
        let layer = Bytes::from(content(LAYER_BYTES, 1));
        let image = fake.push_image(REPOSITORY, TAG, &[&layer, FIRST_LAYER]);
        second.push_image(REPOSITORY, TAG, &[&layer, FIRST_LAYER]);
        Self { fake, second, image, layer, wrong: row.wrong.clone() }
    }

    /// From now on it goes wrong.
    pub async fn go_wrong(&mut self) {
        match &self.wrong {
            Wrong::Always(fault) | Wrong::Gated(_, fault) => self.fake.fault(On::any(), fault.clone()),
            Wrong::TokensExpire => self.fake.guard(Guard::Bearer(Bearer { uses: Some(1), ..Bearer::default() })),
            Wrong::Elsewhere => self.fake.fault(On::any(), Fault::RedirectTo(self.second.base_url().to_owned())),
            Wrong::Refuses | Wrong::IsGone => self.fake.stop().await,
            Wrong::TagMoves => {
                self.image = self.fake.push_image(REPOSITORY, TAG, &[&self.layer, FIRST_LAYER, b"another"]);
            }
            Wrong::TagGoes => self.fake.delete_tag(REPOSITORY, TAG),
        }
    }

    /// Every connection is gone in mid-transfer, and then it goes wrong.
    pub async fn break_off(&mut self) {
        self.fake.heal();
        self.fake.restart().await;
        self.go_wrong().await;
    }

    /// What waits for a gate goes on as soon as it has come to it, after so many requests in all.
    pub async fn let_go_on(&self, requests: usize) {
        if let Wrong::Gated(gate, _) = &self.wrong {
            self.fake.until(|seen| seen.len() >= requests).await;
            gate.let_pass(1_000);
        }
    }

    /// All is well again; false if it never will be.
    pub async fn heal(&mut self) -> bool {
        match &self.wrong {
            Wrong::IsGone => return false,
            Wrong::Refuses => self.fake.restart().await,
            Wrong::TagGoes => self.fake.move_tag(REPOSITORY, TAG, self.image.manifest),
            Wrong::Gated(gate, _) => gate.let_pass(1_000),
            Wrong::Always(_) | Wrong::TokensExpire | Wrong::Elsewhere | Wrong::TagMoves => {}
        }
        self.fake.heal();
        self.fake.guard(Guard::Open);
        true
    }
}
