//! The shipped `config.yaml` and the list of keys, against the shape and the defaults.

use std::path::Path;

use super::{
    super::{
        Fault, KeyPath,
        keys::{HOST, KEYS},
        raw::Raw,
        read::read,
        tree::Node,
        yaml::{self, Source},
    },
    Config, SHIPPED, ServeFlags, assembled, from_text,
};

fn tree_of(text: &str) -> Node {
    yaml::parse(text, &Source::Variable("test".into())).unwrap_or_else(|problem| panic!("{problem}\n{text}"))
}

#[test]
fn no_file_means_the_built_in_defaults() {
    let config = Config::default();
    assert_eq!(config.http.listen.to_string(), "127.0.0.1:5000");
    assert_eq!(config.storage.path, Path::new("./data"));
    let default = config.default_upstream().unwrap();
    assert_eq!((default.name.as_str(), default.url.as_str()), ("docker.io", "https://registry-1.docker.io/"));
    let names: Vec<_> = config.upstreams.iter().map(|upstream| upstream.name.as_str()).collect();
    assert!(names.is_sorted() && names.len() == 7, "{names:?}");
}

#[test]
fn the_shipped_file_means_what_no_file_means() {
    let (config, warnings) = assembled(SHIPPED, &[], ServeFlags::default()).unwrap();
    assert_eq!(config, Config::default());
    assert!(warnings.is_empty());
}

/// The shipped file with one of its commented-out `key: value` lines made active, for each of them.
fn shipped_with_each_comment_active() -> Vec<(String, String)> {
    let lines: Vec<&str> = SHIPPED.lines().collect();
    let in_docker_io = "    # ";
    let key_of = |line: &str| {
        let (key, value) = line.strip_prefix(in_docker_io)?.split_once(": ")?;
        let is_key = key.chars().all(|c| c.is_ascii_lowercase() || c == '_') && !value.is_empty();
        is_key.then(|| key.to_owned())
    };
    let activate = |at: usize| {
        let change = |(n, line): (usize, &&str)| if n == at { line.replacen("# ", "", 1) } else { (*line).to_owned() };
        lines.iter().enumerate().map(change).collect::<Vec<_>>().join("\n")
    };
    lines.iter().enumerate().filter_map(|(at, line)| Some((key_of(line)?, activate(at)))).collect()
}

#[test]
fn the_shipped_file_shows_every_key() {
    let active = tree_of(SHIPPED);
    let access = tree_of(&shipped_access().replace("  # token_server:", "  token_server:"));
    let commented = shipped_with_each_comment_active();
    for (path, _) in KEYS {
        let is_shown = match path {
            [section, HOST, key] => {
                active.get(&KeyPath::of(&[section, "docker.io", key])).is_some()
                    || commented.iter().any(|(shown, _)| shown == key)
            }
            ["auth", _] => access.get(&KeyPath::of(path)).is_some(),
            [.., key] => active.get(&KeyPath::of(path)).is_some() || commented.iter().any(|(shown, _)| shown == key),
            [] => false,
        };
        assert!(is_shown, "{} is not in config.yaml", path.join("."));
    }
}

/// The section that is shown as a comment because its absence means something.
fn shipped_access() -> String {
    let (_, after) = SHIPPED.split_once("\n# auth:\n").unwrap();
    let lines = after.lines().take_while(|line| line.starts_with('#'));
    let lines: Vec<&str> = lines.map(|line| line.strip_prefix("# ").unwrap()).collect();
    format!(
        "auth:\n{}\n",
        lines.join("\n").replace("  # realm:", "  realm:").replace("  # certificates:", "  certificates:")
    )
}

#[test]
fn the_shipped_rules_are_accepted() {
    let tls = "http: {tls: {certificate: /etc/ssl/lan.pem, key: /run/secrets/lan.key, client_ca: /etc/ssl/lan.pem, \
               client_certificates: request}}\n";
    let text = format!("{tls}{}", shipped_access());
    let config = from_text(&text).unwrap();
    let auth = config.auth.unwrap();
    assert_eq!((auth.rules.len(), auth.admins.len(), auth.htpasswd.unwrap().users.len()), (2, 1, 2));
    assert_eq!(auth.refresh_lifetime, super::super::Auth::default().refresh_lifetime);
    let server = SHIPPED.lines().find_map(|line| line.strip_prefix("#   # token_server: ")).unwrap();
    let server = server.replace("/etc/entrepot/auth.crt", "/etc/ssl/lan.pem");
    assert!(from_text(&format!("auth: {{token_server: {server}}}")).is_ok());
}

