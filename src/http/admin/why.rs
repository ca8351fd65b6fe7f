//! `GET /api/v1/why?ref=REF`: why a reference is answered as it is, as one document that `entrepot why` shows to people.

use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::json;
use super::moment::Moment;
use crate::http::error::ApiError;
use crate::http::request::{Asked, RequestId};
use crate::http::route;
use crate::oci::{ErrorCode, Reference, RepositoryName, WrittenReference};
use crate::registry::explain::{Contents, Explanation, Foreseen, Next, Part, Rule, UpstreamSeen};
use crate::registry::{Caller, Registry, Target};

/// Explains the reference in `?ref=`, as containerd would ask for it if there is a `?ns=`.
pub async fn explain(registry: &Registry, asked: &Asked, id: RequestId) -> Result<Response, ApiError> {
    let unreadable = |reason: String| ApiError::bad_request(ErrorCode::NameInvalid, reason);
    let written =
        asked.query.first("ref").ok_or_else(|| unreadable("say what to explain: ?ref=NAME:TAG".to_owned()))?;
    let written: WrittenReference = written.parse().map_err(|error| unreadable(format!("{error}")))?;
    let (name, reference) = (written.name.clone(), written.reference());
    let target = Target {
        name: name.clone(),
        ns: asked.query.first("ns").map(str::to_owned),
        host: None,
        caller: Caller::default(),
    };
    let action = route::Action::PullManifest { name: name.clone(), reference: reference.clone() };
    let explained = registry.explain(&target, &reference).await;
    let explained = explained.map_err(|error| ApiError::of(error, &action, &id.to_string()))?;
    Ok(json(&Why::new(&name, &reference, explained)))
}

/// The document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// The repository that would answer, and what would be asked of it.
    pub reference: String,
    /// When this was so.
    pub now: Moment,
    /// How the name was understood.
    pub name: NameWhy,
    /// The upstream behind it.
    pub upstream: Option<UpstreamWhy>,
    /// The tag, as it is known here.
    pub tag: Option<TagWhy>,
    /// The manifest, as it is known here.
    pub manifest: Option<ManifestWhy>,
    /// What the next pull would do.
    pub next: NextWhy,
}

/// How a name was understood.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameWhy {
    /// `ns`, `host`, `prefix`, `default`, `no_default`, `foreign_host`, `too_long`.
    pub rule: String,
    /// The same in a sentence.
    pub says: String,
    /// The name somebody pushed to, which keeps it from upstreams.
    pub private: Option<String>,
    /// `overlay` holds for it.
    pub overlay: bool,
    /// `local_only` holds for it.
    pub local_only: bool,
}

/// An upstream, as it looks from here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamWhy {
    /// Its name.
    pub host: String,
    /// What the repository is called there.
    pub repository: String,
    /// What a client must do first, if it must do something.
    pub sign_in: Option<String>,
    /// What only a running server knows; nothing without one.
    pub state: Option<StateWhy>,
}

/// What a running server knows of an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateWhy {
    /// Why it would not be asked now.
    pub trouble: Option<String>,
    /// Failures in a row; it is left alone for a while after three.
    pub failures: u32,
    /// Requests left of its rate limit.
    pub budget: Option<BudgetWhy>,
    /// Its no to this question, while that is remembered.
    pub remembered: Option<String>,
    /// Its last answers, the newest first.
    pub answers: Vec<AnswerWhy>,
}

/// What is left of a rate limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetWhy {
    /// Requests left.
    pub remaining: u64,
    /// Requests in a window.
    pub limit: Option<u64>,
    /// By when all of it is back.
    pub resets_at: Option<Moment>,
}

/// An answer of an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerWhy {
    /// When.
    pub at: Moment,
    /// What was asked.
    pub operation: String,
    /// `ok`, or the kind of the error.
    pub result: String,
    /// How long it took.
    pub took_ms: u64,
}

/// A tag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagWhy {
    /// Its name.
    pub name: String,
    /// The manifest it names.
    pub digest: String,
    /// Was it pushed here, or does it come from the upstream?
    pub pushed: bool,
    /// When the upstream last confirmed it, or it was pushed.
    pub checked_at: Moment,
    /// How long it counts; nothing for pushed tags.
    pub lifetime: Option<LifetimeWhy>,
}

