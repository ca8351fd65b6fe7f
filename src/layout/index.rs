//! `index.json`: what a layout has, by name. Pure.
//!
//! A name stands in `org.opencontainers.image.ref.name`, whole, with the repository: `docker.io/library/nginx:1.27`. That is a
//! reference the annotation's grammar allows, skopeo finds it as `oci:DIR:docker.io/library/nginx:1.27`, and a layout of many
//! repositories can be taken apart again. containerd and Docker look for whole names under a key of their own.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Error;
use crate::oci::{Digest, OCI_INDEX};

/// The annotation for a name (image-spec, "Pre-Defined Annotation Keys").
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation that containerd and `docker save` write, and `docker load` reads: the whole name.
pub const IMAGE_NAME: &str = "io.containerd.image.name";

/// A manifest that the layout names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Its media type.
    #[serde(default)]
    pub media_type: String,
    /// Its digest.
    #[serde(with = "text")]
    pub digest: Digest,
    /// Its length.
    #[serde(rename = "size")]
    pub size_bytes: u64,
    /// Its annotations, names among them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// What else was said of it.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

impl Entry {
    /// The name it goes by: the whole one where there is one.
    pub fn name(&self) -> Option<&str> {
        let named = [IMAGE_NAME, REF_NAME].into_iter().find_map(|key| self.annotations.get(key));
        named.map(String::as_str).filter(|name| !name.is_empty())
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u8,
    #[serde(default)]
    media_type: Option<String>,
    manifests: Vec<Entry>,
}

/// Reads `index.json`.
pub fn parse_index(bytes: &[u8]) -> Result<Vec<Entry>, Error> {
    let index: Index = serde_json::from_slice(bytes).map_err(|error| Error::Index { reason: error.to_string() })?;
    if index.schema_version == 2 {
        Ok(index.manifests)
    } else {
        Err(Error::Index { reason: "its schemaVersion is not 2".to_owned() })
    }
}

/// The text of an `index.json`.
pub fn write_index(entries: &[Entry]) -> Vec<u8> {
    let index = Index { schema_version: 2, media_type: Some(OCI_INDEX.to_owned()), manifests: entries.to_vec() };
    serde_json::to_vec(&index).expect("texts and numbers are always JSON")
}

/// A digest as text.
mod text {
    use serde::{Deserialize as _, Deserializer, Serializer, de};

    use crate::oci::Digest;

    pub fn serialize<S: Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(digest)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn what_others_said_of_an_entry_stays() {
        let digest = Digest::of(Algorithm::Sha256, b"x");
        let text = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"a/b","digest":"{digest}","size":1,"artifactType":"c/d",
            "platform":{{"os":"linux","architecture":"amd64"}},"annotations":{{"{REF_NAME}":"v1","{IMAGE_NAME}":"docker.io/library/a:v1"}}}}]}}"#
        );
        let entries = parse_index(text.as_bytes()).unwrap();
        assert_eq!(entries[0].name(), Some("docker.io/library/a:v1"), "the whole name counts");
        assert_eq!(entries[0].rest["artifactType"], "c/d");
        assert_eq!(parse_index(&write_index(&entries)).unwrap(), entries);
    }

    #[test]
    fn what_is_no_index_is_refused() {
        for text in [
            "",
            "[]",
            "{}",
            r#"{"schemaVersion":1,"manifests":[]}"#,
            r#"{"schemaVersion":2,"manifests":[{"digest":"sha256:1","size":1}]}"#,
        ] {
            assert!(parse_index(text.as_bytes()).is_err(), "{text}");
        }
    }
}
