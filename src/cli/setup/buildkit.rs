//! `BuildKit`: `buildkitd.toml`. Its mirrors are asked with `?ns=`, as containerd asks them.

use std::fmt::Write as _;

use super::instance::Instance;
use super::{Guide, SetupFile};

const FILE: &str = "/etc/buildkit/buildkitd.toml";

/// What has to be done.
pub fn guide(instance: &Instance) -> Guide {
    let mut content = String::new();
    for upstream in &instance.upstreams {
        let _ = write!(content, "[registry.\"{}\"]\n  mirrors = [\"{}\"]\n\n", upstream.name, instance.authority);
    }
    if instance.is_plain {
        let _ = write!(content, "[registry.\"{}\"]\n  http = true\n\n", instance.authority);
    }
    let authority = instance.authority_file("/etc/buildkit/entrepot-ca.crt");
    if let Some(file) = &authority {
        let _ = write!(content, "[registry.\"{}\"]\n  ca = [\"{}\"]\n\n", instance.authority, file.path);
    }
    content.truncate(content.trim_end().len());
    content.push('\n');
    let mut notes =
        vec!["The builder that is part of Docker itself uses daemon.json instead: `entrepot setup docker`.".to_owned()];
    if instance.is_loopback {
        notes.push(format!(
            "A builder in a container has a loopback of its own and does not find {} there: give it the host's network \
             (`--driver-opt network=host`), or run this command with --url and an address that it reaches.",
            instance.url
        ));
    }
    notes.extend(instance.authority_note(format!(
        "If its certificate comes from an authority of your own, add below [registry.\"{}\"]: ca = [\"/path/to/ca.crt\"]",
        instance.authority
    )));
    let mut files = vec![SetupFile { path: FILE.to_owned(), content }];
    files.extend(authority);
    Guide {
        files,
        apply: vec![
            "systemctl restart buildkit    # a buildkitd of the machine".to_owned(),
            format!("docker buildx create --use --name entrepot --config {FILE}    # or a builder of buildx"),
        ],
        try_it: instance
            .known_images()
            .map(|image| format!("printf 'FROM {image}\\n' | docker buildx build -"))
            .collect(),
        notes,
    }
}
