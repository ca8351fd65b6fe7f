//! podman, buildah, skopeo and CRI-O: one drop-in for `registries.conf`, which all of them read.
//!
//! They tell a mirror nothing of the registry it stands for, so its name is made part of the mirror's location.

use std::fmt::Write as _;

use super::instance::Instance;
use super::{Client, Guide, SetupFile};

const DROP_IN: &str = "/etc/containers/registries.conf.d/50-entrepot.conf";

/// What has to be done.
pub fn guide(client: Client, instance: &Instance) -> Guide {
    let insecure = if instance.is_plain { "insecure = true\n" } else { "" };
    let mut content = String::new();
    for upstream in &instance.upstreams {
        let _ = write!(
            content,
            "[[registry]]\nlocation = \"{name}\"\n\n[[registry.mirror]]\nlocation = \"{at}/{name}\"\n{insecure}\n",
            name = upstream.name,
            at = instance.authority,
        );
    }
    if instance.is_plain {
        let _ = write!(content, "[[registry]]\nlocation = \"{}\"\ninsecure = true\n\n", instance.authority);
    }
    content.truncate(content.trim_end().len());
    content.push('\n');
    let pull = match client {
        Client::Skopeo => "skopeo inspect docker://",
        Client::CriO => "crictl pull ",
        _ => "podman pull ",
    };
    let try_it = instance.known_images().map(|image| format!("{pull}{image}")).collect();
    let mut notes = vec!["When the mirror fails, the registry itself is asked; the error names both.".to_owned()];
    if client == Client::Podman {
        notes.push(
            "Without root the same file may be $HOME/.config/containers/registries.conf.d/50-entrepot.conf.".to_owned(),
        );
    }
    if client == Client::CriO {
        notes.push("CRI-O reads the same files as podman and skopeo.".to_owned());
    }
    let authority = format!("/etc/containers/certs.d/{}/ca.crt", instance.authority);
    notes.extend(instance.authority_note(format!(
        "If its certificate comes from an authority of your own, put that authority's at {authority}."
    )));
    let mut files = vec![SetupFile { path: DROP_IN.to_owned(), content }];
    files.extend(instance.authority_file(authority));
    Guide {
        files,
        apply: if client == Client::CriO { vec!["systemctl reload crio".to_owned()] } else { Vec::new() },
        try_it,
        notes,
    }
}
