//! What every HTTP client of this server has in common: whom it believes, what it follows, and what it says of itself.

use reqwest::{Certificate, Client, ClientBuilder, redirect};
use url::Url;

const USER_AGENT: &str = concat!("entrepot/", env!("CARGO_PKG_VERSION"));

/// A client before it knows whom to believe. It follows no redirect and tells nobody where it came from. Bodies are never
/// decoded, whatever features another crate switches on: digests and ranges are those of the bytes sent.
pub fn settings() -> ClientBuilder {
    Client::builder()
        .user_agent(USER_AGENT)
        .no_gzip()
        .no_brotli()
        .no_deflate()
        .no_zstd()
        .redirect(redirect::Policy::none())
        .referer(false)
}

/// A client that believes the authorities of this machine and those of `ca`, which is PEM. Without a CA store on the machine
/// the builder fails, even for hosts without TLS; then Mozilla's roots, which are compiled in, take its place.
pub fn client(ca: Option<&str>, settings: impl Fn() -> reqwest::Result<ClientBuilder>) -> reqwest::Result<Client> {
    let own = match ca {
        Some(pem) => Certificate::from_pem_bundle(pem.as_bytes())?,
        None => Vec::new(),
    };
    let with_own = settings()?.tls_certs_merge(own.clone()).build();
    with_own.or_else(|error| {
        tracing::warn!(%error, "no certificate authorities on this machine, using the built-in ones");
        settings()?.tls_certs_only(built_in_authorities().into_iter().chain(own)).build()
    })
}

/// Does it never leave this machine? `HTTP_PROXY` in the environment must not catch that.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

fn built_in_authorities() -> Vec<Certificate> {
    webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().filter_map(|der| Certificate::from_der(der).ok()).collect()
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
}
