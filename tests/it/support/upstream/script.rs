//! The faults a fake upstream is told to have: which request, how often, and what goes wrong.

use std::sync::Arc;

use entrepot::oci::Digest;
use tokio::sync::Semaphore;

use super::record::{Request, Target};

/// Holds an answer back until the test lets it go on: one permit for each step.
#[derive(Clone)]
pub struct Gate(Arc<Semaphore>);

impl Gate {
    pub fn closed() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    /// Lets so many steps pass.
    pub fn let_pass(&self, steps: usize) {
        self.0.add_permits(steps);
    }

    pub(super) async fn pass(&self) {
        self.0.acquire().await.expect("a gate is never destroyed").forget();
    }
}

/// What goes wrong. Faults of the body show only where there is a body to send.
#[derive(Clone)]
pub enum Fault {
    /// This status with these headers and an empty body.
    Status(u16, Vec<(&'static str, String)>),
    /// The request is taken and never answered.
    Silent,
    /// The connection is closed instead of an answer.
    Hangup,
    /// Bytes that are not HTTP.
    NotHttp,
    /// The answer's head waits for the gate.
    SlowFirstByte(Gate),
    /// The head comes at once; every piece of so many bytes waits for the gate.
    Drip(Gate, usize),
    /// What lies beyond this offset of the blob waits for the gate, whichever part of the blob is asked for.
    StandAt(Gate, u64),
    /// The connection is closed in good order after so many bytes of the body.
    CutAfter(u64),
    /// The connection is reset after so many bytes of the body; fewer may arrive.
    ResetAfter(u64),
    /// `Content-Length` is off by so much; then the connection is closed.
    LengthOff(i64),
    /// So many bytes are missing at the end, and the length says nothing of them.
    Short(usize),
    /// So many bytes too many, and the length counts them.
    Long(usize),
    /// `Transfer-Encoding: chunked`, without a length.
    Chunked,
    /// The same number of other bytes.
    WrongBytes,
    /// A web page with status 200.
    Html,
    /// `Range` is ignored: 200 and the whole.
    NoRange,
    /// 206 with this `Content-Range`, whatever was asked.
    ContentRange(String),
    /// 307 to this location.
    Redirect(String),
    /// 307 to the same path at another base URL, with a signature in the query.
    RedirectTo(String),
    /// A body without end.
    Endless,
}

impl Fault {
    pub fn status(status: u16) -> Self {
        Self::Status(status, Vec::new())
    }

    /// 429 with a `Retry-After` in seconds.
    pub fn rate_limited(retry_after: u64) -> Self {
        Self::Status(429, vec![("retry-after", retry_after.to_string())])
    }
}

#[derive(Clone)]
enum Wanted {
    Any,
    Blob(String),
    Manifest(String),
    Tags,
    Referrers,
    Token,
}

/// The requests a fault is for.
#[derive(Clone)]
pub struct On {
    wanted: Wanted,
    method: Option<&'static str>,
    skip: u32,
    times: u32,
}

impl On {
    pub fn any() -> Self {
        Self::new(Wanted::Any)
    }

    pub fn blob(digest: &Digest) -> Self {
        Self::new(Wanted::Blob(digest.to_string()))
    }

    /// By tag or digest, as it is asked.
    pub fn manifest(reference: &str) -> Self {
        Self::new(Wanted::Manifest(reference.to_owned()))
    }

    /// Lists of tags.
    pub fn tags() -> Self {
        Self::new(Wanted::Tags)
    }

    /// Lists of referrers.
    pub fn referrers() -> Self {
        Self::new(Wanted::Referrers)
    }

    pub fn token() -> Self {
        Self::new(Wanted::Token)
    }

    fn new(wanted: Wanted) -> Self {
        Self { wanted, method: None, skip: 0, times: u32::MAX }
    }

    pub fn get(self) -> Self {
        Self { method: Some("GET"), ..self }
    }

    pub fn head(self) -> Self {
        Self { method: Some("HEAD"), ..self }
    }

    /// The first so many matching requests are answered well.
    pub fn after(self, skip: u32) -> Self {
        Self { skip, ..self }
    }

    /// Only so many times; always, if this is not said.
    pub fn times(self, times: u32) -> Self {
        Self { times, ..self }
    }

    fn matches(&self, request: &Request) -> bool {
        let target = match (&self.wanted, &request.target) {
            (Wanted::Any, _)
            | (Wanted::Token, Target::Token)
            | (Wanted::Tags, Target::Tags { .. })
            | (Wanted::Referrers, Target::Referrers { .. }) => true,
            (Wanted::Blob(wanted), Target::Blob { digest, .. }) => wanted == digest,
            (Wanted::Manifest(wanted), Target::Manifest { reference, .. }) => wanted == reference,
            _ => false,
        };
        target && self.method.is_none_or(|method| method == request.method)
    }
}

/// Faults in the order in which they were told; the first that matches and is not used up counts.
#[derive(Default)]
pub struct Script(Vec<(On, Fault)>);

impl Script {
    pub fn add(&mut self, on: On, fault: Fault) {
        self.0.push((on, fault));
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    pub fn take(&mut self, request: &Request) -> Option<Fault> {
        for (on, fault) in self.0.iter_mut().filter(|(on, _)| on.times > 0 && on.matches(request)) {
            if on.skip > 0 {
                on.skip -= 1;
                continue;
            }
            on.times -= 1;
            return Some(fault.clone());
        }
        None
    }
}
