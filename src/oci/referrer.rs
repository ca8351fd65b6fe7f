//! Entries of a referrers list (distribution-spec, "Listing Referrers"): read from an upstream's index, written in ours.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::digest::Digest;

/// What a referrers list says of one manifest that is attached to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Referrer {
    /// Media type of the manifest.
    pub media_type: String,
    /// Digest of the manifest.
    #[serde(serialize_with = "as_text", deserialize_with = "from_text")]
    pub digest: Digest,
    /// Its length in bytes.
    #[serde(rename = "size")]
    pub size_bytes: u64,
    /// What kind of artifact it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Its annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Index {
    /// Registries in Go write an empty list as null; what has no list is no index.
    #[serde(deserialize_with = "Option::deserialize")]
    manifests: Option<Vec<serde_json::Value>>,
}

impl Referrer {
    /// The entries of an index; `None` if the bytes are none. Entries that nobody could pull (a digest of an algorithm that is
    /// not kept, no size) are left out: one of them must not hide the rest.
    pub fn read_index(bytes: &[u8]) -> Option<Vec<Self>> {
        if bytes.trim_ascii_start().first() != Some(&b'{') {
            return None;
        }
        let index: Index = serde_json::from_slice(bytes).ok()?;
        let entries = index.manifests.unwrap_or_default();
        Some(entries.into_iter().filter_map(|entry| serde_json::from_value(entry).ok()).collect())
    }
}

fn as_text<S: Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(digest)
}

fn from_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn entries_nobody_could_pull_do_not_hide_the_rest() {
        let digest = Digest::of(Algorithm::Sha256, b"x");
        let text = format!(
            r#"{{"manifests":[{{"mediaType":"a/b","digest":"blake3:00","size":1}},{{"mediaType":"a/b","digest":"{digest}"}},
            {{"mediaType":"a/b","digest":"{digest}","size":7,"artifactType":"a/c","annotations":{{"k":"v"}}}}]}}"#
        );
        let read = Referrer::read_index(text.as_bytes()).unwrap();
        assert_eq!(read.len(), 1);
        assert_eq!((read[0].digest, read[0].size_bytes, read[0].artifact_type.as_deref()), (digest, 7, Some("a/c")));
        let again: Referrer = serde_json::from_value(serde_json::to_value(&read[0]).unwrap()).unwrap();
        assert_eq!(again, read[0]);
    }

    #[test]
    fn what_is_no_index_is_told_from_an_empty_one() {
        assert_eq!(Referrer::read_index(br#"{"schemaVersion":2,"manifests":null}"#), Some(vec![]));
        for bytes in ["", "{}", "[]", "<html>", "{", r#"{"manifests":1}"#] {
            assert_eq!(Referrer::read_index(bytes.as_bytes()), None, "{bytes}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = Referrer::read_index(&bytes);
        }
    }
}
