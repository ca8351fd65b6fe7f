//! Who asks, when somebody stands in between: the word of trusted proxies, and of nobody else.
//!
//! `X-Forwarded-For` (and `Forwarded`, RFC 7239) grow at their right end: each proxy adds whom it speaks with. So they are
//! read from the right, as long as those who wrote them are trusted; what stands further left is whatever the client made
//! up.

use std::net::IpAddr;

use http::header::{FORWARDED, HeaderName};
use http::{HeaderMap, HeaderValue};
use ipnet::IpNet;

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Headers by which a request says that somebody else sent it on.
const SAYING_SO: [&str; 6] =
    ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "via"];

/// Who asks, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// Its address. An IPv4 address in IPv6's clothes (`::ffff:10.0.0.1`) is an IPv4 address here.
    pub address: Option<IpAddr>,
    /// The header that says that the request was forwarded while nobody trusted says from where: then the address is
    /// that of the last one on its way, which any client of that one can have.
    pub unvouched: Option<&'static str>,
    /// The address is that of a trusted proxy, which speaks for many or for itself.
    pub is_proxy: bool,
    /// Does the client speak TLS, with us or with a trusted proxy?
    pub is_tls: bool,
    /// The host that the client asked a trusted proxy for, if that one says so.
    pub forwarded_host: Option<String>,
}

impl Client {
    /// Who asks with these headers over a connection with `peer`, which is known to speak TLS or not.
    pub fn of(peer: Option<IpAddr>, is_tls: bool, headers: &HeaderMap, trusted: &[IpNet]) -> Self {
        let peer = peer.map(|address| address.to_canonical());
        let is_proxy = peer.is_some_and(|peer| contain(trusted, peer));
        let direct = Self { address: peer, unvouched: None, is_proxy, is_tls, forwarded_host: None };
        // Nearly all requests have a handful of headers, and none of these.
        let saying_so = || SAYING_SO.into_iter().find(|said| headers.keys().any(|header| header.as_str() == *said));
        if !is_proxy {
            return Self { unvouched: saying_so(), ..direct };
        }
        let elements = elements(headers);
        let by_standard = elements.as_ref().map(|hops| nearest(hops.iter().map(|hop| hop.node), trusted));
        let by_custom = entries(headers, &X_FORWARDED_FOR).map(|hops| nearest(hops.map(node), trusted));
        let address = match (by_standard, by_custom) {
            (None, None) => return Self { unvouched: saying_so(), ..direct },
            (Some(said), None) | (None, Some(said)) => said,
            // One of the two is the client's own invention, and nobody knows which.
            (Some(one), Some(other)) => one.filter(|_| one == other),
        };
        let Some(address) = address else { return Self { unvouched: saying_so(), ..direct } };
        let last = elements.as_ref().and_then(|hops| hops.last());
        let word = |element: Option<&String>, header| element.cloned().or_else(|| last_entry(headers, header));
        let scheme = word(last.and_then(|hop| hop.scheme.as_ref()), &X_FORWARDED_PROTO);
        let forwarded_host = word(last.and_then(|hop| hop.host.as_ref()), &X_FORWARDED_HOST);
        Self {
            address: Some(address),
            unvouched: None,
            is_proxy: contain(trusted, address),
            is_tls: scheme.map_or(is_tls, |scheme| scheme.eq_ignore_ascii_case("https")),
            forwarded_host: forwarded_host.map(|host| host.to_ascii_lowercase()),
        }
    }

    /// The address that limits on clients are counted for; none for proxies.
    pub fn limited_as(&self) -> Option<IpAddr> {
        self.address.filter(|_| !self.is_proxy)
    }
}

/// Is the address in one of the networks?
pub fn contain(networks: &[IpNet], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&address))
}

/// One element of `Forwarded`: who sent it to whoever wrote this, and what was asked for there.
#[derive(Debug, Default, PartialEq, Eq)]
struct Hop {
    node: Option<IpAddr>,
    scheme: Option<String>,
    host: Option<String>,
}

/// The first from the right that is not trusted, or the last one if all are. `None` as soon as one hides its address.
fn nearest(hops: impl DoubleEndedIterator<Item = Option<IpAddr>>, trusted: &[IpNet]) -> Option<IpAddr> {
    let mut found = None;
    for hop in hops.rev() {
        let address = hop?;
        found = Some(address);
        if !contain(trusted, address) {
            break;
        }
    }
    found
}

/// The comma-separated entries of a header, however many lines it has; a line that is no text is an entry of its own.
fn entries<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<std::vec::IntoIter<&'a str>> {
    let lines = headers.get_all(name).iter().map(|line| line.to_str().unwrap_or_default());
    let entries: Vec<&str> = lines.flat_map(|line| line.split(',')).map(str::trim).collect();
    (!entries.is_empty()).then(|| entries.into_iter())
}

fn last_entry(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    entries(headers, name)?.next_back().filter(|entry| !entry.is_empty()).map(str::to_owned)
}

/// The elements of `Forwarded`; `None` without such a header.
fn elements(headers: &HeaderMap) -> Option<Vec<Hop>> {
    let lines: Vec<&HeaderValue> = headers.get_all(FORWARDED).iter().collect();
    let texts = lines.iter().map(|line| line.to_str().unwrap_or_default());
    (!lines.is_empty()).then(|| {
        let hops = texts.flat_map(|text| {
            // A quote that the client left open would swallow the comma before what its proxy added.
            let is_open = text.matches('"').count() % 2 == 1;
            let (open, whole) = if is_open { (Some(Hop::default()), None) } else { (None, Some(text)) };
            open.into_iter().chain(whole.into_iter().flat_map(|text| outside_quotes(text, ',')).map(hop))
        });
        hops.collect()
    })
}

fn hop(element: &str) -> Hop {
    let mut hop = Hop::default();
    for pair in outside_quotes(element, ';') {
        let Some((name, value)) = pair.split_once('=') else { continue };
        let value = value.trim().trim_matches('"');
        match name.trim().to_ascii_lowercase().as_str() {
            "for" => hop.node = node(value),
            "proto" => hop.scheme = Some(value.to_owned()),
            "host" => hop.host = Some(value.to_owned()),
            _ => {}
        }
    }
    hop
}

/// The parts between `separator`, which means nothing within quotes.
fn outside_quotes(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut is_quoted = false;
    text.split(move |c: char| {
        is_quoted ^= c == '"';
        c == separator && !is_quoted
    })
}

/// An address, perhaps with a port: `10.0.0.1`, `10.0.0.1:80`, `fd00::1`, `[fd00::1]`, `[fd00::1]:80`.
fn node(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let inner = text.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(inner, _)| inner);
    let address = inner.map_or_else(
        || text.parse().ok().or_else(|| text.parse().ok().map(|with_port: std::net::SocketAddr| with_port.ip())),
        |inner| inner.parse().ok(),
    );
    address.map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests;
