//! Sizes, limits, durations, addresses and globs as an operator writes them; whatever is printed parses back to the same value.

use std::{fmt, net::SocketAddr, time::Duration};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, Unexpected, Visitor},
};

/// A bound on bytes, absolute or as a share of the file system it lives on.
///
/// Written `50GiB`, `500MB`, `1048576` or `80%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths of the size of the file system, 1 to 100.
    Percent(u8),
}

impl Limit {
    /// The bound in bytes on a file system of `total_bytes`.
    pub fn bytes_of(self, total_bytes: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            // Dividing first loses less than 100 bytes and cannot overflow.
            Self::Percent(percent) => total_bytes / 100 * u64::from(percent),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        match text.strip_suffix('%') {
            None => parse_bytes(text).map(Self::Bytes),
            Some(number) => {
                let percent = number.trim_end().parse().ok()?;
                (1..=100).contains(&percent).then_some(Self::Percent(percent))
            }
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => f.write_str(&format_bytes(*bytes)),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl Serialize for Limit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let accepted = "a size such as 50GiB, 500MB or 1048576, or a share from 1% to 100%";
        parsed(deserializer, accepted, Self::parse)
    }
}

/// Each unit with its factor; of two names the first is printed.
const SIZE_UNITS: [(&str, u64); 14] = [
    ("PiB", 1 << 50),
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("PB", 1_000_000_000_000_000),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("Ti", 1 << 40),
    ("Gi", 1 << 30),
    ("Mi", 1 << 20),
    ("Ki", 1 << 10),
];

/// `50GiB`, `1.5TB`, `512 MiB`, `1048576`: exact, `None` when malformed or beyond 2⁶⁴.
///
/// A single letter (`50G`) is refused: people disagree whether it is decimal or binary.
fn parse_bytes(text: &str) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (&text[..split], text[split..].trim());
    let factor = match unit {
        "" | "B" => 1,
        _ => SIZE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?.1,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let (false, false) = (whole.is_empty(), fraction.is_empty()) else { return None };
    u64::try_from(digits.checked_mul(u128::from(factor))? / scale).ok()
}

/// The shortest way to write `bytes` that means exactly `bytes`.
fn format_bytes(bytes: u64) -> String {
    let largest = SIZE_UNITS.iter().filter(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor));
    // The first of equals is wanted, which `max_by_key` would give last.
    match largest.rev().max_by_key(|(_, factor)| *factor) {
        Some((unit, factor)) => format!("{}{unit}", bytes / factor),
        None => format!("{bytes}B"),
    }
}

/// The rule by which every glob of the configuration is read: `*` stays within one path component, `**` crosses them.
pub fn glob(pattern: &str) -> Result<globset::Glob, globset::Error> {
    globset::GlobBuilder::new(pattern).literal_separator(true).build()
}

/// The rule for what is no path, such as the subject of a token: `*` stands for anything.
pub fn text_glob(pattern: &str) -> Result<globset::Glob, globset::Error> {
    globset::GlobBuilder::new(pattern).build()
}

/// `#[serde(with)]` for a number of bytes.
pub(super) mod bytes {
    use super::{Deserializer, Serializer, format_bytes, parse_bytes, parsed};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
    pub fn serialize<S: Serializer>(bytes: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format_bytes(*bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        parsed(deserializer, "a size such as 64MiB, 500MB or 1048576", parse_bytes)
    }
}

/// `#[serde(with)]` for a number of bytes that may have no bound, which is `None` and written `unlimited`.
pub(super) mod bytes_or_unlimited {
    use super::{Deserializer, Serializer, parse_bytes, parsed};

    #[expect(clippy::ref_option, reason = "the signature is serde's")]
    pub fn serialize<S: Serializer>(bytes: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
        match bytes {
            None => serializer.serialize_str("unlimited"),
            Some(bytes) => super::bytes::serialize(bytes, serializer),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
        parsed(deserializer, "`unlimited`, or a size such as 64MiB or 500MB", |text| match text {
            "unlimited" => Some(None),
            _ => parse_bytes(text).map(Some),
        })
    }
}

/// `#[serde(with)]` for a duration.
pub(super) mod duration {
    use super::{Deserializer, Duration, Serializer, parse_duration, parsed};

    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(*duration))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        parsed(deserializer, "a duration with its unit, such as 500ms, 30s, 10m or 24h", parse_duration)
    }
}

/// `#[serde(with)]` for a duration whose absence means "the default of another key".
pub(super) mod duration_or_inherited {
    use super::{Deserializer, Duration, Serializer};

