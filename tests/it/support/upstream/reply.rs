//! What a fake upstream answers to a request, its script considered.

use bytes::Bytes;
use entrepot::oci::{ManifestKind, RangeRequest};

use super::Shared;
use super::record::{Request, Target};
use super::script::Fault;

/// How the length of a body is told.
#[derive(Clone, Copy)]
pub enum Framing {
    Length(u64),
    Chunked,
    Endless,
}

/// An answer before it is sent.
pub struct Reply {
    pub status: u16,
    headers: Vec<(&'static str, String)>,
    pub body: Bytes,
    pub framing: Framing,
    /// The connection ends with it.
    pub closes: bool,
}

impl Reply {
    fn new(status: u16, content_type: &str, body: Bytes) -> Self {
        let framing = Framing::Length(body.len() as u64);
        Self { status, headers: vec![("content-type", content_type.to_owned())], body, framing, closes: false }
    }

    fn error(status: u16, code: &str) -> Self {
        let body = format!("{{\"errors\":[{{\"code\":\"{code}\",\"message\":\"from the fake\"}}]}}");
        Self::new(status, "application/json", body.into())
    }

    /// In place of one of the same name.
    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.retain(|(set, _)| *set != name);
        self.headers.push((name, value.into()));
        self
    }

    /// Offset in the whole of the body's first byte.
    pub fn start(&self) -> u64 {
        let range = self.headers.iter().find(|(name, _)| *name == "content-range");
        let start = range.and_then(|(_, value)| value.strip_prefix("bytes ")?.split('-').next()?.parse().ok());
        start.unwrap_or(0)
    }

    pub fn head(&self) -> String {
        let mut head = format!("HTTP/1.1 {} Fake\r\n", self.status);
        match self.framing {
            Framing::Length(length) => head = format!("{head}content-length: {length}\r\n"),
            Framing::Chunked | Framing::Endless => head += "transfer-encoding: chunked\r\n",
        }
        if self.closes {
            head += "connection: close\r\n";
        }
        for (name, value) in &self.headers {
            head = format!("{head}{name}: {value}\r\n");
        }
        head + "\r\n"
    }
}

/// The answer, and the fault that its delivery still has to have. Who is not let in meets no fault.
pub fn reply(shared: &Shared, request: &Request) -> (Reply, Option<Fault>) {
    if request.target != Target::Token
        && let Some(challenge) = shared.state().gatekeeper.challenge(request, &shared.base_url)
    {
        return (Reply::error(401, "UNAUTHORIZED").with("www-authenticate", challenge), None);
    }
    let fault = shared.state().script.take(request);
    let natural = || natural(shared, request, !matches!(fault, Some(Fault::NoRange)));
    let mut reply = match &fault {
        Some(Fault::Status(status, headers)) => {
            headers.iter().fold(Reply::error(*status, "FAKED"), |reply, (name, value)| reply.with(name, value))
        }
        Some(Fault::Html) => Reply::new(200, "text/html; charset=utf-8", "<!doctype html><p>sign in".into()),
        Some(Fault::Redirect(location)) => Reply::error(307, "FAKED").with("location", location),
        Some(Fault::RedirectTo(base)) => {
            Reply::error(307, "FAKED").with("location", format!("{base}{}?signature=secret", request.path))
        }
        Some(Fault::ContentRange(value)) => Reply { status: 206, ..natural() }.with("content-range", value),
        _ => natural(),
    };
    match &fault {
        Some(Fault::WrongBytes) => reply.body = reply.body.iter().map(|byte| byte ^ 1).collect(),
        Some(Fault::Short(by)) => {
            reply.body.truncate(reply.body.len().saturating_sub(*by));
            reply.framing = Framing::Length(reply.body.len() as u64);
        }
        Some(Fault::Long(by)) => {
            reply.body = [&reply.body[..], &vec![b'x'; *by]].concat().into();
            reply.framing = Framing::Length(reply.body.len() as u64);
        }
        Some(Fault::LengthOff(by)) => {
            reply.framing = Framing::Length((reply.body.len() as u64).saturating_add_signed(*by));
            reply.closes = true;
        }
        Some(Fault::Chunked) => reply.framing = Framing::Chunked,
        Some(Fault::Endless) => reply.framing = Framing::Endless,
        Some(Fault::CutAfter(_) | Fault::ResetAfter(_)) => reply.closes = true,
        _ => {}
    }
    let extra = shared.state().headers.clone();
    for (name, value) in extra {
        reply = reply.with(name, value);
    }
    (reply, fault)
}

