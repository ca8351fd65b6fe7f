//! (method, raw path) → [`Action`]: pure, and total over whatever a client may send.
//!
//! Names may contain any number of slashes, and words like `blobs` too, so a path is read from the right: what an upload's
//! name, a digest, a tag and `list` have in common is that they contain no slash.

use std::borrow::Cow;

use http::Method;

use crate::oci::{
    Digest, DigestInvalid, NameInvalid, Reference, ReferenceInvalid, RepositoryName, UploadId, UploadIdInvalid,
};

/// What a request to `/v2/` wants. Every request becomes one of these before anything else is done with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// end-1: does the registry speak this API?
    Probe,
    /// The repositories of the registry.
    ListRepositories,
    /// end-8
    ListTags { name: RepositoryName },
    /// end-3, GET and HEAD
    PullManifest { name: RepositoryName, reference: Reference },
    /// end-7
    PushManifest { name: RepositoryName, reference: Reference },
    /// end-9
    DeleteManifest { name: RepositoryName, reference: Reference },
    /// end-2, GET and HEAD
    PullBlob { name: RepositoryName, digest: Digest },
    /// end-10
    DeleteBlob { name: RepositoryName, digest: Digest },
    /// end-4, end-11
    StartUpload { name: RepositoryName },
    /// end-13
    FindUpload { name: RepositoryName, id: UploadId },
    /// end-5
    AppendUpload { name: RepositoryName, id: UploadId },
    /// end-6
    FinishUpload { name: RepositoryName, id: UploadId },
    /// end-14
    CancelUpload { name: RepositoryName, id: UploadId },
    /// end-12
    ListReferrers { name: RepositoryName, digest: Digest },
}

