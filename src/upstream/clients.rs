//! The HTTP clients under an upstream: one that respects the system's proxies, one that goes straight to loopback.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Certificate, Client, ClientBuilder, redirect};
use url::Url;

use super::error::Error;
use crate::oci::Host;

const USER_AGENT: &str = concat!("entrepot/", env!("CARGO_PKG_VERSION"));

/// An idle connection older than this has often been closed by something in between.
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);

/// Idle connections kept for each host.
const IDLE_MAX: usize = 32;

pub struct Clients {
    system: Client,
    /// Same settings without any proxy: `HTTP_PROXY` in the environment must not catch what never leaves the machine.
    loopback: Client,
}

impl Clients {
    pub fn new(host: &Host, connect_timeout: Duration) -> Result<Self, Error> {
        let build = |direct: bool| {
            build(direct, connect_timeout)
                .map_err(|source| Error::Setup { host: host.clone(), source: Arc::new(source.without_url()) })
        };
        Ok(Self { system: build(false)?, loopback: build(true)? })
    }

    /// The client to ask this URL with.
    pub fn for_url(&self, url: &Url) -> &Client {
        if is_loopback(url) { &self.loopback } else { &self.system }
    }
}

/// Without a CA store on the machine the builder fails, even for upstreams without TLS; then Mozilla's roots, which are
/// compiled in, take its place.
fn build(direct: bool, connect_timeout: Duration) -> reqwest::Result<Client> {
    settings(direct, connect_timeout).build().or_else(|error| {
        tracing::warn!(%error, "no certificate authorities on this machine, using the built-in ones");
        settings(direct, connect_timeout).tls_certs_only(built_in_authorities()).build()
    })
}

/// HTTP/1.1 only: every blob has a connection of its own, instead of all sharing one and its flow-control window.
/// Bodies are never decoded, whatever features another crate switches on: digests and ranges are those of the bytes sent.
fn settings(direct: bool, connect_timeout: Duration) -> ClientBuilder {
    let builder = Client::builder()
        .user_agent(USER_AGENT)
        .http1_only()
        .no_gzip()
        .no_brotli()
        .no_deflate()
        .no_zstd()
        .redirect(redirect::Policy::none())
        .referer(false)
        .connect_timeout(connect_timeout)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(IDLE_MAX);
    if direct { builder.no_proxy() } else { builder }
}

fn built_in_authorities() -> Vec<Certificate> {
    webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().filter_map(|der| Certificate::from_der(der).ok()).collect()
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_write_loopback_is_recognised() {
        for text in [
            "http://127.0.0.1:5000",
            "http://127.9.9.9",
            "http://[::1]:5000",
            "https://localhost",
            "http://a.localhost",
        ] {
            assert!(is_loopback(&Url::parse(text).unwrap()), "{text}");
        }
        for text in ["https://ghcr.io", "http://10.0.0.1", "http://localhost.example", "http://[::2]"] {
            assert!(!is_loopback(&Url::parse(text).unwrap()), "{text}");
        }
    }

    #[test]
    fn the_built_in_authorities_make_a_client() {
        assert!(built_in_authorities().len() > 50);
        let built = settings(false, Duration::from_secs(1)).tls_certs_only(built_in_authorities()).build();
        assert!(built.is_ok(), "{built:?}");
    }
}
