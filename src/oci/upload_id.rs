//! Names of upload sessions (distribution-spec, "Pushing blobs").

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// The name of an upload session: random, so that nobody can guess another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UploadId(Uuid);

/// A text that was never given out as the name of an upload session.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the upload session's name is malformed")]
pub struct UploadIdInvalid;

impl UploadId {
    /// A new name.
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }
}

impl FromStr for UploadId {
    type Err = UploadIdInvalid;

    fn from_str(text: &str) -> Result<Self, UploadIdInvalid> {
        // Only the spelling that `Display` gives out: one session has one URL and one file name.
        let id = Uuid::try_parse(text).map(Self).map_err(|_| UploadIdInvalid)?;
        if id.to_string() == text { Ok(id) } else { Err(UploadIdInvalid) }
    }
}

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_spelling_that_was_given_out_is_taken_back() {
        let id = UploadId::random();
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in
            ["", "..", "x", &id.to_string().to_uppercase(), &format!("{{{id}}}"), &id.to_string().replace('-', "")]
        {
            assert!(text.parse::<UploadId>().is_err() || *text == id.to_string(), "{text:?} was accepted");
        }
    }
}