/// Why a request is no action.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unroutable {
    /// No endpoint has this path.
    #[error("there is no such endpoint under /v2/")]
    Path,
    /// The endpoint does not know this method.
    #[error("this endpoint takes {allow}")]
    Method { allow: &'static str },
    /// The path is encoded in a way that no name, tag or digest needs.
    #[error("the path has a percent-encoding other than %3A: names, tags and digests need none")]
    Encoding,
    /// The part before the endpoint is no repository name.
    #[error(transparent)]
    Name(#[from] NameInvalid),
    /// The last part is no digest.
    #[error(transparent)]
    Digest(#[from] DigestInvalid),
    /// The last part is neither tag nor digest.
    #[error(transparent)]
    Reference(#[from] ReferenceInvalid),
    /// The last part was never given out as an upload session's name.
    #[error(transparent)]
    Upload(#[from] UploadIdInvalid),
}

impl Action {
    /// The word for log and metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::ListRepositories => "list_repositories",
            Self::ListTags { .. } => "list_tags",
            Self::PullManifest { .. } => "pull_manifest",
            Self::PushManifest { .. } => "push_manifest",
            Self::DeleteManifest { .. } => "delete_manifest",
            Self::PullBlob { .. } => "pull_blob",
            Self::DeleteBlob { .. } => "delete_blob",
            Self::StartUpload { .. } => "start_upload",
            Self::FindUpload { .. } => "find_upload",
            Self::AppendUpload { .. } => "append_upload",
            Self::FinishUpload { .. } => "finish_upload",
            Self::CancelUpload { .. } => "cancel_upload",
            Self::ListReferrers { .. } => "list_referrers",
        }
    }

    /// The repository it is about.
    pub const fn name(&self) -> Option<&RepositoryName> {
        match self {
            Self::Probe | Self::ListRepositories => None,
            Self::ListTags { name }
            | Self::PullManifest { name, .. }
            | Self::PushManifest { name, .. }
            | Self::DeleteManifest { name, .. }
            | Self::PullBlob { name, .. }
            | Self::DeleteBlob { name, .. }
            | Self::StartUpload { name }
            | Self::FindUpload { name, .. }
            | Self::AppendUpload { name, .. }
            | Self::FinishUpload { name, .. }
            | Self::CancelUpload { name, .. }
            | Self::ListReferrers { name, .. } => Some(name),
        }
    }

    /// The tag, digest or session it is about, as text for the log.
    pub fn reference(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::PullManifest { reference: Reference::Tag(tag), .. }
            | Self::PushManifest { reference: Reference::Tag(tag), .. }
            | Self::DeleteManifest { reference: Reference::Tag(tag), .. } => Some(tag.as_str().into()),
            Self::PullManifest { reference: Reference::Digest(digest), .. }
            | Self::PushManifest { reference: Reference::Digest(digest), .. }
            | Self::DeleteManifest { reference: Reference::Digest(digest), .. }
            | Self::PullBlob { digest, .. }
            | Self::DeleteBlob { digest, .. }
            | Self::ListReferrers { digest, .. } => Some(digest.to_string().into()),
            Self::FindUpload { id, .. }
            | Self::AppendUpload { id, .. }
            | Self::FinishUpload { id, .. }
            | Self::CancelUpload { id, .. } => Some(id.to_string().into()),
            Self::Probe | Self::ListRepositories | Self::ListTags { .. } | Self::StartUpload { .. } => None,
        }
    }
}

/// The action of a request. `path` is the path as it came, not decoded.
pub fn route(method: &Method, path: &str) -> Result<Action, Unroutable> {
    let rest = match path {
        "/v2" | "/v2/" => return only_get(method, Action::Probe),
        "/v2/_catalog" => return only_get(method, Action::ListRepositories),
        path => path.strip_prefix("/v2/").ok_or(Unroutable::Path)?,
    };
    if let Some(name) = rest.strip_suffix("/blobs/uploads/").or_else(|| rest.strip_suffix("/blobs/uploads")) {
        let name = parse_name(name)?;
        return match *method {
            Method::POST => Ok(Action::StartUpload { name }),
            _ => Err(Unroutable::Method { allow: "POST" }),
        };
    }
    let (front, last) = rest.rsplit_once('/').ok_or(Unroutable::Path)?;
    if let Some(name) = front.strip_suffix("/blobs/uploads") {
        return upload(method, parse_name(name)?, last.parse()?);
    }
    if let Some(name) = front.strip_suffix("/tags").filter(|_| last == "list") {
        return only_get(method, Action::ListTags { name: parse_name(name)? });
    }
    let last = &*decode(last)?;
    if let Some(name) = front.strip_suffix("/manifests") {
        return manifest(method, parse_name(name)?, last.parse()?);
    }
    if let Some(name) = front.strip_suffix("/blobs") {
        return blob(method, parse_name(name)?, last.parse()?);
    }
    if let Some(name) = front.strip_suffix("/referrers") {
        return only_get(method, Action::ListReferrers { name: parse_name(name)?, digest: last.parse()? });
    }
    Err(Unroutable::Path)
}

fn only_get(method: &Method, action: Action) -> Result<Action, Unroutable> {
    match *method {
        Method::GET | Method::HEAD => Ok(action),
        _ => Err(Unroutable::Method { allow: "GET, HEAD" }),
    }
}

fn manifest(method: &Method, name: RepositoryName, reference: Reference) -> Result<Action, Unroutable> {
    match *method {
        Method::GET | Method::HEAD => Ok(Action::PullManifest { name, reference }),
        Method::PUT => Ok(Action::PushManifest { name, reference }),
        Method::DELETE => Ok(Action::DeleteManifest { name, reference }),
        _ => Err(Unroutable::Method { allow: "GET, HEAD, PUT, DELETE" }),
    }
}

fn blob(method: &Method, name: RepositoryName, digest: Digest) -> Result<Action, Unroutable> {
    match *method {
        Method::GET | Method::HEAD => Ok(Action::PullBlob { name, digest }),
        Method::DELETE => Ok(Action::DeleteBlob { name, digest }),
        _ => Err(Unroutable::Method { allow: "GET, HEAD, DELETE" }),
    }
}

fn upload(method: &Method, name: RepositoryName, id: UploadId) -> Result<Action, Unroutable> {
    match *method {
        Method::GET => Ok(Action::FindUpload { name, id }),
        Method::PATCH => Ok(Action::AppendUpload { name, id }),
        Method::PUT => Ok(Action::FinishUpload { name, id }),
        Method::DELETE => Ok(Action::CancelUpload { name, id }),
        _ => Err(Unroutable::Method { allow: "GET, PATCH, PUT, DELETE" }),
    }
}

fn parse_name(text: &str) -> Result<RepositoryName, Unroutable> {
    if text.contains('%') { Err(Unroutable::Encoding) } else { Ok(text.parse()?) }
}

/// Some clients encode the colon of a digest; nothing else in a path needs encoding, so nothing else is decoded.
fn decode(last: &str) -> Result<std::borrow::Cow<'_, str>, Unroutable> {
    if !last.contains('%') {
        return Ok(last.into());
    }
    let decoded = last.replace("%3A", ":").replace("%3a", ":");
    if decoded.contains('%') { Err(Unroutable::Encoding) } else { Ok(decoded.into()) }
}

#[cfg(test)]
mod tests;
