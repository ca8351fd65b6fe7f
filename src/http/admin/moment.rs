//! Moments in JSON: RFC 3339 for programs and people, Unix milliseconds within.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A moment, Unix milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub i64);

/// What RFC 3339 can write ends with the year 9999.
const LAST_MS: u64 = 253_402_300_799_000;

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since_epoch = u64::try_from(self.0).unwrap_or(0).min(LAST_MS);
        humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(since_epoch)).fmt(f)
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let moment: SystemTime = humantime::parse_rfc3339(&text).map_err(D::Error::custom)?;
        let since_epoch = moment.duration_since(UNIX_EPOCH).map_err(D::Error::custom)?;
        i64::try_from(since_epoch.as_millis()).map(Self).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_to_the_second() {
        for (ms, text) in [(0, "1970-01-01T00:00:00Z"), (1_750_000_000_000, "2025-06-15T15:06:40Z")] {
            assert_eq!(serde_json::to_string(&Moment(ms)).unwrap(), format!("\"{text}\""));
            assert_eq!(serde_json::from_str::<Moment>(&format!("\"{text}\"")).unwrap(), Moment(ms));
        }
        for ms in [-1, i64::MIN, i64::MAX] {
            assert!(Moment(ms).to_string().ends_with('Z'), "{ms} cannot be shown");
        }
    }
}
