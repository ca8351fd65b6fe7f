//! The HTTP clients of one source, each made when it is first needed.
//!
//! They differ in three ways. Short questions share connections, HTTP/2 where TLS agrees on it; blobs have one each, on
//! HTTP/1.1, instead of all sharing one and its flow-control window. The source's own host sees our certificate, and it
//! alone may be believed without proof; where it sends us gets neither. And `HTTP_PROXY` in the environment must not
//! catch what never leaves the machine.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reqwest::{Client, ClientBuilder, Identity, Proxy};
use secrecy::ExposeSecret;
use url::Url;

use super::error::Error;
use super::options::{Options, Route, Tls};
use super::transport::Kind;
use crate::oci::Host;
use crate::outbound::{self, is_loopback};

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

    fn make(&self, purpose: Purpose) -> reqwest::Result<Client> {
        outbound::client(self.tls.ca.as_deref(), || self.settings(purpose))
    }

    fn settings(&self, purpose: Purpose) -> reqwest::Result<ClientBuilder> {
        let builder = outbound::settings()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_purpose_has_a_client_of_its_own() {
        let mut slots: Vec<usize> = (0..8)
            .map(|bits| Purpose { is_blob: bits & 1 > 0, is_own_host: bits & 2 > 0, is_direct: bits & 4 > 0 }.slot())
            .collect();
        slots.sort_unstable();
        assert_eq!(slots, (0..8).collect::<Vec<_>>());
    }
}
