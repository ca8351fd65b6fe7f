//! Manifests, read for what they refer to and never written back: the digest is over the bytes that came.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::digest::{Digest, DigestInvalid, shorten};
use super::media_type::{ManifestKind, MediaType};
use super::platform::Platform;

/// Descriptors in one manifest beyond which it is refused: more than any image has, less than hurts.
const DESCRIPTORS_MAX: usize = 16_384;

/// What a manifest says of another piece of content (image-spec, "Descriptors").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Media type of the content; empty if the manifest left it out.
    pub media_type: MediaType,
    /// Digest of the content.
    pub digest: Digest,
    /// Its length.
    pub size_bytes: u64,
    /// The content is offered elsewhere and need not be in this registry.
    pub is_foreign: bool,
    /// What it runs on, if the manifest says so: said of the children of an index.
    pub platform: Option<Platform>,
}

/// What a registry has to know of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Its shape.
    pub kind: ManifestKind,
    /// Config and layers of an image, in that order.
    pub blobs: Vec<Descriptor>,
    /// Children of an index.
    pub children: Vec<Descriptor>,
    /// The manifest this one is attached to (image-spec, `subject`).
    pub subject: Option<Digest>,
    /// `artifactType`, or for an image without one the config's media type (distribution-spec, "Listing Referrers").
    pub artifact_type: Option<String>,
    /// The annotations, as they stand in the referrers list.
    pub annotations: BTreeMap<String, String>,
}

/// Why bytes are not a manifest this registry keeps. Each says what the client should change.
#[derive(Debug, thiserror::Error)]
pub enum ManifestInvalid {
    /// The bytes are no JSON object of a manifest's shape.
    #[error("the manifest is not valid: {reason}")]
    Json {
        /// What the JSON reader says, with line and column.
        reason: String,
    },
    /// The media type names no manifest.
    #[error("media type \"{given}\" is not that of a manifest: use an OCI or Docker schema 2 manifest or index")]
    MediaType {
        /// The media type, shortened.
        given: String,
    },
    /// Docker schema 1.
    #[error("Docker manifest schema 1 is not supported: push with schema 2 or OCI")]
    Schema1,
    /// `mediaType` in the body contradicts the `Content-Type`.
    #[error("the manifest's mediaType \"{inside}\" contradicts the Content-Type \"{outside}\"")]
    Contradiction {
        /// In the body, shortened.
        inside: String,
        /// In the header, shortened.
        outside: String,
    },
    /// `schemaVersion` is not 2.
    #[error("schemaVersion must be 2")]
    SchemaVersion,
    /// A field that this kind of manifest must have, or must not have.
    #[error("{kind} {problem} \"{field}\"", kind = kind.media_type())]
    Field {
        /// The kind of manifest.
        kind: ManifestKind,
        /// `needs` or `must not have`.
        problem: &'static str,
        /// The field.
        field: &'static str,
    },
    /// A descriptor whose digest is malformed.
    #[error("a descriptor's digest is not valid: {0}")]
    Digest(DigestInvalid),
    /// Too many descriptors.
    #[error("the manifest lists more than {DESCRIPTORS_MAX} descriptors")]
    TooMany,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: Option<u64>,
    media_type: Option<String>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
    manifests: Option<Vec<RawDescriptor>>,
    subject: Option<RawDescriptor>,
    artifact_type: Option<String>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
    #[serde(rename = "fsLayers")]
    fs_layers: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    urls: Option<Vec<String>>,
    /// Read as far as it makes sense: a manifest is not refused for what only some clients look at.
    #[serde(default)]
    platform: Option<serde_json::Value>,
}

