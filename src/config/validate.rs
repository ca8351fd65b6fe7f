//! From the shape to a valid [`Config`]: every rule that compares values, each fault at the place of its value.

use std::{collections::HashMap, io, path::Path, time::Duration};

use url::Url;

use super::{
    Config, Identity, Limit, Patience, ProxyProtocol, Source, TagRule, Upstream, Visibility,
    diagnose::{Fault, Problem},
    raw::{Raw, RawTagRule, RawUpstream},
    server_tls::passwords_in_clear,
    tree::{KeyPath, Node, Step},
    units,
};

/// A client gets headers or an error within this, because containerd gives up on headers at 30 s.
const ANSWER_PROMISE: Duration = Duration::from_secs(25);

/// How a file that the configuration names is read; the only thing here that may touch a disk.
pub(super) type ReadSecret = fn(&Path) -> io::Result<String>;

/// Collects faults and warnings, each with the origin of the key it is about.
pub(super) struct Check<'a> {
    tree: &'a Node,
    read_secret: ReadSecret,
    pub problems: Vec<Problem>,
    pub warnings: Vec<Problem>,
}

impl<'a> Check<'a> {
    pub fn new(tree: &'a Node, read_secret: ReadSecret) -> Self {
        Self { tree, read_secret, problems: Vec::new(), warnings: Vec::new() }
    }

    fn at(&self, path: KeyPath, fault: Fault) -> Problem {
        Problem { origin: self.tree.origin_of(&path), path, fault }
    }

    pub(super) fn refuse(&mut self, path: KeyPath, fault: Fault) {
        self.problems.push(self.at(path, fault));
    }

    pub(super) fn warn(&mut self, path: KeyPath, fault: Fault) {
        self.warnings.push(self.at(path, fault));
    }

    /// Was something written there?
    pub(super) fn has(&self, path: &KeyPath) -> bool {
        self.tree.get(path).is_some()
    }

    /// A file that the configuration names.
    pub(super) fn read(&self, file: &Path) -> io::Result<String> {
        (self.read_secret)(file)
    }

    /// The configuration, to be used only when `problems` stayed empty.
    pub fn config(&mut self, raw: Raw) -> Config {
        let mut config = Config {
            http: raw.http,
            storage: raw.storage,
            cache: raw.cache,
            push: raw.push,
            gc: raw.gc,
            overlay: raw.overlay,
            local_only: raw.local_only,
            quotas: raw.quotas,
            pin: raw.pin,
            retention: raw.retention,
            auth: raw.auth,
            log: raw.log,
            audit: raw.audit,
            webhooks: Vec::with_capacity(raw.webhooks.len()),
            upstreams: Vec::with_capacity(raw.upstreams.len()),
            offline: raw.offline,
        };
        self.sections(&mut config);
        self.acme(&mut config.http.tls);
        for (name, upstream) in raw.upstreams {
            config.upstreams.extend(self.upstream(name, upstream, config.cache.revalidate_after));
        }
        for (name, webhook) in raw.webhooks {
            config.webhooks.extend(self.webhook(name, webhook));
        }
        self.between_upstreams(&config.upstreams);
        self.access(&mut config);
        let has_users = config.auth.as_ref().is_some_and(|auth| auth.htpasswd.is_some() || !auth.oidc.is_empty());
        let are_sent =
            has_users || config.upstreams.iter().any(|upstream| upstream.visibility == Visibility::Passthrough);
        if passwords_in_clear(&config.http, are_sent) {
            self.warn(KeyPath::of(&["http", "listen"]), Fault::PasswordsInClear);
        }
        config
    }