#[test]
fn what_the_page_on_identities_shows_is_accepted() {
    let page = include_str!("../../../docs/identities.md");
    let blocks = page.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let ours: Vec<&str> = blocks.filter(|block| block.contains("auth:\n")).collect();
    assert_eq!(ours.len(), 5, "{ours:#?}");
    for block in ours {
        let (_, warnings) = assembled(block, &[], ServeFlags::default()).unwrap_or_else(|e| panic!("{e}\n{block}"));
        assert!(warnings.is_empty(), "{warnings:?}\n{block}");
    }
}

#[test]
fn what_the_shipped_file_shows_as_comments_is_accepted() {
    let commented = shipped_with_each_comment_active();
    assert_eq!(commented.len(), 14, "{commented:?}");
    for (key, text) in commented {
        let mut problems = Vec::new();
        let _: Raw = read(&mut tree_of(&text), &mut problems);
        assert!(problems.is_empty(), "{key}: {problems:?}");
    }
    let (_, examples) = SHIPPED.split_once("  # With credentials for private images:\n").unwrap();
    let is_prose = |line: &&str| line.contains("# A registry");
    let examples: Vec<String> =
        examples.lines().filter(|line| !is_prose(line)).map(|line| line.replacen("# ", "", 1)).collect();
    let examples = examples.join("\n").replace("/run/secrets/ghcr-token", "/run/secrets/token");
    let config = from_text(&format!("upstreams:\n{examples}")).unwrap();
    assert_eq!(config.upstreams.len(), 2);
}

#[test]
fn what_the_shipped_file_says_of_acme_is_all_there_is_and_accepted() {
    let example = SHIPPED.lines().find_map(|line| line.strip_prefix("    # acme: ")).unwrap();
    assert!(from_text(&format!("http: {{tls: {{acme: {example}}}}}")).is_ok());
    for key in known_to_the_shape(&["http", "tls", "acme"]) {
        assert!(SHIPPED.contains(&format!("\n    #   {key} ")), "{key} is not explained");
    }
}

/// Every key below `keys`, learnt from what the shape says it knows when asked for a key it does not.
fn known_to_the_shape(keys: &[&str]) -> Vec<String> {
    let mut tree = tree_of("{}");
    let mut path: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
    path.push("no such key".to_owned());
    tree.set(&path, tree_of("x"));
    let mut problems = Vec::new();
    let _: Raw = read(&mut tree, &mut problems);
    match problems.first().map(|problem| &problem.fault) {
        Some(Fault::UnknownKey { known, .. }) => known.iter().map(|key| (*key).to_owned()).collect(),
        other => panic!("{keys:?}: {other:?}"),
    }
}

#[test]
fn the_list_of_keys_is_the_shape() {
    let mut shape: Vec<Vec<String>> = Vec::new();
    for top in known_to_the_shape(&[]) {
        let (way, is_leaf): (Vec<&str>, bool) = match top.as_str() {
            "overlay" | "local_only" | "quotas" | "pin" | "retention" | "webhooks" | "offline" => (vec![&top], true),
            "upstreams" => (vec![&top, HOST], true),
            section => (vec![section], false),
        };
        if is_leaf {
            shape.push(vec![top.clone()]);
        }
        if !is_leaf || way.len() == 2 {
            for key in known_to_the_shape(&way) {
                let path = [&way[..], &[&key]].concat();
                let written = |path: &[&str]| path.iter().map(|step| (*step).to_owned()).collect();
                if path == ["http", "tls"] {
                    shape.extend(known_to_the_shape(&path).iter().map(|key| written(&[&path[..], &[key]].concat())));
                } else {
                    shape.push(written(&path));
                }
            }
        }
    }
    let mut listed: Vec<Vec<String>> =
        KEYS.iter().map(|(path, _)| path.iter().map(|key| (*key).to_owned()).collect()).collect();
    shape.sort();
    listed.sort();
    assert_eq!(listed, shape);
}
