//! `entrepot setup`: what it prints for each client, what it writes, and that the documentation says the same.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::process::{Ended, Process, run};

const CLIENTS: [&str; 7] = ["docker", "containerd", "podman", "buildkit", "k3s", "cri-o", "skopeo"];

/// docker.io as default, one registry by its own name, one in the house.
const CONFIG: &str = "upstreams: {docker.io: {url: http://10.0.0.1:5000, default: true}, ghcr.io: {}, \
                      'registry.lan:5000': {url: 'http://registry.lan:5000'}}";

async fn setup(config: &str, arguments: &[&str]) -> Ended {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("config.yaml"), config).unwrap();
    run(folder.path(), &[&["setup"], arguments].concat(), &[]).await
}

async fn guide(config: &str, arguments: &[&str]) -> Value {
    let ended = setup(config, &[arguments, &["--json"]].concat()).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    serde_json::from_str(&ended.stdout).unwrap()
}

/// What is in a file of the guide.
fn content<'a>(guide: &'a Value, path: &str) -> &'a str {
    let files = guide["files"].as_array().unwrap();
    let file = files.iter().find(|file| file["path"] == path);
    file.unwrap_or_else(|| panic!("{path} is not among {files:#?}"))["content"].as_str().unwrap()
}

fn paths(guide: &Value) -> Vec<&str> {
    guide["files"].as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn docker_gets_a_mirror_where_docker_io_is_the_default() {
    let guide = guide(CONFIG, &["docker"]).await;
    let settings: Value = serde_json::from_str(content(&guide, "/etc/docker/daemon.json")).unwrap();
    assert_eq!(settings, json!({ "registry-mirrors": ["http://127.0.0.1:5000"] }));
    let tried = guide["try"].as_array().unwrap();
    assert!(tried.contains(&json!("docker pull 127.0.0.1:5000/ghcr.io/NAME:TAG")), "{tried:?}");
    assert_eq!(guide["apply"], json!(["systemctl reload docker"]));
}

#[tokio::test]
async fn docker_is_given_no_mirror_that_would_answer_for_another_registry() {
    let guide = guide("upstreams: {ghcr.io: {default: true}, docker.io: {}}", &["docker"]).await;
    assert_eq!(guide["files"], json!([]));
    assert!(guide["notes"][0].as_str().unwrap().contains("upstreams.docker.io.default"), "{guide:#}");
    let tried = guide["try"].as_array().unwrap();
    assert!(tried.contains(&json!("docker pull 127.0.0.1:5000/docker.io/library/alpine:latest")), "{tried:?}");
}

#[tokio::test]
async fn an_address_without_tls_beyond_this_machine_is_said_to_be_so_everywhere() {
    let url = ["--url", "http://mirror.lan:5000"];
    let docker = guide(CONFIG, &[&["docker"], &url[..]].concat()).await;
    let settings: Value = serde_json::from_str(content(&docker, "/etc/docker/daemon.json")).unwrap();
    assert_eq!(settings["insecure-registries"], json!(["mirror.lan:5000"]));
    let containerd = guide(CONFIG, &[&["containerd"], &url[..]].concat()).await;
    let own = content(&containerd, "/etc/containerd/certs.d/mirror.lan:5000/hosts.toml");
    assert_eq!(own, "server = \"http://mirror.lan:5000\"\n");
    let podman = guide(CONFIG, &[&["podman"], &url[..]].concat()).await;
    let conf = content(&podman, "/etc/containers/registries.conf.d/50-entrepot.conf");
    assert_eq!(conf.matches("insecure = true").count(), 4, "{conf}");
    let buildkit = guide(CONFIG, &[&["buildkit"], &url[..]].concat()).await;
    let toml = content(&buildkit, "/etc/buildkit/buildkitd.toml");
    assert!(toml.ends_with("[registry.\"mirror.lan:5000\"]\n  http = true\n"), "{toml}");
    let k3s = guide(CONFIG, &[&["k3s"], &url[..]].concat()).await;
    assert!(content(&k3s, "/etc/rancher/k3s/registries.yaml").contains("  \"mirror.lan:5000\":\n"));
}

#[tokio::test]
async fn with_tls_nothing_is_called_insecure() {
    for client in CLIENTS {
        let ended = setup(CONFIG, &[client, "--url", "https://mirror.lan"]).await;
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        // The upstream in the house has no TLS of its own, which is containerd's business.
        let printed = ended.stdout.replace("server = \"http://registry.lan:5000\"", "");
        for word in ["insecure", "http = true", "http://"] {
            assert!(!printed.contains(word), "{client} is told \"{word}\":\n{printed}");
        }
        assert!(printed.contains("mirror.lan") && printed.contains("ca"), "{client}: {printed}");
    }
}

#[tokio::test]
async fn containerd_gets_one_file_for_each_upstream() {
    let guide = guide(CONFIG, &["containerd"]).await;
    let folder = "/etc/containerd/certs.d";
    let hosts = ["docker.io", "ghcr.io", "registry.lan:5000"];
    assert_eq!(paths(&guide), hosts.map(|host| format!("{folder}/{host}/hosts.toml")));
    let servers = ["https://registry-1.docker.io", "https://ghcr.io", "http://registry.lan:5000"];
    for (host, server) in hosts.into_iter().zip(servers) {
        let expected = format!(
            "server = \"{server}\"\n\n[host.\"http://127.0.0.1:5000\"]\n  capabilities = [\"pull\", \"resolve\"]\n"
        );
        assert_eq!(content(&guide, &format!("{folder}/{host}/hosts.toml")), expected);
    }
}

#[tokio::test]
async fn every_upstream_is_in_what_every_client_gets() {
    for client in CLIENTS {
        let printed = setup(CONFIG, &[client]).await.stdout;
        for host in ["docker.io", "ghcr.io", "registry.lan:5000"] {
            assert!(printed.contains(host), "{client} hears nothing of {host}:\n{printed}");
        }
    }
}

#[tokio::test]
async fn an_instance_without_upstreams_is_set_up_for_what_is_pushed_to_it() {
    for client in CLIENTS {
        let ended = setup("upstreams: {}", &[client, "--url", "http://mirror.lan:5000"]).await;
        assert_eq!(ended.code, Some(0), "{client}: {}", ended.stderr);
        assert!(ended.stdout.contains("mirror.lan:5000"), "{client}: {}", ended.stdout);
    }
}

#[tokio::test]
async fn a_listener_on_all_addresses_is_shown_as_this_machine_with_a_word_about_others() {
    let ended = setup("http: {listen: 0.0.0.0:5001}", &["docker"]).await;
    assert!(ended.stdout.contains("http://127.0.0.1:5001"), "{}", ended.stdout);
    assert!(ended.stderr.contains("--url http://ITS-NAME:5001"), "{}", ended.stderr);
}

#[tokio::test]
async fn files_are_written_below_a_folder_and_never_over_others() {
    let folder = TempDir::new().unwrap();
    let write = ["setup", "containerd", "--write", "root"];
    let written = run(folder.path(), &write, &[]).await;
    assert_eq!(written.code, Some(0), "{}", written.stderr);
    let hosts = folder.path().join("root/etc/containerd/certs.d");
    let file = std::fs::read_to_string(hosts.join("ghcr.io/hosts.toml")).unwrap();
    assert!(file.starts_with("server = \"https://ghcr.io\""), "{file}");
    std::fs::remove_file(hosts.join("docker.io/hosts.toml")).unwrap();
    let again = run(folder.path(), &write, &[]).await;
    assert_eq!(again.code, Some(1));
    assert!(again.stderr.contains("exists already, and nothing was written"), "{}", again.stderr);
    assert!(!hosts.join("docker.io/hosts.toml").exists());
}

#[tokio::test]
async fn what_no_client_can_be_given_is_a_usage_error() {
    for arguments in [&["docker", "--url", "mirror.lan:5000"][..], &["dockerd"], &[]] {
        assert_eq!(setup(CONFIG, arguments).await.code, Some(2), "{arguments:?}");
    }
}

/// The fenced block behind a mark.
fn block(page: &str, mark: &str) -> String {
    let (_, rest) = page.split_once(mark).unwrap_or_else(|| panic!("the page has no {mark}"));
    let rest = rest.split_once("```").unwrap().1.split_once('\n').unwrap().1;
    rest.split_once("```").unwrap().0.to_owned()
}

#[tokio::test]
async fn the_documentation_shows_what_is_printed() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/clients.md");
    let page = std::fs::read_to_string(page).unwrap();
    let shown: Vec<&str> =
        page.lines().filter_map(|line| line.strip_prefix("<!-- setup: ")?.strip_suffix(" -->")).collect();
    assert!(shown.len() >= 5, "{shown:?}");
    for mark in shown {
        let (client, path) = mark.split_once(' ').unwrap();
        let guide = guide("upstreams: {docker.io: {default: true}, ghcr.io: {}}", &[client]).await;
        assert_eq!(block(&page, mark), content(&guide, path), "{mark}");
    }
}

