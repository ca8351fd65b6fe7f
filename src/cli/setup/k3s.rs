//! k3s and RKE2: `registries.yaml`, from which they make the files that containerd reads.

use std::fmt::Write as _;

use super::instance::Instance;
use super::{Guide, SetupFile};

/// What has to be done.
pub fn guide(instance: &Instance) -> Guide {
    let mut content = String::from("mirrors:\n");
    for upstream in &instance.upstreams {
        let _ = write!(content, "  \"{}\":\n    endpoint:\n      - \"{}\"\n", upstream.name, instance.url);
    }
    if instance.needs_insecure() {
        // What is pushed here is pulled by this address.
        let _ = write!(content, "  \"{}\":\n    endpoint:\n      - \"{}\"\n", instance.authority, instance.url);
    }
    let authority = instance.authority_file("/etc/rancher/k3s/entrepot-ca.crt");
    if let Some(file) = &authority {
        let _ = write!(content, "configs:\n  \"{}\":\n    tls:\n      ca_file: {}\n", instance.authority, file.path);
    }
    let mut notes = vec![
        "RKE2: the file is /etc/rancher/rke2/registries.yaml, the services are rke2-server and rke2-agent.".to_owned(),
        "Every node needs the file; when the mirror answers 404, the registry itself is asked.".to_owned(),
    ];
    if instance.is_loopback {
        notes.push("This address is each node's own loopback: for a cluster run this command with --url.".to_owned());
    }
    notes.extend(instance.authority_note(format!(
        "If its certificate comes from an authority of your own, add:\nconfigs:\n  \"{}\":\n    tls:\n      ca_file: /path/to/ca.crt",
        instance.authority
    )));
    let mut files = vec![SetupFile { path: "/etc/rancher/k3s/registries.yaml".to_owned(), content }];
    files.extend(authority);
    Guide {
        files,
        apply: vec!["systemctl restart k3s || systemctl restart k3s-agent".to_owned()],
        try_it: instance.known_images().map(|image| format!("k3s crictl pull {image}")).collect(),
        notes,
    }
}
