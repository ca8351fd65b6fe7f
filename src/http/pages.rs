//! Web pages: any page that an operator looks at can have the browser send requests here, from an address that is trusted.
//!
//! Two things tell such a request from a command's. Browsers say where a page comes from (`Origin`, `Sec-Fetch-Site`);
//! programs say nothing of the kind. And a page whose own name was made to lead here (DNS rebinding) calls us by that
//! name, where a program calls us by an address or by a name that we have.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use http::header::{HeaderName, ORIGIN};

use super::request::Asked;

/// The rule that turns foreign pages away, in the words of the audit log.
pub const RULE: &str = "web_page";

static SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The names by which this server is known.
#[derive(Clone, Debug, Default)]
pub struct OwnNames(Vec<String>);

/// A request that a page of somebody else's had the browser send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    header: &'static str,
    said: String,
}

impl OwnNames {
    /// These names, with or without a port.
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        Self(names.into_iter().map(|name| without_port(&name).to_ascii_lowercase()).collect())
    }

    /// Can no stranger have made this name lead here? Addresses and `localhost` are nobody's, a name without a dot is none
    /// of the internet's, and the others are configured. `host` is in lower case and may have a port.
    pub fn have(&self, host: &str) -> bool {
        let name = without_port(host).trim_end_matches('.');
        let is_address = |text: &str| text.parse::<IpAddr>().is_ok();
        let bracketed = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        bracketed.is_some_and(|inner| inner.parse::<Ipv6Addr>().is_ok())
            || is_address(name)
            || !name.contains('.')
            || name.ends_with(".localhost")
            || self.0.iter().any(|own| own == name)
    }
}

/// The page that sent a request, if one did that is neither ours nor one of `named`. A page of another port or scheme of our
/// host is `same-site`, which is not ours.
pub fn foreign(asked: &Asked, named: &[String]) -> Option<Foreign> {
    let said = |header: &HeaderName| asked.headers.get_all(header).iter();
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let own = asked.reached_by();
    let mut is_named = false;
    for origin in said(&ORIGIN).map(text) {
        let has_our_host = own.as_ref().is_some_and(|own| host_of(&origin) == Some(without_default_port(own)));
        is_named |= named.contains(&origin);
        if !has_our_host && !named.contains(&origin) {
            return Some(Foreign { header: "Origin", said: origin });
        }
    }
    let mut sites = said(&SEC_FETCH_SITE).map(text);
    let is_foreign = |site: &String| !is_named && !matches!(site.as_str(), "same-origin" | "none");
    sites.find(is_foreign).map(|said| Foreign { header: "Sec-Fetch-Site", said })
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said: String = self.said.chars().take(80).collect();
        write!(f, "a web page of somebody else had the browser send this (it has the header {}: {said})", self.header)
    }
}

/// Host and port of an origin; `null` has none.
fn host_of(origin: &str) -> Option<&str> {
    origin.split_once("://").map(|(_, host)| without_default_port(host))
}

fn without_default_port(host: &str) -> &str {
    host.strip_suffix(":443").or_else(|| host.strip_suffix(":80")).unwrap_or(host)
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => {
            // An IPv6 address has colons of its own, and brackets where a port follows.
            if name.contains(':') && !name.ends_with(']') { host } else { name }
        }
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::request::Arrived;

    fn asked(host: &str, headers: &[(&str, &str)]) -> Asked {
        let mut request = http::Request::post("/api/v1/gc").header("host", host);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Asked::new(request.body(axum::body::Body::empty()).unwrap(), Arrived::default(), &OwnNames::default()).0
    }

    #[test]
    fn a_page_is_ours_if_all_that_its_browser_says_agrees() {
        let named = ["https://ui.example".to_owned()];
        for (host, headers, is_foreign) in [
            ("reg:5000", &[][..], false),
            ("reg:5000", &[("origin", "http://reg:5000")], false),
            ("reg", &[("origin", "https://reg:443")], false),
            ("reg:5000", &[("origin", "http://reg:5001")], true),
            ("reg:5000", &[("origin", "http://reg")], true),
            ("reg:5000", &[("origin", "null")], true),
            ("reg:5000", &[("origin", "")], true),
            ("reg:5000", &[("origin", "https://ui.example")], false),
            ("reg:5000", &[("origin", "https://ui.example"), ("sec-fetch-site", "cross-site")], false),
            ("reg:5000", &[("origin", "https://ui.example"), ("origin", "https://evil.example")], true),
            ("reg:5000", &[("origin", "http://reg:5000"), ("sec-fetch-site", "same-origin")], false),
            ("reg:5000", &[("sec-fetch-site", "none")], false),
            ("reg:5000", &[("sec-fetch-site", "same-site")], true),
            ("reg:5000", &[("origin", "http://reg:5000"), ("sec-fetch-site", "cross-site")], true),
            ("reg:5000", &[("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site")], true),
        ] {
            assert_eq!(foreign(&asked(host, headers), &named).is_some(), is_foreign, "{host} {headers:?}");
        }
    }

    #[test]
    fn no_stranger_has_an_address_a_name_without_a_dot_or_one_of_ours() {
        let names = OwnNames::new(["registry.example:5000".to_owned(), "Other.Example".to_owned()]);
        for (host, ours) in [
            ("127.0.0.1", true),
            ("127.0.0.1:5000", true),
            ("[::1]:5000", true),
            ("[::1]", true),
            ("::1", true),
            ("localhost", true),
            ("a.localhost:80", true),
            ("box", true),
            ("registry.example", true),
            ("registry.example.:1", true),
            ("other.example:5000", true),
            ("a.registry.example", false),
            ("127.0.0.1.evil.example:5000", false),
            ("127.0.0.1x.example", false),
            ("[evil.example]:1", false),
        ] {
            assert_eq!(names.have(host), ours, "{host}");
        }
    }
}
