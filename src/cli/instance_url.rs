//! Where an instance is: what `--url` and `--server` take.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use url::Url;

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

    /// The address as a URL.
    pub fn as_url(&self) -> &Url {
        &self.0
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
