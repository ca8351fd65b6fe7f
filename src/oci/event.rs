//! Notifications as CNCF Distribution sends them ("Notifications", envelope version 1): what happened to what, by whose request.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The media type of an envelope, `{"events": [...]}`.
pub const EVENTS_TYPE: &str = "application/vnd.docker.distribution.events.v1+json";

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// A manifest was pushed, once for each tag that it was given.
    Push,
    /// A manifest was sent to a client.
    Pull,
    /// A tag, a manifest or the link of a blob was deleted.
    Delete,
    /// The bytes of a cached blob went to make room, once for each repository that shows it. Distribution has no such event.
    Evict,
}

/// One notification. Its field names are the specification's.
#[derive(Clone, Debug, Serialize)]
pub struct Event<'a> {
    /// No other event has it; an event that is sent again keeps it.
    pub id: String,
    /// When it happened, by RFC 3339 in UTC.
    pub timestamp: String,
    /// What happened.
    pub action: EventKind,
    /// To what.
    pub target: EventTarget,
    /// By which request; empty for what the server did by itself.
    pub request: EventRequest<'a>,
    /// On whose account.
    pub actor: EventActor<'a>,
    /// Where.
    pub source: &'a EventSource,
}

/// What an event is about.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EventTarget {
    /// The media type of a manifest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// Its length.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Its digest; of a deleted tag there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The same as `size`, for old receivers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    /// The repository, by the name under which it is kept.
    pub repository: String,
    /// Where it can be had, by the name that the client used for this registry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The tag, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
}

/// The request that an event came of.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct EventRequest<'a> {
    /// Its name in the log.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub id: &'a str,
    /// The client's address.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub addr: &'a str,
    /// The name it used for this registry.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub host: &'a str,
    /// Its method.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub method: &'a str,
    /// What the client calls itself.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub useragent: &'a str,
}

/// Who made the request.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct EventActor<'a> {
    /// As in the log; empty for nobody in particular.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub name: &'a str,
}

/// The server that tells of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct EventSource {
    /// Address and port it listens on.
    pub addr: String,
    /// Another one after each start.
    #[serde(rename = "instanceID")]
    pub instance_id: String,
}

impl EventKind {
    /// The word of the configuration and of `action`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Pull => "pull",
            Self::Delete => "delete",
            Self::Evict => "evict",
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
