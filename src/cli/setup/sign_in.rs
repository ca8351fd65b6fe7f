//! How clients say who they are: to this instance, and to upstreams that want to know it of everybody who pulls.

use super::Client;
use super::instance::{DOCKER_HUB, Instance, Origin};

/// What a person has to know, if anybody signs in.
pub fn notes(client: Client, instance: &Instance) -> Vec<String> {
    let ours = instance.has_accounts.then(|| {
        let how = login(client, &instance.authority);
        format!("This instance has users (`auth`). Sign in by: {how}")
    });
    let guarded = instance.upstreams.iter().filter(|upstream| upstream.is_guarded);
    ours.into_iter().chain(guarded.map(|upstream| to_upstream(client, instance, upstream))).collect()
}

fn login(client: Client, authority: &str) -> String {
    match client {
        Client::Docker => format!("docker login {authority}"),
        Client::Buildkit => format!("docker login {authority} (buildx takes the password from there)"),
        Client::Podman => format!("podman login {authority}"),
        Client::Skopeo => format!("skopeo login {authority}, or --creds NAME:PASSWORD"),
        Client::CriO => {
            format!("podman login --authfile /var/lib/kubelet/config.json {authority}, or imagePullSecrets")
        }
        Client::Containerd => {
            format!("ctr -u NAME:PASSWORD; Kubernetes: an imagePullSecret for {authority}; nerdctl login {authority}")
        }
        Client::K3s => {
            format!("configs: {{\"{authority}\": {{auth: {{username: NAME, password: PASSWORD}}}}}} in registries.yaml")
        }
    }
}

/// Docker's and podman's clients give a password only to whom GET /v2/ has asked for one, and that request names no upstream.
fn to_upstream(client: Client, instance: &Instance, upstream: &Origin) -> String {
    let name = &upstream.name;
    let whose = format!("{name} shows everybody what they may see there (`visibility: passthrough`)");
    if client == Client::Docker && upstream.is_default && name == DOCKER_HUB {
        return format!("{whose}. Sign in by: docker login; the daemon gives the mirror what it has for Docker Hub");
    }
    let learns_by_each_request = matches!(client, Client::Containerd | Client::K3s | Client::Buildkit);
    if learns_by_each_request || upstream.is_default {
        return format!("{whose}. With a name and password of {name}: {}", login(client, &instance.authority));
    }
    match upstream.hosts.first() {
        Some(host) => {
            let host = instance.by_name(host);
            let how = login(client, &host);
            format!("{whose}. With a name and password of {name}: {how}; then pull {host}/NAME:TAG")
        }
        None => format!(
            "{whose}, and this client can tell who it is only where {name} has an address of its own: \
             give this instance another name in DNS, write it in upstreams.{name}.hosts, and run this again"
        ),
    }
}
