//! Which children of an index are wanted. Pure.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use crate::oci::Digest;

/// What `BuildKit` calls an attestation by, in the index that lists it beside its image.
const ATTESTED: &str = "vnd.docker.reference.digest";

/// `OS/ARCHITECTURE` or `OS/ARCHITECTURE/VARIANT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

/// A text that is no platform.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a platform is of the form linux/amd64 or linux/arm/v7")]
pub struct PlatformInvalid;

impl FromStr for Platform {
    type Err = PlatformInvalid;

    fn from_str(text: &str) -> Result<Self, PlatformInvalid> {
        let parts: Vec<&str> = text.split('/').collect();
        if parts.iter().any(|part| part.is_empty()) {
            return Err(PlatformInvalid);
        }
        let (os, architecture, variant) = match parts[..] {
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some(variant.to_owned())),
            _ => return Err(PlatformInvalid),
        };
        Ok(Self { os: os.to_owned(), architecture: architecture.to_owned(), variant })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Child>,
}

#[derive(Deserialize)]
struct Child {
    digest: String,
    platform: Option<ChildPlatform>,
    #[serde(default)]
    annotations: Option<std::collections::BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct ChildPlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    variant: Option<String>,
}

impl Platform {
    /// A platform without a variant stands for all of them.
    fn is(&self, child: &ChildPlatform) -> bool {
        self.os == child.os
            && self.architecture == child.architecture
            && (self.variant.is_none() || self.variant == child.variant)
    }
}

/// The children of an index that are for one of these platforms, what belongs to these, and those that are for no platform.
/// All of them if no platform is named.
pub fn wanted(index: &[u8], platforms: &[Platform]) -> Vec<Digest> {
    let children = serde_json::from_slice::<Index>(index).map_or_else(|_| Vec::new(), |index| index.manifests);
    let is_attestation = |child: &Child| child.annotations.as_ref().is_some_and(|all| all.contains_key(ATTESTED));
    let is_wanted = |child: &Child| match &child.platform {
        _ if platforms.is_empty() => true,
        _ if is_attestation(child) => false,
        None => true,
        Some(platform) => platforms.iter().any(|wanted| wanted.is(platform)),
    };
    let chosen: Vec<&str> =
        children.iter().filter(|child| is_wanted(child)).map(|child| child.digest.as_str()).collect();
    let belongs = |child: &&Child| {
        let attested = child.annotations.as_ref().and_then(|all| all.get(ATTESTED));
        chosen.contains(&child.digest.as_str()) || attested.is_some_and(|digest| chosen.contains(&digest.as_str()))
    };
    children.iter().filter(belongs).filter_map(|child| child.digest.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::oci::Algorithm;

    fn digest(seed: u8) -> Digest {
        Digest::of(Algorithm::Sha256, &[seed])
    }

    #[test]
    fn a_platform_brings_its_variants_and_its_attestations() {
        let child =
            |seed: u8, platform: serde_json::Value| json!({"digest": digest(seed).to_string(), "platform": platform});
        let mut attestation = child(4, json!({"os": "unknown", "architecture": "unknown"}));
        attestation["annotations"] = json!({ATTESTED: digest(1).to_string()});
        let index = json!({"manifests": [
            child(1, json!({"os": "linux", "architecture": "amd64"})),
            child(2, json!({"os": "linux", "architecture": "arm", "variant": "v7"})),
            child(3, json!({"os": "linux", "architecture": "arm", "variant": "v6"})),
            attestation,
            {"digest": digest(5).to_string()},
        ]});
        for (platforms, expected) in [
            (&[][..], &[1, 2, 3, 4, 5][..]),
            (&["linux/amd64"], &[1, 4, 5]),
            (&["linux/arm"], &[2, 3, 5]),
            (&["linux/arm/v7"], &[2, 5]),
            (&["linux/arm/v7", "linux/amd64"], &[1, 2, 4, 5]),
            (&["windows/amd64"], &[5]),
        ] {
            let platforms: Vec<Platform> = platforms.iter().map(|text| text.parse().unwrap()).collect();
            let expected: Vec<Digest> = expected.iter().map(|seed| digest(*seed)).collect();
            assert_eq!(wanted(index.to_string().as_bytes(), &platforms), expected, "{platforms:?}");
        }
    }

    #[test]
    fn what_is_no_platform_is_refused() {
        for text in ["", "linux", "linux/", "/amd64", "a/b/c/d"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
        assert_eq!("linux/arm/v7".parse::<Platform>().unwrap().to_string(), "linux/arm/v7");
    }
}