    fn sections(&mut self, config: &mut Config) {
        let Config { http, storage, cache, push, .. } = &*config;
        for (keys, is_zero) in [
            (["http", "connections_max"], http.connections_max == 0),
            (["http", "header_timeout"], http.header_timeout.is_zero()),
            (["http", "read_timeout"], http.read_timeout.is_zero()),
            (["http", "write_timeout"], http.write_timeout.is_zero()),
            (["http", "requests_burst_max"], http.requests_burst_max == 0),
            (["storage", "scrub_every"], storage.scrub_every.is_zero()),
            (["storage", "max_size"], storage.max_size == Limit::Bytes(0)),
            (["cache", "max_size"], cache.max_size == Limit::Bytes(0)),
            (["cache", "fills_max"], cache.fills_max == 0),
            (["cache", "fill_timeout"], cache.fill_timeout.is_zero()),
            (["cache", "list_entries_max"], cache.list_entries_max == 0),
            (["push", "manifest_max"], push.manifest_max_bytes == 0),
            (["push", "sessions_max"], push.sessions_max == 0),
            (["gc", "batch_max"], config.gc.batch_max == 0),
            (["log", "buffer"], config.log.buffer_bytes == 0),
            (["audit", "buffer"], config.audit.buffer_bytes == 0),
            (["push", "retention_every"], push.retention_every.is_zero()),
            (["push", "sessions_expire_after"], push.sessions_expire_after.is_zero()),
        ] {
            if is_zero {
                self.refuse(KeyPath::of(&keys), Fault::Zero);
            }
        }
        if http.proxy_protocol == ProxyProtocol::Required && http.trusted_proxies.is_empty() {
            self.refuse(KeyPath::of(&["http", "proxy_protocol"]), Fault::NoTrustedProxy);
        }
        self.server_tls(&http.tls);
        if storage.path.as_os_str().is_empty() {
            self.refuse(KeyPath::of(&["storage", "path"]), Fault::EmptyPath);
        }
        if tracing_subscriber::EnvFilter::builder().parse(&config.log.level).is_err() {
            let fault = Fault::LogFilter { filter: config.log.level.clone() };
            self.refuse(KeyPath::of(&["log", "level"]), fault);
        }
        for (index, name) in http.names.iter().enumerate() {
            if !is_host(name) {
                let path = KeyPath::of(&["http", "names"]).then(Step::Index(index));
                self.refuse(path, Fault::NotAHost { name: name.clone() });
            }
        }
        for (index, origin) in http.cors_origins.iter().enumerate() {
            if !is_cors_origin(origin) {
                let path = KeyPath::of(&["http", "cors_origins"]).then(Step::Index(index));
                self.refuse(path, Fault::CorsOrigin { origin: origin.clone() });
            }
        }
        self.globs(&KeyPath::of(&["overlay"]), &config.overlay);
        self.globs(&KeyPath::of(&["local_only"]), &config.local_only);
        self.quotas(&config.quotas);
        self.pins(&config.pin);
        self.retention(&config.retention);
        self.cache_within_storage(config);
    }

    /// A cache bound that was written must fit; the default one gives way to a smaller storage.
    fn cache_within_storage(&mut self, config: &mut Config) {
        let (cache, storage) = (config.cache.max_size, config.storage.max_size);
        let too_large = match (cache, storage) {
            (Limit::Bytes(cache), Limit::Bytes(storage)) => cache > storage,
            (Limit::Percent(cache), Limit::Percent(storage)) => cache > storage,
            _ => false,
        };
        let path = KeyPath::of(&["cache", "max_size"]);
        if too_large && self.tree.get(&path).is_none() {
            config.cache.max_size = storage;
        } else if too_large {
            self.refuse(path, Fault::CacheBeyondStorage { cache, storage });
        }
    }

    pub(super) fn globs(&mut self, list: &KeyPath, patterns: &[String]) {
        for (index, pattern) in patterns.iter().enumerate() {
            if let Err(error) = units::glob(pattern) {
                let fault = Fault::Pattern { pattern: pattern.clone(), reason: error.kind().clone() };
                self.refuse(list.clone().then(Step::Index(index)), fault);
            }
        }
    }

