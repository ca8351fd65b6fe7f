use globset::{Glob, GlobSetBuilder};
use proptest::prelude::*;

use super::*;

fn globs(patterns: &[&str]) -> GlobSet {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        set.add(Glob::new(pattern).unwrap());
    }
    set.build().unwrap()
}

fn names() -> Names {
    let host = |text: &str| text.parse::<Host>().unwrap();
    Names {
        upstreams: ["docker.io", "ghcr.io", "127.0.0.1:5001"].map(host).to_vec(),
        default: Some(host("docker.io")),
        hosts: HashMap::from([("hub.corp".to_owned(), host("docker.io")), ("gh.corp".to_owned(), host("ghcr.io"))]),
        overlay: globs(&["library/**"]),
        local_only: globs(&["team/**"]),
    }
}

fn target(name: &str, ns: Option<&str>, host: Option<&str>) -> Target {
    Target {
        name: name.parse().unwrap(),
        ns: ns.map(str::to_owned),
        host: host.map(Into::into),
        caller: Caller::default(),
    }
}

/// One line per form: name, ns, Host → home | names that may be private | kept as ← asked as.
#[test]
fn every_client_form_finds_its_repository() {
    let rows = [
        ("library/nginx", None, None),
        ("nginx", None, None),
        ("library/nginx", Some("docker.io"), None),
        ("nginx", Some("DOCKER.io"), None),
        ("docker.io/nginx", None, None),
        ("docker.io/library/nginx", None, None),
        ("org/app", Some("ghcr.io"), None),
        ("ghcr.io/org/app", None, None),
        ("ghcr.io/app", None, None),
        ("127.0.0.1:5001/app", None, None),
        ("org/app", None, Some("gh.corp")),
        ("nginx", None, Some("hub.corp")),
        ("org/app", None, Some("other.corp")),
        ("registry.corp/app", None, None),
        ("localhost:5002/app", None, None),
        ("team/app", None, None),
        ("team/app", Some("docker.io"), None),
        ("docker.io/team/app", None, None),
    ];
    let table: Vec<String> = rows
        .into_iter()
        .map(|(name, ns, host)| {
            let route = names().route(&target(name, ns, host)).unwrap();
            let private: Vec<&str> = route.private.iter().map(RepositoryName::as_str).collect();
            let mirrored = route.mirrored.map_or("nobody".to_owned(), |m| format!("{} <- {}", m.canonical, m.remote));
            let form = format!("{name} ns={} host={}", ns.unwrap_or("-"), host.unwrap_or("-"));
            format!("{form}: {} | {} | {mirrored}", route.home, private.join(" "))
        })
        .collect();
    insta::assert_snapshot!(table.join("\n"), @r"
    library/nginx ns=- host=-: library/nginx | library/nginx docker.io/library/nginx | docker.io/library/nginx <- library/nginx
    nginx ns=- host=-: nginx | nginx docker.io/library/nginx | docker.io/library/nginx <- library/nginx
    library/nginx ns=docker.io host=-: docker.io/library/nginx | library/nginx docker.io/library/nginx | docker.io/library/nginx <- library/nginx
    nginx ns=DOCKER.io host=-: docker.io/library/nginx | nginx docker.io/library/nginx | docker.io/library/nginx <- library/nginx
    docker.io/nginx ns=- host=-: docker.io/library/nginx | docker.io/nginx nginx docker.io/library/nginx | docker.io/library/nginx <- library/nginx
    docker.io/library/nginx ns=- host=-: docker.io/library/nginx | docker.io/library/nginx library/nginx docker.io/library/nginx | docker.io/library/nginx <- library/nginx
    org/app ns=ghcr.io host=-: ghcr.io/org/app | ghcr.io/org/app | ghcr.io/org/app <- org/app
    ghcr.io/org/app ns=- host=-: ghcr.io/org/app | ghcr.io/org/app | ghcr.io/org/app <- org/app
    ghcr.io/app ns=- host=-: ghcr.io/app | ghcr.io/app | ghcr.io/app <- app
    127.0.0.1:5001/app ns=- host=-: 127.0.0.1:5001/app | 127.0.0.1:5001/app | 127.0.0.1:5001/app <- app
    org/app ns=- host=gh.corp: ghcr.io/org/app | ghcr.io/org/app | ghcr.io/org/app <- org/app
    nginx ns=- host=hub.corp: docker.io/library/nginx | nginx docker.io/library/nginx | docker.io/library/nginx <- library/nginx
    org/app ns=- host=other.corp: org/app | org/app docker.io/org/app | docker.io/org/app <- org/app
    registry.corp/app ns=- host=-: registry.corp/app | registry.corp/app | nobody
    localhost:5002/app ns=- host=-: localhost:5002/app | localhost:5002/app | nobody
    team/app ns=- host=-: team/app | team/app docker.io/team/app | nobody
    team/app ns=docker.io host=-: docker.io/team/app | team/app docker.io/team/app | nobody
    docker.io/team/app ns=- host=-: docker.io/team/app | docker.io/team/app team/app docker.io/team/app | nobody
    ");
}

#[test]
fn a_namespace_that_is_not_configured_is_refused() {
    for ns in ["evil.example", "", "docker.io/x", "docker.io@evil.example", "a b"] {
        let refused = names().route(&target("a/b", Some(ns), None));
        assert_eq!(refused, Err(Unroutable::Namespace { ns: ns.to_owned() }), "{ns}");
    }
}

#[test]
fn a_host_header_means_what_is_configured_with_its_port_and_else_without() {
    let host = |text: &str| text.parse::<Host>().unwrap();
    let hosts = [("hub.corp", "docker.io"), ("hub.corp:5001", "ghcr.io"), ("gh.corp:5000", "ghcr.io")];
    let hosts = hosts.map(|(header, upstream)| (header.to_owned(), host(upstream)));
    let names = Names { hosts: HashMap::from(hosts), default: None, ..names() };
    for (header, upstream) in [
        ("hub.corp", Some("docker.io")),
        ("hub.corp:5000", Some("docker.io")),
        ("hub.corp:5001", Some("ghcr.io")),
        ("gh.corp:5000", Some("ghcr.io")),
        ("gh.corp", None),
        ("gh.corp:5001", None),
    ] {
        let route = names.route(&target("org/app", None, Some(header))).unwrap();
        let found = route.mirrored.map(|mirrored| mirrored.upstream.to_string());
        assert_eq!(found.as_deref(), upstream, "{header}");
    }
}

#[test]
fn without_a_default_upstream_names_are_local() {
    let names = Names { default: None, ..names() };
    let route = names.route(&target("library/nginx", None, None)).unwrap();
    assert_eq!(route.mirrored, None);
    assert!(names.route(&target("org/app", Some("ghcr.io"), None)).unwrap().mirrored.is_some());
}

#[test]
fn overlay_patterns_hold_for_every_spelling() {
    for (name, ns) in [("library/nginx", None), ("nginx", Some("docker.io")), ("docker.io/library/nginx", None)] {
        let route = names().route(&target(name, ns, None)).unwrap();
        assert_eq!(route.overlay, name != "nginx", "{name}");
    }
}

proptest! {
    /// The closed world: whatever is asked, only a configured upstream comes out.
    #[test]
    fn only_configured_upstreams_are_ever_named(
        name in "[a-z0-9]{1,4}([./:-][a-z0-9]{1,4}){0,3}(/[a-z0-9]{1,4}){0,2}",
        ns in prop::option::of("[a-zA-Z0-9.:/-]{0,12}"),
        host in prop::option::of("[a-z.]{0,10}"),
    ) {
        let Ok(name) = name.parse() else { return Ok(()) };
        let host = host.map(Into::into);
        if let Ok(Route { mirrored: Some(mirrored), home, private, .. }) = names().route(&Target { name, ns, host, caller: Caller::default() }) {
            prop_assert!(names().upstreams.contains(&mirrored.upstream));
            prop_assert!(mirrored.canonical.as_str().starts_with(mirrored.upstream.as_str()));
            prop_assert!(private.contains(&home));
            prop_assert!(private.contains(&mirrored.canonical));
        }
    }
}
