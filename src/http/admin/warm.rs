//! `POST /api/v1/warm`: brings a reference into the cache, and tells as it goes: one JSON object a line, until it has ended.
//!
//! The order is a JSON body, which no web page may send here without being asked first (CORS).

use std::sync::Arc;

use axum::body::Body as AnyBody;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures::{FutureExt as _, Stream, stream};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::http::error::ApiError;
use crate::http::request::{Asked, RequestId};
use crate::http::route;
use crate::oci::{ErrorCode, Platform, Reference, RepositoryName, WrittenReference};
use crate::registry::warm::{self, Failure, Part};
use crate::registry::{Caller, Outcome, Registry, Target};

/// Bytes of an order.
const ORDER_MAX_BYTES: usize = 64 << 10;
/// Events that wait to be sent.
const EVENTS_MAX: usize = 64;
/// Stands for every platform.
pub const ALL_PLATFORMS: &str = "all";

/// What is ordered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// NAME, NAME:TAG or NAME@DIGEST, with or without a registry in front.
    pub reference: String,
    /// `OS/ARCHITECTURE[/VARIANT]`, or `all`; none is the platform of the server's machine.
    #[serde(default)]
    pub platforms: Vec<String>,
    /// Have the tag confirmed by the upstream now.
    #[serde(default)]
    pub refresh: bool,
}

/// One line of the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// What was ordered.
    pub reference: String,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A manifest is here.
    Manifest {
        /// Which.
        digest: String,
        /// Its length.
        size_bytes: u64,
        /// How it was come by, in the words of `Entrepot-Cache`.
        outcome: String,
        /// Why it could not be confirmed although its time was up.
        stale: Option<String>,
    },
    /// A blob is here.
    Blob {
        /// Which.
        digest: String,
        /// Its length.
        size_bytes: u64,
        /// How it was come by, in the words of `Entrepot-Cache`.
        outcome: String,
    },
    /// How far it has come, every second.
    Progress(Figures),
    /// Something that a pull does not need was left out.
    Skipped(Trouble),
    /// Something that a pull needs is not to be had.
    Failed(Trouble),
    /// There is nothing more to come.
    Ended(Figures),
}

/// What went wrong with a part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// The part: `manifest 1.27`, `blob sha256:…`.
    pub part: String,
    /// What went wrong.
    pub message: String,
    /// What to do about it.
    pub advice: String,
}

/// Sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// Manifests that are here.
    pub manifests: u64,
    /// Blobs that are here.
    pub blobs: u64,
    /// Blobs there are to be.
    pub blobs_wanted: u64,
    /// Bytes of these.
    pub wanted_bytes: u64,
    /// Bytes of blobs that were here before.
    pub here_bytes: u64,
    /// Bytes of blobs that came.
    pub fetched_bytes: u64,
    /// What failed.
    pub failed: u64,
}

