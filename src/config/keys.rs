//! The list of all keys: what the environment may set, what a misplaced key may have meant, what `config.yaml` must show.
//!
//! A test proves it equal to the fields of the shape.

/// How the value of a key is written in an environment variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// As it is, without YAML's quoting rules: a password may hold `#` or `: `.
    Scalar,
    /// A YAML flow list, `[a, b]`.
    List,
    /// A YAML flow map, `{a: b}`.
    Map,
}

/// Stands for the name of an upstream in a path.
pub(super) const HOST: &str = "HOST";

use Shape::{List, Map, Scalar};

/// Every key by its path, in the order of `config.yaml`.
pub(super) const KEYS: &[(&[&str], Shape)] = &[
    (&["http", "listen"], Scalar),
    (&["http", "shutdown_grace"], Scalar),
    (&["http", "connections_max"], Scalar),
    (&["http", "header_timeout"], Scalar),
    (&["http", "read_timeout"], Scalar),
    (&["http", "write_timeout"], Scalar),
    (&["http", "cors_origins"], List),
    (&["http", "admin_from"], List),
    (&["storage", "path"], Scalar),
    (&["storage", "max_size"], Scalar),
    (&["storage", "create"], Scalar),
    (&["storage", "min_free"], Scalar),
    (&["storage", "quarantine_max"], Scalar),
    (&["storage", "scrub_every"], Scalar),
    (&["storage", "scrub_rate_max"], Scalar),
    (&["cache", "max_size"], Scalar),
    (&["cache", "revalidate_after"], Scalar),
    (&["cache", "refresh_ahead_max"], Scalar),
    (&["cache", "fills_max"], Scalar),
    (&["cache", "fill_timeout"], Scalar),
    (&["cache", "manifests_in_memory"], Scalar),
    (&["cache", "list_entries_max"], Scalar),
    (&["cache", "lists_max"], Scalar),
    (&["push", "sparse"], Scalar),
    (&["push", "manifest_max"], Scalar),
    (&["push", "sessions_max"], Scalar),
    (&["push", "sessions_expire_after"], Scalar),
    (&["push", "retention_every"], Scalar),
    (&["overlay"], List),
    (&["local_only"], List),
    (&["quotas"], List),
    (&["pin"], List),
    (&["retention"], List),
    (&["log", "format"], Scalar),
    (&["log", "level"], Scalar),
    (&["log", "buffer"], Scalar),
    (&["upstreams"], Map),
    (&["upstreams", HOST, "url"], Scalar),
    (&["upstreams", HOST, "urls"], List),
    (&["upstreams", HOST, "send_ns"], Scalar),
    (&["upstreams", HOST, "default"], Scalar),
    (&["upstreams", HOST, "hosts"], List),
    (&["upstreams", HOST, "username"], Scalar),
    (&["upstreams", HOST, "password"], Scalar),
    (&["upstreams", HOST, "password_file"], Scalar),
    (&["upstreams", HOST, "accounts"], List),
    (&["upstreams", HOST, "docker_config"], Scalar),
    (&["upstreams", HOST, "credential_helper"], Scalar),
    (&["upstreams", HOST, "credential_timeout"], Scalar),
    (&["upstreams", HOST, "credential_lifetime"], Scalar),
    (&["upstreams", HOST, "realms"], List),
    (&["upstreams", HOST, "tls"], Map),
    (&["upstreams", HOST, "proxy"], Scalar),
    (&["upstreams", HOST, "visibility"], Scalar),
    (&["upstreams", HOST, "access_ttl"], Scalar),
    (&["upstreams", HOST, "revalidate_after"], Scalar),
    (&["upstreams", HOST, "revalidate_lists_after"], Scalar),
    (&["upstreams", HOST, "stale_for"], Scalar),
    (&["upstreams", HOST, "stale_after_wait"], Scalar),
    (&["upstreams", HOST, "negative_ttl"], Scalar),
    (&["upstreams", HOST, "rate_reserve"], Scalar),
    (&["upstreams", HOST, "connect_timeout"], Scalar),
    (&["upstreams", HOST, "first_byte_timeout"], Scalar),
    (&["upstreams", HOST, "no_progress_timeout"], Scalar),
    (&["upstreams", HOST, "retries"], Scalar),
    (&["upstreams", HOST, "parallel"], Scalar),
    (&["upstreams", HOST, "piece_size"], Scalar),
    (&["upstreams", HOST, "connections_max"], Scalar),
    (&["upstreams", HOST, "bandwidth_max"], Scalar),
    (&["upstreams", HOST, "prefetch"], Scalar),
    (&["upstreams", HOST, "prefetch_max"], Scalar),
    (&["upstreams", HOST, "immutable_tags"], List),
    (&["upstreams", HOST, "tags"], List),
    (&["upstreams", HOST, "on_upstream_404"], Scalar),
    (&["upstreams", HOST, "quota"], Scalar),
    (&["offline"], Scalar),
];

/// The full path of a key by this last name, in whichever section it lives.
pub(super) fn elsewhere(name: &str) -> Option<String> {
    KEYS.iter().find(|(path, _)| path.last() == Some(&name)).map(|(path, _)| path.join("."))
}
