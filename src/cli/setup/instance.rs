//! This instance as its clients see it: where it is, and which registries it stands for.

use url::Url;

use super::SetupFile;
use crate::cli::instance_url::InstanceUrl;
use crate::config::{Config, Visibility};

/// The one registry whose images Docker asks a mirror for.
pub const DOCKER_HUB: &str = "docker.io";

/// Where clients reach this instance, and for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Scheme, host and port, without a slash at the end.
    pub url: String,
    /// What stands for it in a reference: `127.0.0.1:5000`.
    pub authority: String,
    /// Is it asked without TLS?
    pub is_plain: bool,
    /// Is it on the client's own machine? Most clients then ask for no TLS.
    pub is_loopback: bool,
    /// The authority of its certificate, if it is one of our own making (`entrepot setup tls`), as PEM.
    pub authority_pem: Option<String>,
    /// Do its clients sign in?
    pub has_accounts: bool,
    /// The upstreams, in the order of their names.
    pub upstreams: Vec<Origin>,
}

/// An upstream as clients know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The host in its images' names.
    pub name: String,
    /// Where a client would ask it itself.
    pub url: String,
    /// Are names without a host its names?
    pub is_default: bool,
    /// Do those who pull need credentials of their own there?
    pub is_guarded: bool,
    /// The Host headers that mean it.
    pub hosts: Vec<String>,
}

impl Instance {
    /// The instance that `config` describes, at `url` or else where it listens.
    pub fn new(config: &Config, url: Option<&InstanceUrl>) -> Self {
        let url = url.cloned().unwrap_or_else(|| InstanceUrl::of(config));
        Self {
            authority: authority(url.as_url()),
            is_plain: url.as_url().scheme() == "http",
            is_loopback: url.is_loopback(),
            authority_pem: None,
            has_accounts: config.auth.is_some(),
            upstreams: config.upstreams.iter().map(Origin::of).collect(),
            url: url.origin(),
        }
    }

    /// Images of its upstreams that surely exist, by their full names.
    pub fn known_images(&self) -> impl Iterator<Item = String> {
        let known = self.upstreams.iter().filter_map(|upstream| Some((upstream, upstream.known_image()?)));
        known.map(|(upstream, image)| format!("{}/{image}", upstream.name))
    }

    /// The upstream of this name.
    pub fn upstream(&self, name: &str) -> Option<&Origin> {
        self.upstreams.iter().find(|upstream| upstream.name == name)
    }

    /// Must clients be told that it speaks no TLS, because they would not guess?
    pub const fn needs_insecure(&self) -> bool {
        self.is_plain && !self.is_loopback
    }

    /// The file that makes a client believe the certificate, where one is needed.
    pub fn authority_file(&self, path: impl Into<String>) -> Option<SetupFile> {
        let content = self.authority_pem.clone()?;
        Some(SetupFile { path: path.into(), content })
    }

    /// What a client must be told if nobody knows who made the certificate.
    pub fn authority_note(&self, note: impl Into<String>) -> Option<String> {
        (!self.is_plain && self.authority_pem.is_none()).then(|| note.into())
    }

    /// What stands for it in a reference under another name of its own, which is on the same port unless it says otherwise.
    pub fn by_name(&self, host: &str) -> String {
        match self.authority.rsplit_once(':') {
            Some((_, port)) if !host.contains(':') => format!("{host}:{port}"),
            _ => host.to_owned(),
        }
    }

    /// A reference through this instance that names the registry: it works with every client, whatever is configured.
    pub fn by_prefix(&self, upstream: &Origin) -> String {
        format!("{}/{}/{}", self.authority, upstream.name, upstream.known_image().unwrap_or("NAME:TAG"))
    }
}

impl Origin {
    fn of(upstream: &crate::config::Upstream) -> Self {
        // Where we fetch from may be a place of our own; a client that goes past us goes to the registry itself.
        let fetched_from = authority(&upstream.url) == upstream.name && upstream.url.path() == "/";
        let url = match upstream.name.as_str() {
            DOCKER_HUB => "https://registry-1.docker.io".to_owned(),
            _ if fetched_from => upstream.url.origin().ascii_serialization(),
            name => format!("https://{name}"),
        };
        Self {
            name: upstream.name.clone(),
            url,
            is_default: upstream.is_default,
            is_guarded: upstream.visibility == Visibility::Passthrough,
            hosts: upstream.hosts.clone(),
        }
    }

    fn known_image(&self) -> Option<&'static str> {
        match self.name.as_str() {
            DOCKER_HUB => Some("library/alpine:latest"),
            "registry.k8s.io" => Some("pause:3.10"),
            _ => None,
        }
    }
}

/// Host and port as references write them. A host without a dot is taken for a folder unless a port tells otherwise.
fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = match url.port() {
        None if !host.contains(['.', ':']) && host != "localhost" => url.port_or_known_default(),
        port => port,
    };
    port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(url: &str) -> Instance {
        Instance::new(&Config::default(), Some(&url.parse().unwrap()))
    }

    #[test]
    fn an_address_says_how_it_is_asked() {
        for (url, shown, authority, plain, loopback) in [
            ("http://127.0.0.1:5000", "http://127.0.0.1:5000", "127.0.0.1:5000", true, true),
            ("http://localhost:5000/", "http://localhost:5000", "localhost:5000", true, true),
            ("http://[::1]:5000", "http://[::1]:5000", "[::1]:5000", true, true),
            ("http://mirror.lan", "http://mirror.lan", "mirror.lan", true, false),
            ("http://mirror", "http://mirror", "mirror:80", true, false),
            ("https://mirror", "https://mirror", "mirror:443", false, false),
            ("https://mirror.lan:8443", "https://mirror.lan:8443", "mirror.lan:8443", false, false),
        ] {
            let instance = at(url);
            assert_eq!((instance.url.as_str(), instance.authority.as_str()), (shown, authority), "{url}");
            assert_eq!((instance.is_plain, instance.is_loopback), (plain, loopback), "{url}");
        }
    }

    #[test]
    fn without_an_address_it_is_where_it_listens() {
        for (listen, url) in [
            ("127.0.0.1:5000", "http://127.0.0.1:5000"),
            ("0.0.0.0:80", "http://127.0.0.1"),
            ("[::]:5000", "http://[::1]:5000"),
            ("10.0.0.7:5000", "http://10.0.0.7:5000"),
        ] {
            let mut config = Config::default();
            config.http.listen = listen.parse().unwrap();
            assert_eq!(Instance::new(&config, None).url, url, "{listen}");
        }
    }

    #[test]
    fn a_client_that_goes_past_us_goes_to_the_registry_itself() {
        let mut config = Config::default();
        let mut upstream = config.upstreams.swap_remove(0);
        for (name, url, shown) in [
            ("docker.io", "http://10.0.0.1:5000", "https://registry-1.docker.io"),
            ("ghcr.io", "https://ghcr.io", "https://ghcr.io"),
            ("ghcr.io", "https://cache.lan", "https://ghcr.io"),
            ("registry.lan:5000", "http://registry.lan:5000", "http://registry.lan:5000"),
            ("registry.lan:5000", "http://registry.lan:5000/sub/", "https://registry.lan:5000"),
        ] {
            name.clone_into(&mut upstream.name);
            upstream.url = url.parse().unwrap();
            assert_eq!(Origin::of(&upstream).url, shown, "{name} at {url}");
        }
    }
}
