//! Why no certificate came, and what to do about it.

use instant_acme::{Error, Problem};

use super::directory::{Trouble, shown};
use crate::storage;

/// Why no certificate came of an attempt.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The directory did not answer, or not as one should.
    #[error(transparent)]
    Directory(#[from] Trouble),
    /// It says no.
    #[error("the directory refuses ({kind}): {detail}")]
    Refused {
        /// ACME's word for the reason (RFC 8555, section 6.7), without what all have in common.
        kind: String,
        /// Its own words.
        detail: String,
    },
    /// It has tried to see that a name is ours, and could not.
    #[error("the directory could not see that {name} leads here ({kind}): {detail}")]
    Unproven {
        /// The name.
        name: String,
        /// ACME's word for the reason.
        kind: String,
        /// Its own words.
        detail: String,
    },
    /// It wants another proof than we have.
    #[error("the directory does not offer to prove {name} by TLS-ALPN-01")]
    NoChallenge {
        /// The name.
        name: String,
    },
    /// It does not go on with what was ordered.
    #[error("the order is still {0} at the directory")]
    Slow(&'static str),
    /// What it sent cannot be served.
    #[error("the certificate that the directory sent cannot be used: {0}")]
    Unusable(&'static str),
    /// It does not keep to the protocol.
    #[error("the directory does not answer as RFC 8555 says")]
    Protocol(#[source] Error),
    /// A key or a request could not be made.
    #[error("no request for a certificate could be made")]
    Making(#[from] rcgen::Error),
    /// The port could not take the proof.
    #[error("the proof for the directory cannot be shown")]
    Showing(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// What came could not be kept.
    #[error(transparent)]
    Store(#[from] storage::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Api(problem) => Self::refused(&problem),
            Error::Other(other) => match other.downcast::<Trouble>() {
                Ok(trouble) => Self::Directory(*trouble),
                Err(other) => Self::Protocol(Error::Other(other)),
            },
            error => Self::Protocol(error),
        }
    }
}

impl Failure {
    pub(super) fn refused(problem: &Problem) -> Self {
        let (kind, detail) = said(problem);
        Self::Refused { kind, detail }
    }

    pub(super) fn unproven(name: String, problem: &Problem) -> Self {
        let (kind, detail) = said(problem);
        Self::Unproven { name, kind, detail }
    }

    /// Is it this reason of RFC 8555?
    pub(super) fn is_refusal_for(&self, reason: &str) -> bool {
        matches!(self, Self::Refused { kind, .. } if kind == reason)
    }

    /// Will the same order perhaps be taken later?
    pub(super) fn leaves_the_order(&self) -> bool {
        match self {
            Self::Refused { kind, .. } => matches!(kind.as_str(), "rateLimited" | "serverInternal" | "badNonce"),
            Self::Directory(_) | Self::Slow(_) | Self::Store(_) | Self::Showing(_) => true,
            Self::Unproven { .. }
            | Self::NoChallenge { .. }
            | Self::Unusable(_)
            | Self::Protocol(_)
            | Self::Making(_) => false,
        }
    }

    /// Is it about this moment, and says nothing about what was asked?
    pub(super) fn will_pass(&self) -> bool {
        match self {
            Self::Directory(Trouble::Unreachable(_)) | Self::Store(_) => true,
            Self::Directory(Trouble::Status { status, .. }) => *status == 429 || *status >= 500,
            Self::Refused { kind, .. } => matches!(kind.as_str(), "rateLimited" | "serverInternal" | "badNonce"),
            _ => false,
        }
    }

    /// Do directories count such attempts, and shut out whoever makes many?
    pub(super) const fn counts_against_us(&self) -> bool {
        !matches!(self, Self::Directory(_) | Self::Store(_) | Self::Showing(_) | Self::Making(_))
    }

    /// For the metric.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Directory(Trouble::Unreachable(_)) => "unreachable",
            Self::Directory(_) | Self::Protocol(_) => "invalid",
            Self::Refused { kind, .. } if kind == "rateLimited" => "rate_limited",
            Self::Refused { .. } => "refused",
            Self::Unproven { .. } | Self::NoChallenge { .. } => "unproven",
            Self::Slow(_) => "slow",
            Self::Unusable(_) => "unusable",
            Self::Making(_) | Self::Showing(_) | Self::Store(_) => "failed_here",
        }
    }

    /// What the operator can do.
    pub(super) fn advice(&self) -> &'static str {
        match self {
            Self::Directory(Trouble::Unreachable(_)) => {
                "see that this machine reaches the directory, and that `http.tls.acme.ca` holds its authority if that is \
                 a private one"
            }
            Self::Directory(Trouble::Elsewhere(_)) => {
                "nobody is asked who is not configured: write that one as `directory`"
            }
            Self::Directory(_) | Self::Protocol(_) => {
                "see that `http.tls.acme.directory` is the URL of an ACME directory"
            }
            Self::Refused { kind, .. } => match kind.as_str() {
                "rateLimited" => "there is nothing to do but wait, or to try with the directory's staging environment",
                "rejectedIdentifier" | "unsupportedIdentifier" | "malformed" => {
                    "see that the directory issues for `http.tls.acme.domains`"
                }
                "externalAccountRequired" => {
                    "get a key from whoever runs the directory, for `http.tls.acme.external_account`"
                }
                "userActionRequired" => "the terms have changed: whoever runs the directory says where to agree",
                "caa" => "have the CAA record of the name allow this authority",
                "invalidContact" | "unsupportedContact" => "correct `http.tls.acme.contact`",
                _ => "whoever runs the directory can say more",
            },
            Self::Unproven { .. } => {
                "have port 443 of the name lead to `http.listen`, as bytes: whoever ends TLS on the way answers in our place"
            }
            Self::NoChallenge { .. } => {
                "choose a directory that proves names by TLS-ALPN-01, or use `certificate` and `key`"
            }
            Self::Slow(_) => "the same order is looked at again",
            Self::Unusable(_) => "whoever runs the directory has to be told",
            Self::Making(_) | Self::Showing(_) => "this is a fault of entrepot: tell its maintainers",
            Self::Store(_) => "see to the disk of `storage.path`",
        }
    }
}

/// ACME's word for the reason and the directory's own.
fn said(problem: &Problem) -> (String, String) {
    let kind = problem.r#type.as_deref().unwrap_or("no reason given");
    let mut details: Vec<String> = problem.detail.iter().cloned().collect();
    details.extend(problem.subproblems.iter().map(ToString::to_string));
    (shown(kind.rsplit(':').next().unwrap_or(kind)), shown(&details.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_tells_its_reason_in_the_directorys_words_and_what_to_do() {
        let problem: Problem = serde_json::from_str(
            r#"{"type": "urn:ietf:params:acme:error:caa", "detail": "two\nlines", "subproblems":
               [{"type": "urn:ietf:params:acme:error:caa", "detail": "no", "identifier": {"type": "dns", "value": "a.lan"}}]}"#,
        )
        .unwrap();
        let failure = Failure::from(Error::Api(problem));
        let said = failure.to_string();
        assert!(said.starts_with("the directory refuses (caa): two lines; ") && said.contains("a.lan"), "{said}");
        assert!(failure.advice().contains("CAA record"));
        assert!(failure.counts_against_us() && !failure.leaves_the_order());
        let limited: Problem = serde_json::from_str(r#"{"type": "urn:ietf:params:acme:error:rateLimited"}"#).unwrap();
        let limited = Failure::from(Error::Api(limited));
        assert_eq!((limited.kind(), limited.leaves_the_order()), ("rate_limited", true));
    }
}
