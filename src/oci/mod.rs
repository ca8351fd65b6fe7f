//! The words of the OCI specifications as parsed types: no IO, no async, no HTTP.
//!
//! Holding one of these values means that it was checked once, at the door; nothing further in has to check again.

mod code;
mod digest;
mod event;
mod manifest;
mod media_type;
mod name;
mod platform;
mod range;
mod reference;
mod referrer;
mod upload_id;
mod written;

pub use code::ErrorCode;
pub use digest::{Algorithm, Digest, DigestInvalid, Digester};
pub use event::{EVENTS_TYPE, Event, EventActor, EventKind, EventRequest, EventSource, EventTarget};
pub use manifest::{Descriptor, Manifest, ManifestInvalid};
pub use media_type::{ManifestKind, MediaType, OCI_INDEX};
pub use name::{Host, HostInvalid, NameInvalid, RepositoryName};
pub use platform::{Platform, PlatformInvalid};
pub use range::{ByteRange, ContentRange, RangeInvalid, RangeRequest};
pub use reference::{Reference, ReferenceInvalid, Tag, TagInvalid};
pub use referrer::Referrer;
pub use upload_id::{UploadId, UploadIdInvalid};
pub use written::{WrittenReference, WrittenReferenceInvalid};