    /// What would be nothing at all as zero.
    fn not_zero(&mut self, name: &str, raw: &RawUpstream) {
        for (key, is_zero) in [
            ("connect_timeout", raw.connect_timeout.is_zero()),
            ("first_byte_timeout", raw.first_byte_timeout.is_zero()),
            ("no_progress_timeout", raw.no_progress_timeout.is_zero()),
            ("credential_timeout", raw.credential_timeout.is_zero()),
            ("parallel", raw.parallel == 0),
            ("piece_size", raw.piece_bytes == 0),
            ("connections_max", raw.connections_max == 0),
            ("bandwidth_max", raw.bandwidth_max_bytes == Some(0)),
            ("prefetch_max", raw.prefetch_max == 0),
            ("quota", raw.quota_bytes == Some(0)),
        ] {
            if is_zero {
                self.refuse(KeyPath::of(&["upstreams", name, key]), Fault::Zero);
            }
        }
    }

    fn upstream(&mut self, name: String, mut raw: RawUpstream, revalidate_after: Duration) -> Option<Upstream> {
        let path = |key: &str| KeyPath::of(&["upstreams", &name, key]);
        if !is_host(&name) {
            self.refuse(KeyPath::of(&["upstreams", &name]), Fault::NotAHost { name: name.clone() });
            return None;
        }
        self.not_zero(&name, &raw);
        for (index, host) in raw.hosts.iter().enumerate() {
            if !is_host(host) {
                self.refuse(path("hosts").then(Step::Index(index)), Fault::NotAHost { name: host.clone() });
            }
        }
        self.globs(&path("immutable_tags"), &raw.immutable_tags);
        let tags = self.tag_rules(&path("tags"), std::mem::take(&mut raw.tags));
        let sum = raw.connect_timeout.saturating_add(raw.first_byte_timeout);
        if sum > ANSWER_PROMISE {
            let fault = Fault::SlowTimeouts { sum, bound: ANSWER_PROMISE };
            self.warn(KeyPath::of(&["upstreams", &name]), fault);
        }
        self.realms(&name, &raw.realms);
        let route = self.route(path("proxy"), raw.proxy.take());
        let identity = raw.identity();
        let sources = self.sources(&name, raw.url.as_deref(), std::mem::take(&mut raw.urls), identity);
        let speaks_tls = |sources: &Vec<Source>| sources.iter().any(|source| source.url.scheme() == "https");
        let speaks_tls = sources.as_ref().is_none_or(speaks_tls);
        let tls = self.tls(&path("tls"), &name, std::mem::take(&mut raw.tls), speaks_tls);
        let mut further = sources?;
        self.clear_text(&name, &further);
        let Source { url, identity } = further.remove(0);
        Some(Upstream {
            url,
            identity,
            further,
            patience: Patience { timeout: raw.credential_timeout, lifetime: raw.credential_lifetime },
            realms: raw.realms,
            tls,
            route,
            send_ns: raw.send_ns,
            is_default: raw.default,
            hosts: raw.hosts,
            visibility: raw.visibility,
            access_ttl: raw.access_ttl,
            revalidate_after: raw.revalidate_after.unwrap_or(revalidate_after),
            revalidate_lists_after: raw.revalidate_lists_after,
            stale_for: raw.stale_for,
            stale_after_wait: raw.stale_after_wait,
            negative_ttl: raw.negative_ttl,
            rate_reserve: raw.rate_reserve,
            connect_timeout: raw.connect_timeout,
            first_byte_timeout: raw.first_byte_timeout,
            no_progress_timeout: raw.no_progress_timeout,
            retries: raw.retries,
            parallel: raw.parallel,
            piece_bytes: raw.piece_bytes,
            connections_max: raw.connections_max,
            bandwidth_max_bytes: raw.bandwidth_max_bytes,
            prefetch: raw.prefetch,
            prefetch_max: raw.prefetch_max,
            immutable_tags: raw.immutable_tags,
            tags,
            on_upstream_404: raw.on_upstream_404,
            quota_bytes: raw.quota_bytes,
            name,
        })
    }