impl Manifest {
    /// Reads the bytes of a manifest. `content_type` is what the client or the upstream said they are; `None` or a media type
    /// that says nothing (`application/json`, `text/plain`) lets the body speak for itself.
    pub fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Self, ManifestInvalid> {
        // serde would also read a struct from an array, field by field.
        if bytes.trim_ascii_start().first() != Some(&b'{') {
            return Err(ManifestInvalid::Json { reason: "it is not a JSON object".to_owned() });
        }
        let raw: Raw =
            serde_json::from_slice(bytes).map_err(|error| ManifestInvalid::Json { reason: error.to_string() })?;
        let kind = kind_of(&raw, content_type)?;
        if raw.schema_version != Some(2) {
            return Err(ManifestInvalid::SchemaVersion);
        }
        check_fields(&raw, kind)?;

        let descriptors = raw.layers.as_ref().map_or(0, Vec::len) + raw.manifests.as_ref().map_or(0, Vec::len);
        if descriptors > DESCRIPTORS_MAX {
            return Err(ManifestInvalid::TooMany);
        }
        let config_media_type = raw.config.as_ref().map(|config| config.media_type.clone());
        let images_own = (!kind.is_index()).then_some(config_media_type).flatten();
        let artifact_type = raw.artifact_type.filter(|text| !text.is_empty()).or(images_own);
        let blobs = raw.config.into_iter().chain(raw.layers.unwrap_or_default());
        Ok(Self {
            kind,
            blobs: blobs.map(parse_descriptor).collect::<Result<_, _>>()?,
            children: raw.manifests.unwrap_or_default().into_iter().map(parse_descriptor).collect::<Result<_, _>>()?,
            subject: raw.subject.map(parse_descriptor).transpose()?.map(|subject| subject.digest),
            artifact_type: artifact_type.filter(|text| !text.is_empty()),
            annotations: raw.annotations.unwrap_or_default(),
        })
    }
}

fn kind_of(raw: &Raw, content_type: Option<&str>) -> Result<ManifestKind, ManifestInvalid> {
    let outside = content_type.map(MediaType::new).filter(|media_type| {
        !matches!(media_type.as_str(), "" | "application/json" | "application/octet-stream" | "text/plain")
    });
    let inside = raw.media_type.as_deref().filter(|text| !text.is_empty()).map(MediaType::new);
    if raw.schema_version == Some(1) || raw.fs_layers.is_some() {
        return Err(ManifestInvalid::Schema1);
    }
    if let (Some(inside), Some(outside)) = (&inside, &outside)
        && inside != outside
    {
        return Err(ManifestInvalid::Contradiction {
            inside: shorten(inside.as_str()),
            outside: shorten(outside.as_str()),
        });
    }
    match outside.or(inside) {
        Some(media_type) if media_type.is_schema1() => Err(ManifestInvalid::Schema1),
        Some(media_type) => {
            media_type.kind().ok_or_else(|| ManifestInvalid::MediaType { given: shorten(media_type.as_str()) })
        }
        // OCI made `mediaType` optional: an object with `manifests` is an index, one with `config` an image.
        None if raw.manifests.is_some() => Ok(ManifestKind::OciIndex),
        None => Ok(ManifestKind::OciImage),
    }
}

/// An image and an index in one body would mean different things to different clients (image-spec, "ambiguous").
fn check_fields(raw: &Raw, kind: ManifestKind) -> Result<(), ManifestInvalid> {
    let must_not = |field| Err(ManifestInvalid::Field { kind, problem: "must not have", field });
    let needs = |field| Err(ManifestInvalid::Field { kind, problem: "needs", field });
    if kind.is_index() {
        return match raw {
            Raw { config: Some(_), .. } => must_not("config"),
            Raw { layers: Some(_), .. } => must_not("layers"),
            Raw { manifests: None, .. } => needs("manifests"),
            _ => Ok(()),
        };
    }
    match raw {
        Raw { manifests: Some(_), .. } => must_not("manifests"),
        Raw { config: None, .. } => needs("config"),
        Raw { layers: None, .. } => needs("layers"),
        _ => Ok(()),
    }
}

fn parse_descriptor(raw: RawDescriptor) -> Result<Descriptor, ManifestInvalid> {
    let media_type = MediaType::new(&raw.media_type);
    let nondistributable =
        media_type.as_str().contains(".nondistributable.") || media_type.as_str().contains(".foreign.");
    Ok(Descriptor {
        is_foreign: nondistributable || raw.urls.is_some_and(|urls| !urls.is_empty()),
        media_type,
        digest: raw.digest.parse().map_err(ManifestInvalid::Digest)?,
        size_bytes: raw.size,
        platform: raw.platform.as_ref().and_then(platform_of),
    })
}

