//! containerd, nerdctl and Kubernetes: one `hosts.toml` for every registry.
//!
//! containerd tells a mirror which registry it stands for (`?ns=`), so one address serves all of them.

use super::instance::Instance;
use super::{Guide, SetupFile};

/// The folder that containerd's `config_path` names.
const FOLDER: &str = "/etc/containerd/certs.d";

/// What has to be done.
pub fn guide(instance: &Instance) -> Guide {
    let authority = instance.authority_file(format!("{FOLDER}/{}/ca.crt", instance.authority));
    let ca = authority.as_ref().map(|file| format!("  ca = \"{}\"\n", file.path)).unwrap_or_default();
    let mut files: Vec<SetupFile> = instance
        .upstreams
        .iter()
        .map(|upstream| SetupFile {
            path: format!("{FOLDER}/{}/hosts.toml", upstream.name),
            content: format!(
                "server = \"{}\"\n\n[host.\"{}\"]\n  capabilities = [\"pull\", \"resolve\"]\n{ca}",
                upstream.url, instance.url
            ),
        })
        .collect();
    if instance.needs_insecure() {
        // For what is pushed here and pulled by this address: containerd asks only loopback without TLS by itself.
        files.push(SetupFile {
            path: format!("{FOLDER}/{}/hosts.toml", instance.authority),
            content: format!("server = \"{}\"\n", instance.url),
        });
    }
    if let Some(file) = authority {
        files.push(SetupFile {
            path: format!("{FOLDER}/{}/hosts.toml", instance.authority),
            content: format!("server = \"{url}\"\n\n[host.\"{url}\"]\n{ca}", url = instance.url),
        });
        files.push(file);
    }
    let try_it = instance.known_images().map(|image| format!("ctr images pull --hosts-dir {FOLDER} {image}"));
    let try_it = try_it.collect();
    let mut notes = vec![
        format!(
            "For Kubernetes, containerd's config.toml has to name the folder, followed by `systemctl restart containerd`:\n\
             [plugins.\"io.containerd.cri.v1.images\".registry]      # containerd 2\n\
             [plugins.\"io.containerd.grpc.v1.cri\".registry]        # containerd 1\n  \
             config_path = \"{FOLDER}\""
        ),
        "The files are read at every pull: no restart is needed after a change. nerdctl reads them by itself, ctr with \
         --hosts-dir."
            .to_owned(),
        "containerd goes on to `server` only when the mirror answers 404; any other refusal ends the pull.".to_owned(),
    ];
    notes.extend(instance.authority_note(
        "If the certificate comes from an authority of your own, add `ca = \"/path/to/ca.crt\"` below [host.…].",
    ));
    Guide { files, apply: Vec::new(), try_it, notes }
}