    /// Warns of credentials that anybody on the way can read.
    fn clear_text(&mut self, name: &str, sources: &[Source]) {
        let path = |key: &str| KeyPath::of(&["upstreams", name, key]);
        for (index, source) in sources.iter().enumerate() {
            if source.identity != Identity::Anonymous && source.url.scheme() == "http" {
                let urls = path("urls");
                let at = if self.has(&urls) { urls.then(Step::Index(index)) } else { path("url") };
                self.warn(at, Fault::ClearTextPassword);
            }
        }
    }

    fn tag_rules(&mut self, list: &KeyPath, rules: Vec<RawTagRule>) -> Vec<TagRule> {
        let mut checked = Vec::with_capacity(rules.len());
        for (index, rule) in rules.into_iter().enumerate() {
            let path = list.clone().then(Step::Index(index));
            match (rule.pattern, rule.revalidate_after) {
                (None, _) => self.refuse(path, Fault::Missing { key: "pattern" }),
                (_, None) => self.refuse(path, Fault::Missing { key: "revalidate_after" }),
                (Some(pattern), Some(revalidate_after)) => {
                    if let Err(error) = units::glob(&pattern) {
                        let fault = Fault::Pattern { pattern: pattern.clone(), reason: error.kind().clone() };
                        self.refuse(path.then(Step::Key("pattern".to_owned())), fault);
                    }
                    checked.push(TagRule { pattern, revalidate_after });
                }
            }
        }
        checked
    }

    fn between_upstreams(&mut self, upstreams: &[Upstream]) {
        let mut defaults = upstreams.iter().filter(|upstream| upstream.is_default);
        if let Some(first) = defaults.next() {
            for other in defaults {
                let path = KeyPath::of(&["upstreams", &other.name, "default"]);
                self.refuse(path, Fault::TwoDefaults { first: first.name.clone() });
            }
        }
        let mut taken: HashMap<&str, &str> = HashMap::new();
        for upstream in upstreams {
            for (index, host) in upstream.hosts.iter().enumerate() {
                if let Some(first) = taken.insert(host, &upstream.name) {
                    let path = KeyPath::of(&["upstreams", &upstream.name, "hosts"]).then(Step::Index(index));
                    self.refuse(path, Fault::HostTaken { host: host.clone(), first: first.to_owned() });
                }
            }
        }
    }
}

/// `host` or `host:port` as it stands in an image name: lower case, labels of letters, digits and inner hyphens.
pub(super) fn is_host(text: &str) -> bool {
    let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    let is_label = |label: &str| {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        !label.is_empty()
            && label.len() <= 63
            && label.chars().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let is_port =
        |port: &str| port.chars().all(|c| c.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|number| number > 0);
    host.len() <= 253 && host.split('.').all(is_label) && port.is_none_or(is_port)
}

fn is_cors_origin(text: &str) -> bool {
    text == "*"
        || Url::parse(text).is_ok_and(|url| url.origin().is_tuple() && url.origin().ascii_serialization() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_what_image_names_begin_with() {
        for host in ["ghcr.io", "registry", "localhost:5000", "10.0.0.1:443", "a-b.c0"] {
            assert!(is_host(host), "{host}");
        }
        for text in [
            "",
            "GHCR.io",
            "https://ghcr.io",
            "ghcr.io/",
            "ghcr.io:",
            "a:0",
            "a:65536",
            "a:+1",
            "-a.b",
            "a..b",
            "[::1]:5000",
            "a b",
        ] {
            assert!(!is_host(text), "{text}");
        }
    }

    #[test]
    fn cors_origins_are_scheme_host_and_port_only() {
        for origin in ["*", "https://ui.example.com", "http://localhost:8080"] {
            assert!(is_cors_origin(origin), "{origin}");
        }
        for text in ["", "ui.example.com", "https://ui.example.com/", "https://*.example.com/x", "data:x"] {
            assert!(!is_cors_origin(text), "{text}");
        }
    }
}
