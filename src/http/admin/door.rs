//! Who may look inside and steer: the one place that decides it.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::http::forwarded::contain;
use crate::http::request::Asked;

/// Lets requests in by the address they come from.
#[derive(Clone, Debug)]
pub struct Door {
    from: Vec<IpNet>,
}

/// Why a request is not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Its address is in none of the networks.
    #[error("only addresses in http.admin_from may do this, and {peer} is not: add it there, or ask from this machine")]
    Address {
        /// The address.
        peer: IpAddr,
    },
    /// It came through a proxy that nobody trusts, or that does not say from where.
    #[error(
        "this came through a proxy (it has the header {header}), whose address says nothing about who asks: \
         ask this server directly, from an address in http.admin_from, or name the proxy in http.trusted_proxies"
    )]
    Forwarded {
        /// The header that says so.
        header: &'static str,
    },
    /// A trusted proxy sent it and does not say for whom.
    #[error(
        "{peer} is in http.trusted_proxies, and this request does not say for whom it comes from there: have the proxy set \
         X-Forwarded-For, ask as an administrator (auth.admins), or ask from another address in http.admin_from"
    )]
    Proxy {
        /// The proxy.
        peer: IpAddr,
    },
    /// It has the right address and calls us by a name that may be somebody else's.
    #[error("{}", foreign_name(host))]
    Name {
        /// The name.
        host: String,
    },
    /// Nobody knows where it came from.
    #[error("only addresses in http.admin_from may do this, and this request has none")]
    Unknown,
}

impl Door {
    /// Open to these networks.
    pub fn new(from: Vec<IpNet>) -> Self {
        Self { from }
    }

    /// May the caller look inside and steer? What a trusted proxy sends on comes from where that one says. An address alone
    /// proves nothing of a browser that was led here by somebody else's name.
    pub fn admit(&self, asked: &Asked) -> Result<(), Denied> {
        if let Some(header) = asked.client.unvouched {
            return Err(Denied::Forwarded { header });
        }
        let address = asked.client.address.ok_or(Denied::Unknown)?;
        // One that says nothing may speak for anybody.
        if asked.client.is_proxy {
            return Err(Denied::Proxy { peer: address });
        }
        if !contain(&self.from, address) {
            return Err(Denied::Address { peer: address });
        }
        if !asked.is_well_named {
            return Err(Denied::Name { host: asked.reached_by().unwrap_or_default().to_owned() });
        }
        Ok(())
    }
}

/// What is told to who calls us by a name that may be somebody else's.
pub fn foreign_name(host: &str) -> String {
    let host: String = host.chars().take(80).collect();
    format!(
        "the Host of this request is {host}, which may be anybody's name for this server, so that a web page can have sent \
         it: use an address or localhost, or add the name to http.names"
    )
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::http::OwnNames;
    use crate::http::forwarded::Client;
    use crate::http::request::Arrived;

    fn asked(peer: Option<&str>, headers: &[(&'static str, &str)]) -> Asked {
        asked_through(&[], peer, headers)
    }

    fn asked_through(trusted: &[&str], peer: Option<&str>, headers: &[(&'static str, &str)]) -> Asked {
        let mut request = http::Request::get("/api/v1/fills");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(axum::body::Body::empty()).unwrap();
        let peer = peer.map(|peer| peer.parse::<SocketAddr>().unwrap().ip());
        let trusted: Vec<IpNet> = trusted.iter().map(|network| network.parse().unwrap()).collect();
        let client = Client::of(peer, false, request.headers(), &trusted);
        Asked::new(request, Arrived { client, ..Arrived::default() }, &OwnNames::default()).0
    }

    #[test]
    fn an_address_gets_in_by_its_network_alone() {
        let loopback: &[&str] = &["127.0.0.0/8", "::1/128"];
        for (from, peer, admitted) in [
            (loopback, "127.0.0.1:40000", true),
            (loopback, "127.8.8.8:40000", true),
            (loopback, "[::1]:40000", true),
            (loopback, "[::ffff:127.0.0.1]:40000", true),
            (loopback, "[::2]:40000", false),
            (loopback, "10.0.0.1:40000", false),
            (loopback, "[::ffff:10.0.0.1]:40000", false),
            (&["10.0.0.0/8"], "10.200.0.1:1", true),
            (&["10.0.0.0/8"], "11.0.0.1:1", false),
            (&["10.0.0.0/8"], "127.0.0.1:1", false),
            (&["fd00::/8"], "[fd12::1]:1", true),
            (&["0.0.0.0/0"], "[fd12::1]:1", false),
            (&[], "127.0.0.1:1", false),
        ] {
            let door = Door::new(from.iter().map(|network| network.parse().unwrap()).collect());
            assert_eq!(door.admit(&asked(Some(peer), &[])).is_ok(), admitted, "{peer} with {from:?}");
        }
    }

    #[test]
    fn the_refusal_names_the_address_and_the_key() {
        let refusal = Door::new(vec![]).admit(&asked(Some("[::ffff:10.0.0.7]:1"), &[])).unwrap_err().to_string();
        assert!(refusal.contains("http.admin_from") && refusal.contains(" 10.0.0.7 "), "{refusal}");
        assert_eq!(Door::new(vec![]).admit(&asked(None, &[])), Err(Denied::Unknown));
    }

    #[test]
    fn a_proxy_in_front_lets_nobody_in() {
        let door = Door::new(vec!["0.0.0.0/0".parse().unwrap()]);
        for header in ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "via"] {
            let forwarded = asked(Some("127.0.0.1:1"), &[(header, "10.0.0.1")]);
            assert_eq!(door.admit(&forwarded), Err(Denied::Forwarded { header }));
        }
    }

    #[test]
    fn behind_a_trusted_proxy_the_address_it_names_counts() {
        let door = Door::new(vec!["127.0.0.0/8".parse().unwrap(), "192.0.2.0/24".parse().unwrap()]);
        for (forwarded, admitted) in
            [("192.0.2.7", true), ("198.51.100.1", false), ("127.0.0.1, 198.51.100.1", false), ("somebody", false)]
        {
            let asked = asked_through(&["10.0.0.1/32"], Some("10.0.0.1:1"), &[("x-forwarded-for", forwarded)]);
            assert_eq!(door.admit(&asked).is_ok(), admitted, "{forwarded}");
        }
        let local = asked_through(&["127.0.0.1/32"], Some("127.0.0.1:1"), &[("x-forwarded-for", "198.51.100.1")]);
        assert!(door.admit(&local).is_err(), "a proxy on this machine lends its address to nobody");
        for headers in [&[][..], &[("x-forwarded-for", "127.0.0.1")]] {
            let silent = asked_through(&["127.0.0.1/32"], Some("127.0.0.1:1"), headers);
            let denied = Denied::Proxy { peer: "127.0.0.1".parse().unwrap() };
            assert_eq!(door.admit(&silent), Err(denied), "it does not say for whom it asks");
        }
    }
}
