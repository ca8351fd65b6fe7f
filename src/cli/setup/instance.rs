//! This instance as its clients see it: where it is, and which registries it stands for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use url::{Host, Url};

use crate::config::Config;

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
}

/// The address of an instance: scheme, host and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceUrl(Url);

/// A text that is no address of an instance.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an address is of the form http://HOST:PORT or https://HOST, with nothing before the host or behind the port")]
pub struct InstanceUrlInvalid;

impl InstanceUrl {
    /// The plain port of a server that listens here, as seen from its own machine.
    pub fn of(listen: SocketAddr) -> Self {
        format!("http://{}", reachable(listen)).parse().expect("a socket's address is a host and a port")
    }

    /// Scheme, host and port, without a slash at the end.
    pub fn origin(&self) -> String {
        self.0.origin().ascii_serialization()
    }
}

impl FromStr for InstanceUrl {
    type Err = InstanceUrlInvalid;

    fn from_str(text: &str) -> Result<Self, InstanceUrlInvalid> {
        let url = Url::parse(text).map_err(|_| InstanceUrlInvalid)?;
        let is_http = matches!(url.scheme(), "http" | "https") && url.has_host();
        let is_bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        let is_anonymous = url.username().is_empty() && url.password().is_none();
        if is_http && is_bare && is_anonymous { Ok(Self(url)) } else { Err(InstanceUrlInvalid) }
    }
}

impl Instance {
    /// The instance that `config` describes, at `url` or else where it listens.
    pub fn new(config: &Config, url: Option<&InstanceUrl>) -> Self {
        let url = url.cloned().unwrap_or_else(|| InstanceUrl::of(config.http.listen));
        let is_loopback = match url.0.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(ip)) => ip.is_loopback(),
            Some(Host::Ipv6(ip)) => ip.is_loopback(),
            None => false,
        };
        Self {
            authority: authority(&url.0),
            is_plain: url.0.scheme() == "http",
            is_loopback,
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
        Self { name: upstream.name.clone(), url, is_default: upstream.is_default }
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

/// An address to connect to, for one to listen on: all addresses include loopback.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
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
    fn what_no_client_can_be_given_is_refused() {
        for url in [
            "",
            "mirror.lan:5000",
            "ftp://mirror.lan",
            "http://mirror.lan/sub",
            "http://me:secret@mirror.lan",
            "http://mirror.lan?a=b",
        ] {
            assert_eq!(url.parse::<InstanceUrl>(), Err(InstanceUrlInvalid), "{url}");
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
