//! Platforms: what an index says of its children, and which of them somebody wants (image-spec, "Image Index").

use std::fmt;
use std::str::FromStr;

/// Operating system, architecture and, where that is not all, its variant: `linux/arm/v7`. Common other spellings become
/// those of the specification, and a variant that is the architecture's usual one is left out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

/// A text that is no platform.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a platform is of the form OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT: linux/amd64, linux/arm/v7")]
pub struct PlatformInvalid;

impl Platform {
    /// A platform as an index or a program says it.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let architecture = architecture.to_ascii_lowercase();
        let variant = variant.map(str::to_ascii_lowercase).filter(|variant| !variant.is_empty());
        let (architecture, variant) = match (architecture.as_str(), variant.as_deref()) {
            ("x86_64" | "x86-64" | "amd64", None | Some("v1")) => ("amd64", None),
            ("x86_64" | "x86-64", variant) => ("amd64", variant),
            ("i386" | "i686" | "x86", _) => ("386", None),
            ("aarch64" | "arm64", None | Some("v8" | "8")) => ("arm64", None),
            ("aarch64", variant) => ("arm64", variant),
            ("armhf", _) | ("arm", None | Some("7")) => ("arm", Some("v7")),
            ("armel", _) | ("arm", Some("6")) => ("arm", Some("v6")),
            ("powerpc64le", variant) => ("ppc64le", variant),
            (architecture, variant) => (architecture, variant),
        };
        Self { os: os.to_ascii_lowercase(), architecture: architecture.to_owned(), variant: variant.map(str::to_owned) }
    }

    /// Where this program runs; images are for Linux, whatever runs their engine.
    pub fn of_this_machine() -> Self {
        Self::new("linux", std::env::consts::ARCH, None)
    }

    /// Which of `available` somebody with this platform runs: those that are it, else the next lower variant of ARM, as
    /// engines choose.
    pub fn choose<'a, T>(&self, available: &'a [T], of: impl Fn(&T) -> Option<&Self>) -> Vec<&'a T> {
        let is = |wanted: &Self| available.iter().filter(|one| of(one) == Some(wanted)).collect::<Vec<_>>();
        let chosen = is(self);
        let level = self.variant.as_deref().and_then(|variant| variant.strip_prefix('v')?.parse::<u8>().ok());
        let lower = level.filter(|level| self.architecture == "arm" && (6..=8).contains(level));
        match lower {
            Some(level) if chosen.is_empty() => {
                Self { variant: Some(format!("v{}", level - 1)), ..self.clone() }.choose(available, of)
            }
            _ => chosen,
        }
    }
}

impl FromStr for Platform {
    type Err = PlatformInvalid;

    fn from_str(text: &str) -> Result<Self, PlatformInvalid> {
        let parts: Vec<&str> = text.split('/').collect();
        if parts.iter().any(|part| part.is_empty() || !part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')) {
            return Err(PlatformInvalid);
        }
        match parts[..] {
            [os, architecture] => Ok(Self::new(os, architecture, None)),
            [os, architecture, variant] => Ok(Self::new(os, architecture, Some(variant))),
            _ => Err(PlatformInvalid),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn other_spellings_are_the_same_platform() {
        for (one, other) in [
            ("linux/x86_64", "linux/amd64"),
            ("linux/amd64/v1", "linux/amd64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("Linux/armhf", "linux/arm/v7"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/x86", "linux/386"),
        ] {
            assert_eq!(platform(one), platform(other), "{one}");
            assert_eq!(platform(&platform(one).to_string()), platform(one));
        }
        assert_ne!(platform("linux/amd64/v3"), platform("linux/amd64"));
        for none in ["", "linux", "linux/", "/amd64", "linux/amd64/v1/x", "linux/amd 64", "linux/../x"] {
            assert_eq!(none.parse::<Platform>(), Err(PlatformInvalid), "{none:?}");
        }
    }

    #[test]
    fn a_platform_chooses_what_it_runs() {
        let available: Vec<Platform> =
            ["linux/amd64", "linux/arm64/v8", "linux/arm/v5", "linux/arm/v6", "windows/amd64", "windows/amd64"]
                .map(platform)
                .into();
        let chosen = |wanted: &str| -> Vec<String> {
            platform(wanted).choose(&available, |one| Some(one)).iter().map(ToString::to_string).collect()
        };
        assert_eq!(chosen("linux/amd64"), ["linux/amd64"]);
        assert_eq!(chosen("linux/arm64"), ["linux/arm64"]);
        assert_eq!(chosen("linux/arm"), ["linux/arm/v6"], "a v7 machine runs v6");
        assert_eq!(chosen("linux/arm/v5"), ["linux/arm/v5"]);
        assert_eq!(chosen("windows/amd64"), ["windows/amd64", "windows/amd64"], "every release of Windows");
        assert!(chosen("linux/riscv64").is_empty());
    }
}
