//! Docker Engine: `daemon.json`.
//!
//! Docker asks its mirrors for images of docker.io alone, without naming it: only where docker.io is the default upstream
//! do they get what they ask for.

use serde_json::json;

use super::instance::{DOCKER_HUB, Instance};
use super::{Guide, SetupFile};

/// What has to be done.
pub fn guide(instance: &Instance) -> Guide {
    let hub_is_default = instance.upstream(DOCKER_HUB).is_some_and(|hub| hub.is_default);
    let mut settings = serde_json::Map::new();
    if hub_is_default {
        settings.insert("registry-mirrors".to_owned(), json!([instance.url]));
    }
    if instance.needs_insecure() {
        settings.insert("insecure-registries".to_owned(), json!([instance.authority]));
    }
    let content = serde_json::to_string_pretty(&settings).expect("texts in lists are always JSON");
    let mut guide = Guide::default();
    if !settings.is_empty() {
        guide.files.push(SetupFile { path: "/etc/docker/daemon.json".to_owned(), content: content + "\n" });
        guide.apply.push("systemctl reload docker".to_owned());
    }
    if hub_is_default {
        guide.try_it.push("docker pull docker.io/library/alpine:latest".to_owned());
        guide.notes.push(
            "When the mirror fails, Docker asks docker.io itself and shows only that second error; the mirror's own answer is \
             in the daemon's log."
                .to_owned(),
        );
    } else {
        guide.notes.push(
            "docker.io is not the default upstream of this instance (upstreams.docker.io.default), so Docker, which asks a \
             mirror only for images of docker.io and without naming it, cannot use it as one: use the full names above."
                .to_owned(),
        );
    }
    let named = instance.upstreams.iter().filter(|upstream| !hub_is_default || !upstream.is_default);
    guide.try_it.extend(named.map(|upstream| format!("docker pull {}", instance.by_prefix(upstream))));
    let authority = format!("/etc/docker/certs.d/{}/ca.crt", instance.authority);
    guide.notes.extend(instance.authority_note(format!(
        "If its certificate comes from an authority of your own, put that authority's at {authority}; no restart is needed \
         for it."
    )));
    guide.files.extend(instance.authority_file(authority));
    guide.notes.push("If daemon.json exists already, merge the keys into it.".to_owned());
    guide
}
