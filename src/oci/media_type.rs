//! Media types of manifests: which ones a registry keeps, and what shape each has.

use std::fmt;
use std::sync::Arc;

/// A media type as it came; compared without parameters and case.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct MediaType(Arc<str>);

/// The media type of an OCI index, which the referrers API answers with.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// The shapes of manifests that a registry knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ManifestKind {
    /// OCI image manifest.
    OciImage,
    /// OCI index.
    OciIndex,
    /// Docker image manifest, version 2 schema 2.
    DockerImage,
    /// Docker manifest list.
    DockerList,
}

impl ManifestKind {
    /// The media type that names this shape.
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::OciImage => "application/vnd.oci.image.manifest.v1+json",
            Self::OciIndex => OCI_INDEX,
            Self::DockerImage => "application/vnd.docker.distribution.manifest.v2+json",
            Self::DockerList => "application/vnd.docker.distribution.manifest.list.v2+json",
        }
    }

    /// All of them, in the order in which an upstream is asked for them.
    pub const ALL: [Self; 4] = [Self::OciIndex, Self::OciImage, Self::DockerList, Self::DockerImage];

    /// True for the kinds that list other manifests.
    pub const fn is_index(self) -> bool {
        matches!(self, Self::OciIndex | Self::DockerList)
    }
}

impl MediaType {
    /// Takes a `Content-Type` or a `mediaType`, dropping parameters (`; charset=utf-8`) and case.
    pub fn new(text: &str) -> Self {
        let essence = text.split(';').next().unwrap_or_default().trim();
        Self(essence.to_ascii_lowercase().into())
    }

    /// The media type as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The kind of manifest this names, if it names one that is kept.
    pub fn kind(&self) -> Option<ManifestKind> {
        ManifestKind::ALL.into_iter().find(|kind| kind.media_type() == self.as_str())
    }

    /// Docker's first manifest format, signed or not: every other registry dropped it, its digests do not name its bytes.
    pub fn is_schema1(&self) -> bool {
        matches!(
            self.as_str(),
            "application/vnd.docker.distribution.manifest.v1+json"
                | "application/vnd.docker.distribution.manifest.v1+prettyjws"
        )
    }
}

impl From<ManifestKind> for MediaType {
    fn from(kind: ManifestKind) -> Self {
        Self(kind.media_type().into())
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
