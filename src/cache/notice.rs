//! Events as they are told: what happened, put into the words of the notification.

use crate::clock::written;
use crate::metadata::{Metadata, Notice};
use crate::oci::{Event, EventActor, EventKind, EventRequest, EventTarget, RepositoryName};

/// What is told of the request that something came of, to those who listen.
#[derive(Clone, Debug, Default)]
pub struct Witness {
    /// Its name in the log.
    pub id: String,
    /// The client's address.
    pub address: String,
    /// The name that the client used for this registry.
    pub host: String,
    /// Its method.
    pub method: String,
    /// What the client calls itself.
    pub user_agent: String,
    /// Who it is, as in the log; empty for nobody in particular.
    pub actor: String,
    /// How the client reaches the registry, as a URL without a path.
    pub origin_url: Option<String>,
}

/// What happened to `target` in a repository. `witness` is none for what nobody asked for.
pub fn notice(
    index: &Metadata,
    kind: EventKind,
    repository: &RepositoryName,
    target: EventTarget,
    witness: Option<&Witness>,
    now_ms: i64,
) -> Notice {
    let source = index.event_source();
    let request = witness.map(|witness| EventRequest {
        id: &witness.id,
        addr: &witness.address,
        host: &witness.host,
        method: &witness.method,
        useragent: &witness.user_agent,
    });
    let event = Event {
        id: uuid::Uuid::new_v4().to_string(),
        timestamp: written(now_ms),
        action: kind,
        target: EventTarget { repository: repository.to_string(), ..target },
        request: request.unwrap_or_default(),
        actor: EventActor { name: witness.map_or("entrepot", |witness| &witness.actor) },
        source: &source,
    };
    let document = serde_json::to_string(&event).expect("names are texts, and nothing else can fail");
    Notice { kind, repository: repository.clone(), document, now_ms }
}
