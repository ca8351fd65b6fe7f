//! How the words of the specifications stand in columns.

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::{Database, Decode, Encode, Type};

use crate::oci::{Algorithm, Digest, RepositoryName, Tag, UploadId};

/// The code of an algorithm in the index. Codes are written to disk and are never given to another algorithm.
pub(super) const fn algorithm_code(algorithm: Algorithm) -> u8 {
    match algorithm {
        Algorithm::Sha256 => 1,
        Algorithm::Sha512 => 2,
    }
}

/// The algorithm a code stands for.
pub(super) fn algorithm_of(code: u8) -> Option<Algorithm> {
    Algorithm::ALL.into_iter().find(|algorithm| algorithm_code(*algorithm) == code)
}

/// A column that does not hold what this release writes there: damage, or somebody's hand.
#[derive(Debug, thiserror::Error)]
#[error("the column holds no valid {expected}")]
pub(super) struct Malformed {
    /// What it should have held.
    pub(super) expected: &'static str,
}

/// A length as SQL keeps it. A descriptor may claim any number; no file is longer than the largest signed one.
pub(super) fn length_column(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// A digest as SQL keeps it: bytewise order is the order of digests.
fn digest_column(digest: &Digest) -> Vec<u8> {
    let mut column = Vec::with_capacity(1 + digest.raw().len());
    column.push(algorithm_code(digest.algorithm()));
    column.extend_from_slice(digest.raw());
    column
}

/// What a page begins after: the digest, or the empty column, which sorts before every digest.
pub(super) fn cursor_column(after: Option<&Digest>) -> Vec<u8> {
    after.map(digest_column).unwrap_or_default()
}

impl<DB: Database> Type<DB> for Digest
where
    Vec<u8>: Type<DB>,
{
    fn type_info() -> DB::TypeInfo {
        Vec::<u8>::type_info()
    }

    fn compatible(column: &DB::TypeInfo) -> bool {
        Vec::<u8>::compatible(column)
    }
}

impl<'q, DB: Database> Encode<'q, DB> for Digest
where
    Vec<u8>: Encode<'q, DB>,
{
    fn encode_by_ref(&self, buffer: &mut DB::ArgumentBuffer) -> Result<IsNull, BoxDynError> {
        digest_column(self).encode(buffer)
    }
}

impl<'r, DB: Database> Decode<'r, DB> for Digest
where
    &'r [u8]: Decode<'r, DB>,
{
    fn decode(value: DB::ValueRef<'r>) -> Result<Self, BoxDynError> {
        let column = <&[u8]>::decode(value)?;
        let digest = column.split_first().and_then(|(code, raw)| Self::from_raw(algorithm_of(*code)?, raw));
        Ok(digest.ok_or(Malformed { expected: "digest" })?)
    }
}

/// Types that are kept as the text they print.
macro_rules! text_column {
    ($type:ty, $expected:literal) => {
        impl<DB: Database> Type<DB> for $type
        where
            String: Type<DB>,
        {
            fn type_info() -> DB::TypeInfo {
                String::type_info()
            }

            fn compatible(column: &DB::TypeInfo) -> bool {
                String::compatible(column)
            }
        }

        impl<'q, DB: Database> Encode<'q, DB> for $type
        where
            String: Encode<'q, DB>,
        {
            fn encode_by_ref(&self, buffer: &mut DB::ArgumentBuffer) -> Result<IsNull, BoxDynError> {
                self.to_string().encode(buffer)
            }
        }

        impl<'r, DB: Database> Decode<'r, DB> for $type
        where
            &'r str: Decode<'r, DB>,
        {
            fn decode(value: DB::ValueRef<'r>) -> Result<Self, BoxDynError> {
                Ok(<&str>::decode(value)?.parse().map_err(|_| Malformed { expected: $expected })?)
            }
        }
    };
}

text_column!(RepositoryName, "repository name");
text_column!(Tag, "tag");
text_column!(UploadId, "upload session name");