/// How long an upstream's tag counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LifetimeWhy {
    /// Until when it is answered without asking; without end if there is none.
    pub fresh_until: Option<Moment>,
    /// Until when it is answered if the upstream fails; without end if there is none.
    pub stale_until: Option<Moment>,
    /// The key of the configuration that says so.
    pub rule: String,
}

/// A manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestWhy {
    /// Its digest.
    pub digest: String,
    /// Its media type.
    pub media_type: String,
    /// Its length.
    pub size_bytes: u64,
    /// Its bytes are here.
    pub here: bool,
    /// Bytes of its blobs that are here.
    pub here_bytes: u64,
    /// Bytes of its blobs that are not.
    pub missing_bytes: u64,
    /// Its config and layers, the largest first.
    pub blobs: Vec<BlobWhy>,
    /// Its children, if it is an index.
    pub children: Vec<ChildWhy>,
}

/// A blob of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobWhy {
    /// Its digest.
    pub digest: String,
    /// Its length.
    pub size_bytes: u64,
    /// `here`; `unproven`: here, but this repository's upstream has yet to say that it has it; `filling`; `missing`.
    pub state: String,
}

/// A child of an index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildWhy {
    /// Its digest.
    pub digest: String,
    /// Its manifest is here.
    pub here: bool,
    /// Blobs it refers to, if it is here.
    pub blobs: u64,
    /// Bytes of those that are not here.
    pub missing_bytes: u64,
}

/// What the next pull would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextWhy {
    /// `local`, `hit`, `revalidate`, `fetch`, `stale` or `refuse`.
    pub action: String,
    /// The same in a sentence.
    pub says: String,
    /// The status of the refusal.
    pub status: Option<u16>,
    /// The code of the refusal.
    pub code: Option<String>,
}

impl Why {
    /// The document about `reference`, asked for as `name`.
    pub fn new(name: &RepositoryName, reference: &Reference, explained: Explanation) -> Self {
        let separator = if matches!(reference, Reference::Tag(_)) { ':' } else { '@' };
        let lifetime = explained.lifetime.map(|lifetime| LifetimeWhy {
            fresh_until: lifetime.fresh_until_ms.map(Moment),
            stale_until: lifetime.stale_until_ms.map(Moment),
            rule: lifetime.rule,
        });
        Self {
            reference: format!("{}{separator}{reference}", explained.repository),
            now: Moment(explained.now_ms),
            name: NameWhy {
                rule: explained.rule.as_str().to_owned(),
                says: says(explained.rule, name, explained.upstream.as_ref()),
                private: explained.private.map(|name| name.to_string()),
                overlay: explained.is_overlay,
                local_only: explained.is_local_only,
            },
            tag: explained.tag.map(|tag| TagWhy {
                name: tag.name.to_string(),
                digest: tag.digest.to_string(),
                pushed: tag.provenance.is_pushed(),
                checked_at: Moment(tag.checked_ms),
                lifetime,
            }),
            manifest: explained.manifest.as_ref().map(ManifestWhy::new),
            next: NextWhy::new(name, reference, explained.next, explained.upstream.as_ref()),
            upstream: explained.upstream.map(UpstreamWhy::new),
        }
    }
}

fn says(rule: Rule, name: &RepositoryName, upstream: Option<&UpstreamSeen>) -> String {
    let host = upstream.map_or("an upstream", |upstream| upstream.host.as_str());
    match rule {
        Rule::Namespace => format!("?ns= names {host}"),
        Rule::Host => format!("the Host header means {host} (hosts)"),
        Rule::Prefix => format!("{name} begins with an upstream"),
        Rule::Default => format!("{name} has no host in it: the default upstream's"),
        Rule::NoDefault => format!("{name} has no host in it, and no upstream is the default"),
        Rule::ForeignHost => format!("{name} begins with a host that is no upstream"),
        Rule::TooLong => format!("{name} is too long for an upstream's"),
    }
}

