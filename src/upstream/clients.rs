//! The HTTP clients of one source, each made when it is first needed.
//!
//! They differ in three ways. Short questions share connections, HTTP/2 where TLS agrees on it; blobs have one each, on
//! HTTP/1.1, instead of all sharing one and its flow-control window. The source's own host sees our certificate, and it
//! alone may be believed without proof; where it sends us gets neither. And `HTTP_PROXY` in the environment must not
//! catch what never leaves the machine.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reqwest::{Certificate, Client, ClientBuilder, Identity, Proxy, redirect};
use secrecy::ExposeSecret;
use url::Url;

use super::error::Error;
use super::options::{Options, Route, Tls};
use super::transport::Kind;
use crate::oci::Host;

const USER_AGENT: &str = concat!("entrepot/", env!("CARGO_PKG_VERSION"));

/// An idle connection older than this has often been closed by something in between.
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);

/// Idle connections kept for each host.
const IDLE_MAX: usize = 32;

/// An HTTP/2 connection that carries a request and is silent for so long is asked whether it still lives.
const PING_AFTER: Duration = Duration::from_secs(10);

/// How long it may take to say so.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

pub struct Clients {
    host: Host,
    origin: Url,
    tls: Tls,
    route: Route,
    connect_timeout: Duration,
    made: [OnceLock<Client>; 8],
}

/// What a client is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Purpose {
    is_blob: bool,
    is_own_host: bool,
    is_direct: bool,
}

impl Purpose {
    fn slot(self) -> usize {
        usize::from(self.is_blob) | usize::from(self.is_own_host) << 1 | usize::from(self.is_direct) << 2
    }
}

impl Clients {
    /// Makes the client that is needed first, so that what is wrong with the settings is known at the start.
    pub fn new(options: &Options, origin: &Url) -> Result<Self, Error> {
        let clients = Self {
            host: options.host.clone(),
            origin: origin.clone(),
            tls: options.tls.clone(),
            route: options.route.clone(),
            connect_timeout: options.connect_timeout,
            made: Default::default(),
        };
        clients.for_url(origin, Kind::Metadata)?;
        Ok(clients)
    }

    /// Clients for one host that is no registry; `host` is what the operator calls it.
    pub fn to(host: Host, url: &Url, tls: Tls, route: Route, connect_timeout: Duration) -> Result<Self, Error> {
        let clients = Self { host, origin: url.clone(), tls, route, connect_timeout, made: Default::default() };
        clients.for_url(url, Kind::Metadata)?;
        Ok(clients)
    }

    /// The client to ask this URL with.
    pub fn for_url(&self, url: &Url, kind: Kind) -> Result<&Client, Error> {
        // Without settings of its own a host is treated like any other, by the same client.
        let is_special = self.tls.insecure || self.tls.identity.is_some();
        let purpose = Purpose {
            is_blob: kind == Kind::Blob,
            is_own_host: is_special && url.host() == self.origin.host(),
            is_direct: matches!(self.route, Route::System) && is_loopback(url),
        };
        let slot = &self.made[purpose.slot()];
        if let Some(client) = slot.get() {
            return Ok(client);
        }
        let client = self.make(purpose).map_err(|error| {
            let source = Arc::new(error.without_url());
            Error::Setup { host: self.host.clone(), source }
        })?;
        Ok(slot.get_or_init(|| client))
    }

    /// Without a CA store on the machine the builder fails, even for upstreams without TLS; then Mozilla's roots, which
    /// are compiled in, take its place.
    fn make(&self, purpose: Purpose) -> reqwest::Result<Client> {
        let own = match &self.tls.ca {
            Some(pem) => Certificate::from_pem_bundle(pem.as_bytes())?,
            None => Vec::new(),
        };
        let with_own = self.settings(purpose)?.tls_certs_merge(own.clone()).build();
        with_own.or_else(|error| {
            tracing::warn!(%error, "no certificate authorities on this machine, using the built-in ones");
            self.settings(purpose)?.tls_certs_only(built_in_authorities().into_iter().chain(own)).build()
        })
    }

    /// Bodies are never decoded, whatever features another crate switches on: digests and ranges are those of the bytes
    /// sent.
    fn settings(&self, purpose: Purpose) -> reqwest::Result<ClientBuilder> {
        let builder = Client::builder()
            .user_agent(USER_AGENT)
            .no_gzip()
            .no_brotli()
            .no_deflate()
            .no_zstd()
            .redirect(redirect::Policy::none())
            .referer(false)
            .connect_timeout(self.connect_timeout)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_MAX);
        let builder = if purpose.is_blob {
            builder.http1_only()
        } else {
            builder
                .http2_adaptive_window(true)
                .http2_keep_alive_interval(PING_AFTER)
                .http2_keep_alive_timeout(PING_TIMEOUT)
        };
        let builder = match &self.route {
            Route::System if purpose.is_direct => builder.no_proxy(),
            Route::System => builder,
            Route::Direct => builder.no_proxy(),
            Route::Through(url) => builder.proxy(Proxy::all(url.expose_secret())?),
        };
        if !purpose.is_own_host {
            return Ok(builder);
        }
        let builder = builder.tls_danger_accept_invalid_certs(self.tls.insecure);
        Ok(match &self.tls.identity {
            Some(pem) => builder.identity(Identity::from_pem(pem.expose_secret().as_bytes())?),
            None => builder,
        })
    }
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
        let built = Client::builder().tls_certs_only(built_in_authorities()).build();
        assert!(built.is_ok(), "{built:?}");
    }

    #[test]
    fn every_purpose_has_a_client_of_its_own() {
        let mut slots: Vec<usize> = (0..8)
            .map(|bits| Purpose { is_blob: bits & 1 > 0, is_own_host: bits & 2 > 0, is_direct: bits & 4 > 0 }.slot())
            .collect();
        slots.sort_unstable();
        assert_eq!(slots, (0..8).collect::<Vec<_>>());
    }
}
