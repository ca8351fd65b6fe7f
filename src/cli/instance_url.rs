//! Where an instance is: what `--url` and `--server` take.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use http::HeaderValue;
use url::{Host, Url};

use crate::config::{self, Config};
use crate::storage::Issuance;

/// The address of an instance: scheme, host and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceUrl {
    url: Url,
    certificate: Option<PathBuf>,
    login: Option<HeaderValue>,
}

/// A text that is no address of an instance.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an address is of the form http://HOST:PORT or https://HOST, with nothing before the host or behind the port")]
pub struct InstanceUrlInvalid;

impl InstanceUrl {
    /// The port of a server that is configured so, as seen from its own machine. With TLS it is known by its certificate,
    /// whatever that is for and whoever issued it: see [`InstanceUrl::certificate`].
    pub fn of(config: &Config) -> Self {
        let config::Http { listen, tls, .. } = &config.http;
        let scheme = if tls.is_on() { "https" } else { "http" };
        let url = Url::parse(&format!("{scheme}://{}", reachable(*listen)));
        // Before the first one is issued nobody can be known by it, and no server answers.
        let issued = tls.acme.as_ref().map(|_| Issuance::Certificate.path(&config.storage.path));
        let issued = issued.filter(|file| file.exists());
        Self {
            url: url.expect("a socket's address is a host and a port"),
            certificate: tls.certificate.clone().or(issued),
            login: None,
        }
    }

    /// The file with the certificate that the server there shows, where that is known.
    pub fn certificate(&self) -> Option<&Path> {
        self.certificate.as_deref()
    }

    /// The same as somebody: `login` goes with every request, as `Authorization`.
    #[must_use]
    pub fn with_login(self, login: HeaderValue) -> Self {
        Self { login: Some(login), ..self }
    }

    /// Who says it is who.
    pub const fn login(&self) -> Option<&HeaderValue> {
        self.login.as_ref()
    }

    /// Can nobody on the way read what is sent there?
    pub fn keeps_secrets(&self) -> bool {
        self.url.scheme() == "https" || self.is_loopback()
    }

    /// Is it on this machine?
    pub fn is_loopback(&self) -> bool {
        match self.url.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(ip)) => ip.is_loopback(),
            Some(Host::Ipv6(ip)) => ip.is_loopback(),
            None => false,
        }
    }

    /// The address as a URL.
    pub fn as_url(&self) -> &Url {
        &self.url
    }

    /// Scheme, host and port, without a slash at the end.
    pub fn origin(&self) -> String {
        self.url.origin().ascii_serialization()
    }
}

impl FromStr for InstanceUrl {
    type Err = InstanceUrlInvalid;

    fn from_str(text: &str) -> Result<Self, InstanceUrlInvalid> {
        let url = Url::parse(text).map_err(|_| InstanceUrlInvalid)?;
        let is_http = matches!(url.scheme(), "http" | "https") && url.has_host();
        let is_bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        let is_anonymous = url.username().is_empty() && url.password().is_none();
        if is_http && is_bare && is_anonymous {
            Ok(Self { url, certificate: None, login: None })
        } else {
            Err(InstanceUrlInvalid)
        }
    }
}

impl fmt::Display for InstanceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.origin())
    }
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
}