    #[expect(clippy::ref_option, reason = "the signature is serde's")]
    pub fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match duration {
            None => serializer.serialize_none(),
            Some(duration) => super::duration::serialize(duration, serializer),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        super::duration::deserialize(deserializer).map(Some)
    }
}

/// `#[serde(with)]` for a duration that may have no end, which is `None` and written `forever`.
pub(super) mod duration_or_forever {
    use super::{Deserializer, Duration, Serializer, parse_duration, parsed};

    #[expect(clippy::ref_option, reason = "the signature is serde's")]
    pub fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match duration {
            None => serializer.serialize_str("forever"),
            Some(duration) => super::duration::serialize(duration, serializer),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        parsed(deserializer, "`forever`, or a duration with its unit such as 12h or 30days", |text| match text {
            "forever" => Some(None),
            _ => parse_duration(text).map(Some),
        })
    }
}

/// `#[serde(with)]` for a socket address.
pub(super) mod address {
    use super::{Deserializer, SocketAddr, parsed};

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
        let accepted = "an IP address and a port, such as 127.0.0.1:5000, 0.0.0.0:5000 or [::]:5000";
        parsed(deserializer, accepted, |text| text.parse().ok())
    }
}

fn parse_duration(text: &str) -> Option<Duration> {
    humantime::parse_duration(text).ok()
}

/// Reads a text and parses it; a failure of either kind says what would have been accepted.
pub(super) fn parsed<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    accepted: &'static str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<T, D::Error> {
    let text = deserializer.deserialize_str(Text { accepted })?;
    parse(text.trim()).ok_or_else(|| D::Error::invalid_value(Unexpected::Str(&text), &accepted))
}

struct Text {
    accepted: &'static str,
}

impl Visitor<'_> for Text {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.accepted)
    }

    fn visit_str<E>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_mean_what_they_say() {
        for (text, bytes) in [
            ("0", 0),
            ("1048576", 1 << 20),
            ("17B", 17),
            ("50GiB", 50 << 30),
            ("50gib", 50 << 30),
            ("50Gi", 50 << 30),
            ("500MB", 500_000_000),
            ("1.5 KiB", 1536),
            ("0.1kB", 100),
            ("9007199254740993B", 9_007_199_254_740_993),
        ] {
            assert_eq!(parse_bytes(text), Some(bytes), "{text}");
        }
    }

    #[test]
    fn sizes_that_are_unclear_are_refused() {
        for text in
            ["", "GiB", "5G", "-1", "1.", ".5GiB", "1.2.3MB", "1e3", "5 bits", "99999PiB", "18446744073709551616"]
        {
            assert_eq!(parse_bytes(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_are_printed_in_the_largest_unit_that_is_exact() {
        for text in ["0B", "1023B", "64MiB", "1500GB", "20TB", "50GiB", "1025KiB"] {
            assert_eq!(format_bytes(parse_bytes(text).unwrap()), text);
        }
    }

    #[test]
    fn limits_are_bytes_or_one_to_a_hundred_percent() {
        assert_eq!(Limit::parse("80%"), Some(Limit::Percent(80)));
        assert_eq!(Limit::parse("100 %"), Some(Limit::Percent(100)));
        assert_eq!(Limit::parse("2GiB"), Some(Limit::Bytes(2 << 30)));
        for text in ["0%", "101%", "-5%", "1.5%", "%"] {
            assert_eq!(Limit::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_share_is_taken_of_the_file_system() {
        assert_eq!(Limit::Percent(80).bytes_of(1000), 800);
        assert_eq!(Limit::Percent(100).bytes_of(u64::MAX), u64::MAX / 100 * 100);
        assert_eq!(Limit::Bytes(7).bytes_of(1000), 7);
    }

    #[test]
    fn one_star_stays_within_a_component() {
        let one = glob("team/*").unwrap().compile_matcher();
        assert!(one.is_match("team/app") && !one.is_match("team/app/web"));
        assert!(glob("team/**").unwrap().compile_matcher().is_match("team/app/web"));
    }

    proptest! {
        #[test]
        fn a_printed_size_parses_back(bytes: u64, shift in 0_u32..60) {
            let bytes = bytes >> shift << (shift / 2);
            prop_assert_eq!(parse_bytes(&format_bytes(bytes)), Some(bytes));
        }

        #[test]
        fn any_text_is_a_size_or_refused(text in ".{0,24}") {
            let _: Option<Limit> = Limit::parse(&text);
        }
    }
}