/// Begins what the body orders.
pub async fn begin(
    registry: &Arc<Registry>,
    asked: &Asked,
    body: AnyBody,
    id: RequestId,
) -> Result<Response, ApiError> {
    let unreadable = |reason: String| ApiError::bad_request(ErrorCode::NameInvalid, reason);
    let is_json = asked.text(&CONTENT_TYPE).is_some_and(|given| given.starts_with("application/json"));
    let body = Limited::new(body, ORDER_MAX_BYTES).collect().await;
    let body = body
        .ok()
        .filter(|_| is_json)
        .ok_or_else(|| unreadable("the order is a JSON body, with its Content-Type".into()))?;
    let order: Order = serde_json::from_slice(&body.to_bytes()).map_err(|error| unreadable(error.to_string()))?;
    let written: WrittenReference = order.reference.parse().map_err(|error| unreadable(format!("{error}")))?;
    let platforms = platforms(&order.platforms).map_err(|invalid| unreadable(invalid.to_string()))?;
    let (name, reference) = (written.name.clone(), written.reference());
    let target = Target { name: name.clone(), ns: None, host: None, caller: Caller::default() };
    let teller = Teller { reference: order.reference, name, wanted: reference.clone(), id };
    let (tell, told) = mpsc::channel(EVENTS_MAX);
    let (registry, refresh) = (Arc::clone(registry), order.refresh);
    let job = async move { registry.warm(warm::Order { target, reference, platforms, refresh }, tell).await };
    let lines = lines(job, told, teller);
    let mut response = (StatusCode::OK, AnyBody::from_stream(lines)).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn platforms(texts: &[String]) -> Result<Option<Vec<Platform>>, crate::oci::PlatformInvalid> {
    if texts.iter().any(|text| text == ALL_PLATFORMS) {
        return Ok(None);
    }
    if texts.is_empty() {
        return Ok(Some(vec![Platform::of_this_machine()]));
    }
    texts.iter().map(|text| text.parse()).collect::<Result<_, _>>().map(Some)
}

/// What a job tells, as long as somebody reads it: the job is part of the answer, and goes with it.
fn lines(
    job: impl Future<Output = ()> + Send + 'static,
    told: mpsc::Receiver<warm::Event>,
    teller: Teller,
) -> impl Stream<Item = Result<Bytes, std::convert::Infallible>> + Send {
    let job = job.boxed().fuse();
    stream::unfold((job, told, teller), |(mut job, mut told, teller)| async move {
        let event = loop {
            tokio::select! {
                biased;
                event = told.recv() => break event?,
                () = &mut job, if !futures::future::FusedFuture::is_terminated(&job) => {}
            }
        };
        let mut text = serde_json::to_string(&teller.line(event)).expect("names are texts, and nothing else can fail");
        text.push('\n');
        Some((Ok(Bytes::from(text)), (job, told, teller)))
    })
}

/// From what happened to what is told of it.
struct Teller {
    reference: String,
    name: RepositoryName,
    wanted: Reference,
    id: RequestId,
}

impl Teller {
    fn line(&self, event: warm::Event) -> Line {
        let text = |outcome: Outcome| outcome.as_str().to_owned();
        let event = match event {
            warm::Event::Manifest(pulled) => Event::Manifest {
                digest: pulled.manifest.digest_text.clone(),
                size_bytes: pulled.manifest.bytes.len() as u64,
                outcome: text(pulled.outcome),
                stale: pulled.stale.map(|stale| stale.reason.to_owned()),
            },
            warm::Event::Blob { digest, size_bytes, outcome } => {
                Event::Blob { digest: digest.to_string(), size_bytes, outcome: text(outcome) }
            }
            warm::Event::Progress(figures) => Event::Progress(figures.into()),
            warm::Event::Skipped(part, failure) => Event::Skipped(self.trouble(part, failure)),
            warm::Event::Failed(part, failure) => Event::Failed(self.trouble(part, failure)),
            warm::Event::Ended(figures) => Event::Ended(figures.into()),
        };
        Line { reference: self.reference.clone(), event }
    }

    fn trouble(&self, part: Part, failure: Failure) -> Trouble {
        let (spoken, action) = match part {
            Part::Manifest(reference) => {
                let action = route::Action::PullManifest { name: self.name.clone(), reference: reference.clone() };
                (format!("manifest {reference}"), action)
            }
            Part::Referrers(digest) => {
                (format!("referrers of {digest}"), route::Action::ListReferrers { name: self.name.clone(), digest })
            }
            Part::Blob(digest) => {
                (format!("blob {digest}"), route::Action::PullBlob { name: self.name.clone(), digest })
            }
        };
        let (message, advice) = match failure {
            Failure::Registry(error) => {
                let answer = ApiError::of(error, &action, &self.id.to_string());
                (answer.message().to_owned(), advice(&answer))
            }
            failure => {
                let advice = match &failure {
                    Failure::NoPlatform { .. } => "say which with --platform, or --all-platforms",
                    Failure::Unconfirmed { .. } | Failure::Registry(_) => WHY,
                    Failure::Guarded => "give the upstream credentials in the configuration, or let its clients pull",
                    Failure::TooLarge { .. } | Failure::Evicted => "raise cache.max_size, or warm less",
                };
                (failure.to_string(), advice)
            }
        };
        let advice = advice.replace("REF", &format!("{}{}", self.name, separated(&self.wanted)));
        Trouble { part: spoken, message, advice }
    }
}

const WHY: &str = "`entrepot why REF` tells how the upstream does; then warm again";

fn separated(reference: &Reference) -> String {
    let mark = if matches!(reference, Reference::Digest(_)) { '@' } else { ':' };
    format!("{mark}{reference}")
}

/// What to do about an answer that a client would have got.
fn advice(answer: &ApiError) -> &'static str {
    match answer.status() {
        404 => "look at the name and the tag, and whether the upstream wants credentials",
        429 => "give the upstream credentials, or warm again later",
        401 | 403 => "give the upstream credentials in the configuration",
        507 => "raise cache.max_size or storage.max_size, or warm less",
        500 => "look at the server's log",
        502..=504 => WHY,
        _ => "mend the reference",
    }
}

impl From<warm::Figures> for Figures {
    fn from(figures: warm::Figures) -> Self {
        let warm::Figures { manifests, blobs, blobs_wanted, wanted_bytes, here_bytes, fetched_bytes, failed } = figures;
        Self { manifests, blobs, blobs_wanted, wanted_bytes, here_bytes, fetched_bytes, failed }
    }
}