/// The answer of a registry that works.
fn natural(shared: &Shared, request: &Request, ranges: bool) -> Reply {
    match &request.target {
        Target::Blob { repository, digest } => {
            let blob = shared.state().content.blob(repository, digest);
            let Some((digest, bytes)) = blob else { return Reply::error(404, "BLOB_UNKNOWN") };
            let range = request.header("range").filter(|_| ranges);
            part(bytes, range).with("docker-content-digest", digest.to_string())
        }
        Target::Manifest { repository, reference } => {
            let stored = shared.state().content.manifest(repository, reference);
            let accept = request.header("accept").unwrap_or("*/*");
            match stored.filter(|stored| accept.contains(&stored.media_type) || accept.contains("*/*")) {
                Some(stored) => Reply::new(200, &stored.media_type, stored.bytes)
                    .with("docker-content-digest", stored.digest.to_string()),
                None => Reply::error(404, "MANIFEST_UNKNOWN"),
            }
        }
        Target::Tags { repository } => tags(shared, request, repository),
        Target::Referrers { repository, subject } => referrers(shared, request, repository, subject),
        Target::Token => {
            let issued = shared.state().gatekeeper.issue(request);
            issued.map_or_else(
                || Reply::error(401, "UNAUTHORIZED"),
                |json| Reply::new(200, "application/json", json.into()),
            )
        }
        Target::Other => Reply::error(404, "NAME_UNKNOWN"),
    }
}

fn part(bytes: Bytes, range: Option<&str>) -> Reply {
    let content_type = "application/octet-stream";
    let total = bytes.len();
    let Some(range) = range.and_then(RangeRequest::parse) else {
        return Reply::new(200, content_type, bytes).with("accept-ranges", "bytes");
    };
    match range.within(total as u64) {
        Ok(range) => {
            let (start, end) = (usize::try_from(range.start).unwrap(), usize::try_from(range.end).unwrap());
            let value = format!("bytes {start}-{}/{total}", end - 1);
            Reply::new(206, content_type, bytes.slice(start..end)).with("content-range", value)
        }
        Err(_) => Reply::error(416, "RANGE_INVALID").with("content-range", format!("bytes */{total}")),
    }
}

/// Pages by an opaque token, as some registries do.
fn referrers(shared: &Shared, request: &Request, repository: &str, subject: &str) -> Reply {
    let state = shared.state();
    if state.has_no_referrers_api {
        return Reply::new(404, "text/plain", "404 page not found".into());
    }
    let entries = state.content.referrers(repository, subject);
    let from: usize = request.parameter("token").map_or(0, |token| token.trim_start_matches("t-").parse().unwrap());
    let to = from.saturating_add(state.page_max.unwrap_or(usize::MAX)).min(entries.len());
    let media_type = ManifestKind::OciIndex.media_type();
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": media_type, "manifests": entries[from..to]});
    let reply = Reply::new(200, media_type, index.to_string().into());
    if to < entries.len() {
        reply.with("link", format!("<https://elsewhere.example/v2/x?token=t-{to}>; rel=\"next\""))
    } else {
        reply
    }
}

fn tags(shared: &Shared, request: &Request, repository: &str) -> Reply {
    let page_max = shared.state().page_max;
    let tags = shared.state().content.tags(repository);
    let Some(tags) = tags else { return Reply::error(404, "NAME_UNKNOWN") };
    let last = request.parameter("last").unwrap_or_default();
    let n =
        request.parameter("n").and_then(|n| n.parse().ok()).unwrap_or(usize::MAX).min(page_max.unwrap_or(usize::MAX));
    let after: Vec<String> = tags.into_iter().filter(|tag| *tag > last).collect();
    let page = &after[..n.min(after.len())];
    let body = serde_json::json!({"name": repository, "tags": page}).to_string();
    let reply = Reply::new(200, "application/json", body.into());
    match page.last() {
        Some(last) if page.len() < after.len() => {
            reply.with("link", format!("</v2/{repository}/tags/list?n={n}&last={last}>; rel=\"next\""))
        }
        _ => reply,
    }
}