impl UpstreamWhy {
    fn new(seen: UpstreamSeen) -> Self {
        let state = seen.state.map(|state| StateWhy {
            trouble: state.trouble.map(|error| error.to_string()),
            failures: state.failures,
            budget: state.budget.map(|budget| BudgetWhy {
                remaining: budget.remaining,
                limit: budget.limit,
                resets_at: budget.resets_at_ms.map(Moment),
            }),
            remembered: state.remembered.map(|error| error.to_string()),
            answers: state
                .answers
                .iter()
                .map(|answer| AnswerWhy {
                    at: Moment(answer.at_ms),
                    operation: answer.operation.to_owned(),
                    result: answer.result.to_owned(),
                    took_ms: u64::try_from(answer.took.as_millis()).unwrap_or(u64::MAX),
                })
                .collect(),
        });
        let sign_in = seen.is_guarded.then(|| {
            let host = &seen.host;
            format!(
                "with a name and password of {host}, which is asked whether they are good (visibility: passthrough)"
            )
        });
        Self { host: seen.host.to_string(), repository: seen.remote.to_string(), sign_in, state }
    }
}

impl ManifestWhy {
    fn new(contents: &Contents) -> Self {
        let sum = |is_stored: bool| {
            contents.parts.iter().filter(|part| part.is_stored == is_stored).map(|part| part.size_bytes).sum()
        };
        let missing_children: u64 = contents.children.iter().map(|child| child.missing_bytes).sum();
        let state = |part: &Part| match (part.is_stored, part.is_linked) {
            (true, true) => "here",
            (true, false) => "unproven",
            (false, _) if contents.filling.contains(&part.digest) => "filling",
            (false, _) => "missing",
        };
        Self {
            digest: contents.row.digest.to_string(),
            media_type: contents.row.media_type.clone(),
            size_bytes: contents.row.size_bytes,
            here: contents.is_here,
            here_bytes: sum(true),
            missing_bytes: u64::saturating_add(sum(false), missing_children),
            blobs: contents
                .parts
                .iter()
                .map(|part| BlobWhy {
                    digest: part.digest.to_string(),
                    size_bytes: part.size_bytes,
                    state: state(part).to_owned(),
                })
                .collect(),
            children: contents
                .children
                .iter()
                .map(|child| ChildWhy {
                    digest: child.digest.to_string(),
                    here: child.is_here,
                    blobs: child.blobs,
                    missing_bytes: child.missing_bytes,
                })
                .collect(),
        }
    }
}

impl NextWhy {
    fn new(name: &RepositoryName, reference: &Reference, next: Next, upstream: Option<&UpstreamSeen>) -> Self {
        let host = upstream.map_or("the upstream", |upstream| upstream.host.as_str());
        let done = |action: &str, says: String| Self { action: action.to_owned(), says, status: None, code: None };
        let refusal = match next {
            Next::Local => return done("local", "served from here, nobody is asked".to_owned()),
            Next::Unknown(error) => error,
            Next::Mirrored(Foreseen::Hit) => return done("hit", format!("served from the cache, {host} is not asked")),
            Next::Mirrored(Foreseen::Revalidate { may_serve_stale, is_waited_for }) => {
                let otherwise = match (may_serve_stale, is_waited_for) {
                    (true, true) => "; if it fails, the cached answer is served",
                    (true, false) => "; it failed last time, so the cached answer is served without waiting",
                    (false, _) => "",
                };
                let says = format!("{host} is asked with one HEAD whether the tag moved{otherwise}");
                return done("revalidate", says);
            }
            Next::Mirrored(Foreseen::Fetch) => return done("fetch", format!("fetched from {host}")),
            Next::Mirrored(Foreseen::Stale { reason }) => {
                return done(
                    "stale",
                    format!("served from the cache with a warning, {host} not being asked ({reason})"),
                );
            }
            Next::Mirrored(Foreseen::Refuse(source)) => crate::registry::Error::Cache { name: name.clone(), source },
        };
        let action = route::Action::PullManifest { name: name.clone(), reference: reference.clone() };
        let refused = ApiError::of(refusal, &action, "none");
        Self {
            action: "refuse".to_owned(),
            says: refused.message().to_owned(),
            status: Some(refused.status()),
            code: Some(refused.code().to_owned()),
        }
    }
}