#[tokio::test]
async fn shells_can_complete_the_command_line() {
    let folder = TempDir::new().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let completions = run(folder.path(), &["completions", shell], &[]).await;
        assert_eq!(completions.code, Some(0));
        assert!(completions.stdout.contains("check-config"), "{}", completions.stdout);
    }
}

#[tokio::test]
async fn a_lab_gets_an_authority_and_a_certificate_that_the_server_and_its_commands_use() {
    let folder = TempDir::new().unwrap();
    let make = ["setup", "tls", "--self-signed", "--host", "registry.lan"];
    let made = run(folder.path(), &make, &[]).await;
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    assert!(made.stdout.contains("certificate: tls/server.crt") && made.stdout.contains("update-ca-certificates"));
    for (file, mode) in [("ca.crt", 0o644), ("ca.key", 0o600), ("server.crt", 0o644), ("server.key", 0o600)] {
        let metadata = std::fs::metadata(folder.path().join("tls").join(file)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, mode, "{file}");
    }
    let again = run(folder.path(), &make, &[]).await;
    assert_eq!(again.code, Some(1));
    assert!(again.stderr.contains("tls/server.crt exists already"), "{}", again.stderr);

    let config =
        "http: {tls: {certificate: tls/server.crt, key: tls/server.key}}\nupstreams: {docker.io: {default: true}}\n";
    std::fs::write(folder.path().join("config.yaml"), config).unwrap();
    let process = Process::serve(folder.path(), &[]).await;
    let authority = std::fs::read_to_string(folder.path().join("tls/ca.crt")).unwrap();
    let root = reqwest::Certificate::from_pem(authority.as_bytes()).unwrap();
    let client = reqwest::Client::builder().tls_certs_only([root]).no_proxy().resolve("registry.lan", process.address);
    let client = client.build().unwrap();
    for host in ["registry.lan", "127.0.0.1"] {
        let url = format!("https://{host}:{}/v2/", process.address.port());
        assert_eq!(client.get(&url).send().await.unwrap().status(), 200, "{url}");
    }
    // The commands know the server by the certificate of their own configuration.
    let listen = process.address.to_string();
    let why = run(folder.path(), &["why", "alpine", "--listen", &listen], &[]).await;
    assert!(why.stdout.contains(&format!("the server at https://{listen}")), "{}{}", why.stdout, why.stderr);
    process.terminate();
    assert_eq!(process.ended().await.0, Some(0));

    for client in CLIENTS {
        let printed = run(folder.path(), &["setup", client], &[]).await.stdout;
        assert!(
            printed.contains("https://127.0.0.1:5000") || printed.contains("127.0.0.1:5000/"),
            "{client}: {printed}"
        );
        assert!(printed.contains(authority.trim()), "{client} is not given the authority: {printed}");
        assert!(!printed.contains("insecure"), "{client}: {printed}");
    }

    // The next certificate is of the same authority.
    for file in ["server.crt", "server.key"] {
        std::fs::remove_file(folder.path().join("tls").join(file)).unwrap();
    }
    assert_eq!(run(folder.path(), &make, &[]).await.code, Some(0));
    assert_eq!(std::fs::read_to_string(folder.path().join("tls/ca.crt")).unwrap(), authority);
    let process = Process::serve(folder.path(), &[]).await;
    let url = format!("https://127.0.0.1:{}/v2/", process.address.port());
    assert_eq!(client.get(&url).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn what_is_said_of_acme_is_a_configuration_once_its_terms_are_agreed_to() {
    let folder = TempDir::new().unwrap();
    let directory = "https://acme.example.com/directory";
    let ask =
        async |more: &[&str]| run(folder.path(), &[&["setup", "tls", "--acme", directory], more].concat(), &[]).await;
    for (more, said) in
        [(&[][..], "--host"), (&["--host", "*.lan"], "no wildcard"), (&["--host", "10.0.0.1"], "no address")]
    {
        let refused = ask(more).await;
        assert_eq!(refused.code, Some(1));
        assert!(refused.stderr.contains(said), "{}", refused.stderr);
    }
    let said = ask(&["--host", "registry.example.com", "--contact", "admin@example.com"]).await;
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(!folder.path().join("tls").exists(), "nothing is made");
    let config = folder.path().join("config.yaml");
    std::fs::write(&config, said.stdout.split("\n\n").next().unwrap()).unwrap();
    let check = run(folder.path(), &["check-config"], &[]).await;
    assert!(check.stderr.contains("accept_terms: true"), "{}", check.stderr);
    std::fs::write(
        &config,
        said.stdout.split("\n\n").next().unwrap().replace("accept_terms: false", "accept_terms: true"),
    )
    .unwrap();
    let check = run(folder.path(), &["check-config"], &[]).await;
    assert_eq!(check.code, Some(0), "{}", check.stderr);
    for written in [directory, "- registry.example.com", "mailto:admin@example.com"] {
        assert!(check.stdout.contains(written), "{}", check.stdout);
    }
    // Clients come to where the certificate is for.
    let docker = run(folder.path(), &["setup", "docker"], &[]).await;
    assert!(docker.stdout.contains("https://registry.example.com"), "{}", docker.stdout);
    assert!(!docker.stdout.contains("insecure") && !docker.stderr.contains("this machine"), "{}", docker.stdout);
}

#[tokio::test]
async fn each_client_hears_how_to_sign_in_where_the_upstream_wants_to_know_who_pulls() {
    let notes = async |upstreams: &str, client: &str| {
        let guide = guide(&format!("upstreams: {{{upstreams}}}"), &[client]).await;
        guide["notes"].as_array().unwrap().iter().map(|note| note.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let told = async |upstreams: &str, client: &str, what: &str| {
        let notes = notes(upstreams, client).await;
        assert!(notes.iter().any(|note| note.contains("passthrough") && note.contains(what)), "{client}: {notes:#?}");
    };
    let open = "docker.io: {default: true}, ghcr.io: {}";
    let nameless = "docker.io: {default: true}, ghcr.io: {visibility: passthrough}";
    let named = "docker.io: {default: true}, ghcr.io: {visibility: passthrough, hosts: [ghcr.lan]}";
    for client in CLIENTS {
        assert!(!notes(open, client).await.iter().any(|note| note.contains("passthrough")), "{client}");
    }
    for client in ["containerd", "k3s", "buildkit"] {
        told(nameless, client, "127.0.0.1:5000").await;
    }
    for client in ["docker", "podman", "skopeo", "cri-o"] {
        told(nameless, client, "upstreams.ghcr.io.hosts").await;
        told(named, client, "then pull ghcr.lan:5000/NAME:TAG").await;
    }
    let hub = "docker.io: {default: true, visibility: passthrough}";
    told(hub, "docker", "the daemon gives the mirror what it has for Docker Hub").await;
    told(hub, "podman", "podman login 127.0.0.1:5000").await;
}