fn platform_of(raw: &serde_json::Value) -> Option<Platform> {
    let text = |key: &str| raw[key].as_str().filter(|text| !text.is_empty());
    Some(Platform::new(text("os")?, text("architecture")?, text("variant")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digest() -> String {
        Digest::of(super::super::Algorithm::Sha256, b"x").to_string()
    }

    fn image(extra: &str) -> String {
        let d = digest();
        format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
            "config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{d}","size":1}},
            "layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{d}","size":1}}]{extra}}}"#
        )
    }

    #[test]
    fn an_image_lists_its_config_and_its_layers() {
        let manifest = Manifest::parse(image("").as_bytes(), None).unwrap();
        assert_eq!(manifest.kind, ManifestKind::OciImage);
        assert_eq!(manifest.blobs.len(), 2);
        assert_eq!(manifest.artifact_type.as_deref(), Some("application/vnd.oci.image.config.v1+json"));
    }

    #[test]
    fn a_body_without_media_type_speaks_by_its_shape() {
        let index = Manifest::parse(br#"{"schemaVersion":2,"manifests":[]}"#, Some("application/json")).unwrap();
        assert_eq!(index.kind, ManifestKind::OciIndex);
        assert_eq!(index.artifact_type, None);
    }

    #[test]
    fn foreign_layers_are_marked() {
        let text = image("").replace("image.layer.v1", "image.layer.nondistributable.v1");
        let manifest = Manifest::parse(text.as_bytes(), None).unwrap();
        assert_eq!(manifest.blobs.iter().map(|b| b.is_foreign).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn what_is_no_manifest_is_refused_with_its_reason() {
        let refuse =
            |text: &str, outside: Option<&str>| Manifest::parse(text.as_bytes(), outside).unwrap_err().to_string();
        insta::assert_snapshot!(refuse("<html>", None), @"the manifest is not valid: it is not a JSON object");
        insta::assert_snapshot!(refuse("[]", None), @"the manifest is not valid: it is not a JSON object");
        insta::assert_snapshot!(refuse("{}", None), @"schemaVersion must be 2");
        insta::assert_snapshot!(refuse(r#"{"schemaVersion":1,"fsLayers":[]}"#, None), @"Docker manifest schema 1 is not supported: push with schema 2 or OCI");
        insta::assert_snapshot!(refuse(&image(""), Some(crate::oci::OCI_INDEX)), @r#"the manifest's mediaType "application/vnd.oci.image.manifest.v1+json" contradicts the Content-Type "application/vnd.oci.image.index.v1+json""#);
        insta::assert_snapshot!(refuse(&image(r#","manifests":[]"#), None), @r#"application/vnd.oci.image.manifest.v1+json must not have "manifests""#);
        insta::assert_snapshot!(refuse(&image("").replace("sha256:", "sha1:"), None), @r#"a descriptor's digest is not valid: digest algorithm "sha1" is not supported, use sha256 or sha512"#);
        insta::assert_snapshot!(refuse(r#"{"schemaVersion":2,"mediaType":"text/html"}"#, None), @r#"media type "text/html" is not that of a manifest: use an OCI or Docker schema 2 manifest or index"#);
    }

    proptest! {
        #[test]
        fn no_bytes_panic_the_parser(bytes in prop::collection::vec(any::<u8>(), 0..512), content_type in prop::option::of("\\PC{0,40}")) {
            let _ = Manifest::parse(&bytes, content_type.as_deref());
        }

        #[test]
        fn deep_nesting_does_not_exhaust_the_stack(depth in 1usize..5000) {
            let text = format!("{}{}", r#"{"a":"#.repeat(depth), "}".repeat(depth));
            let _ = Manifest::parse(text.as_bytes(), None);
        }
    }
}
