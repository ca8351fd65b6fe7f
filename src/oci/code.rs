//! The error codes a registry answers with (distribution-spec, "Error Codes").

/// Codes of the specification, and ours for what it leaves to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    /// `BLOB_UNKNOWN` (code-1)
    BlobUnknown,
    /// `BLOB_UPLOAD_INVALID` (code-2)
    BlobUploadInvalid,
    /// `BLOB_UPLOAD_UNKNOWN` (code-3)
    BlobUploadUnknown,
    /// `DIGEST_INVALID` (code-4)
    DigestInvalid,
    /// `MANIFEST_BLOB_UNKNOWN` (code-5)
    ManifestBlobUnknown,
    /// `MANIFEST_INVALID` (code-6)
    ManifestInvalid,
    /// `MANIFEST_UNKNOWN` (code-7)
    ManifestUnknown,
    /// `NAME_INVALID` (code-8)
    NameInvalid,
    /// `NAME_UNKNOWN` (code-9)
    NameUnknown,
    /// `SIZE_INVALID` (code-10)
    SizeInvalid,
    /// `UNAUTHORIZED` (code-11)
    Unauthorized,
    /// `DENIED` (code-12)
    Denied,
    /// `UNSUPPORTED` (code-13)
    Unsupported,
    /// `TOOMANYREQUESTS` (code-14)
    TooManyRequests,
    /// Ours: an upstream or this server cannot answer now.
    Unavailable,
    /// Ours: no room for what was pushed.
    StorageFull,
    /// Ours: a fault of this server.
    Internal,
}

impl ErrorCode {
    /// The code as it stands in the error body.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            Self::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::SizeInvalid => "SIZE_INVALID",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Denied => "DENIED",
            Self::Unsupported => "UNSUPPORTED",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::Unavailable => "UNAVAILABLE",
            Self::StorageFull => "STORAGE_FULL",
            Self::Internal => "UNKNOWN",
        }
    }
}
