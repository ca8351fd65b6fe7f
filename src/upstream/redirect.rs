//! Where a redirect may lead. Pure; that `Authorization` stays behind is the transport's part.

use url::Url;

use super::error::Nonsense;

/// The URL to ask next, given everything already asked (at least one URL, the last one sent the redirect).
pub fn target(visited: &[Url], location: Option<&str>, redirects_max: usize) -> Result<Url, Nonsense> {
    let current = visited.last().expect("a redirect answers a request");
    if visited.len() > redirects_max {
        return Err(Nonsense::RedirectsExceeded { max: redirects_max });
    }
    let mut next = location.and_then(|to| current.join(to).ok()).ok_or(Nonsense::RedirectTarget)?;
    if !matches!(next.scheme(), "http" | "https") || !next.has_host() {
        return Err(Nonsense::RedirectTarget);
    }
    if current.scheme() == "https" && next.scheme() == "http" {
        return Err(Nonsense::RedirectDowngrade);
    }
    // The client would make an Authorization header of these.
    let cleared = next.set_username("").and_then(|()| next.set_password(None));
    if cleared.is_err() {
        return Err(Nonsense::RedirectTarget);
    }
    next.set_fragment(None);
    if visited.contains(&next) { Err(Nonsense::RedirectLoop) } else { Ok(next) }
}

/// Scheme, host and port are those of the other URL.
pub fn same_origin(one: &Url, other: &Url) -> bool {
    one.scheme() == other.scheme()
        && one.host() == other.host()
        && one.port_or_known_default() == other.port_or_known_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn urls(texts: &[&str]) -> Vec<Url> {
        texts.iter().map(|text| Url::parse(text).unwrap()).collect()
    }

    fn from(current: &str, location: &str) -> Result<String, Nonsense> {
        target(&urls(&[current]), Some(location), 5).map(String::from)
    }

    #[test]
    fn targets_are_resolved_and_keep_their_query() {
        assert_eq!(from("https://a/v2/x", "/y?s=1").unwrap(), "https://a/y?s=1");
        assert_eq!(from("http://a/v2/x", "https://cdn/y?s=%2F#f").unwrap(), "https://cdn/y?s=%2F");
        assert_eq!(from("https://a/x", "https://user:secret@b/y").unwrap(), "https://b/y");
    }

    #[test]
    fn targets_outside_of_http_and_downgrades_are_refused() {
        assert_eq!(from("https://a/x", "http://a/x"), Err(Nonsense::RedirectDowngrade));
        for location in ["file:///etc/passwd", "ftp://a/x", "mailto:a@b", "http://", "https://:x"] {
            assert_eq!(from("http://a/x", location), Err(Nonsense::RedirectTarget), "{location}");
        }
        assert_eq!(target(&urls(&["http://a/"]), None, 5), Err(Nonsense::RedirectTarget));
    }

    #[test]
    fn circles_and_long_chains_end() {
        assert_eq!(from("http://a/x", "/x"), Err(Nonsense::RedirectLoop));
        let circle = urls(&["http://a/x", "http://b/y"]);
        assert_eq!(target(&circle, Some("http://a/x#again"), 5), Err(Nonsense::RedirectLoop));
        let chain = urls(&["http://a/1", "http://a/2", "http://a/3"]);
        assert_eq!(target(&chain, Some("/4"), 2), Err(Nonsense::RedirectsExceeded { max: 2 }));
        assert!(target(&chain, Some("/4"), 3).is_ok());
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let same = |one: &str, other: &str| same_origin(&Url::parse(one).unwrap(), &Url::parse(other).unwrap());
        assert!(same("https://a/x", "https://A:443/y?z"));
        for other in ["http://a/", "https://a:444/", "https://b/", "https://a.b/"] {
            assert!(!same("https://a/", other), "{other}");
        }
    }

    proptest! {
        #[test]
        fn no_location_panics_or_leaves_https(location in "\\PC{0,60}") {
            if let Ok(next) = target(&urls(&["https://a/x"]), Some(&location), 5) {
                prop_assert_eq!(next.scheme(), "https");
                prop_assert!(next.username().is_empty() && next.password().is_none());
            }
        }
    }
}
