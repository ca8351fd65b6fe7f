//! Which token services an upstream may send us to: a hostile challenge must not collect credentials.

use url::{Host, Url};

/// Suffixes of two labels under which strangers own names: a domain below them has three labels.
///
/// Not the whole public suffix list: those of country domains that registries live under, and of platforms that give
/// every customer a name. A suffix missing here widens the rule to neighbours of the upstream, never to the world.
const WIDE_SUFFIXES: [&str; 40] = [
    "ac.uk",
    "co.uk",
    "gov.uk",
    "org.uk",
    "ac.jp",
    "co.jp",
    "go.jp",
    "ne.jp",
    "or.jp",
    "co.kr",
    "or.kr",
    "com.au",
    "net.au",
    "org.au",
    "gov.au",
    "co.nz",
    "co.za",
    "co.in",
    "com.br",
    "com.cn",
    "gov.cn",
    "net.cn",
    "org.cn",
    "com.hk",
    "com.mx",
    "com.sg",
    "com.tr",
    "com.tw",
    "com.ar",
    "co.il",
    "com.pl",
    "amazonaws.com",
    "appspot.com",
    "azurecr.io",
    "azurewebsites.net",
    "cloudfront.net",
    "github.io",
    "gitlab.io",
    "run.app",
    "herokuapp.com",
];

/// May a token be asked for at `realm`, with the upstream's credentials, because `upstream` said so?
///
/// Only over https, unless scheme and host are the upstream's own; and only at the upstream's host or another one of the
/// same registrable domain, or one of `others` (`host` or `host:port`), which the operator named. Addresses and names of
/// one label have no domain and must be equal. Ports may differ.
pub fn realm_allowed(upstream: &Url, realm: &Url, others: &[String]) -> bool {
    if !realm.username().is_empty() || realm.password().is_some() {
        return false;
    }
    let (Some(ours), Some(theirs)) = (upstream.host(), realm.host()) else { return false };
    let same_host = match (&ours, &theirs) {
        (Host::Domain(ours), Host::Domain(theirs)) => without_root(ours) == without_root(theirs),
        _ => ours == theirs,
    };
    let same_domain = match (&ours, &theirs) {
        (Host::Domain(ours), Host::Domain(theirs)) => {
            registrable(ours).is_some_and(|domain| registrable(theirs) == Some(domain))
        }
        _ => false,
    };
    let is_named = others.iter().any(|other| is_at(realm, other));
    match realm.scheme() {
        "https" => same_host || same_domain || is_named,
        "http" => (same_host || is_named) && upstream.scheme() == "http",
        _ => false,
    }
}

/// Is a URL with this host at the upstream's own place, or at another one of its registrable domain?
pub fn is_same_domain(url_host: Option<&str>, upstream: &crate::oci::Host) -> bool {
    let upstream = upstream.as_str().split(':').next().unwrap_or_default();
    url_host.is_some_and(|host| {
        host == upstream || registrable(host).is_some_and(|domain| registrable(upstream) == Some(domain))
    })
}

/// Is the URL at `host`, or at `host:port`?
fn is_at(url: &Url, place: &str) -> bool {
    let host = url.host_str().map(without_root);
    match place.rsplit_once(':') {
        Some((name, port)) => host == Some(name) && port.parse().ok() == url.port_or_known_default(),
        None => host == Some(place),
    }
}

/// `docker.io.` is `docker.io`.
fn without_root(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

/// The last two labels of a name, or three below a wide suffix; `None` if there are not as many.
fn registrable(name: &str) -> Option<&str> {
    let name = without_root(name);
    // An address has no domain: its last two numbers are nobody's.
    if name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit())) {
        return None;
    }
    let two = last_labels(name, 2)?;
    if WIDE_SUFFIXES.contains(&two) { last_labels(name, 3) } else { Some(two) }
}

/// The last `count` labels with the dots between them; `None` if there are fewer or one of them is empty.
fn last_labels(name: &str, count: usize) -> Option<&str> {
    let start = match name.rmatch_indices('.').nth(count - 1) {
        Some((dot, _)) => dot + 1,
        None if name.split('.').count() == count => 0,
        None => return None,
    };
    let labels = &name[start..];
    labels.split('.').all(|label| !label.is_empty()).then_some(labels)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn allowed(upstream: &str, realm: &str) -> bool {
        realm_allowed(&Url::parse(upstream).unwrap(), &Url::parse(realm).unwrap(), &[])
    }

    #[test]
    fn token_services_that_the_operator_named_are_allowed_over_https() {
        let named = ["auth.corp.example".to_owned(), "sso.example:8443".to_owned()];
        let allowed = |upstream: &str, realm: &str| {
            realm_allowed(&Url::parse(upstream).unwrap(), &Url::parse(realm).unwrap(), &named)
        };
        assert!(allowed("https://r.example.org", "https://auth.corp.example/token"));
        assert!(allowed("https://r.example.org", "https://auth.corp.example.:444/token"));
        assert!(allowed("https://r.example.org", "https://sso.example:8443/token"));
        assert!(allowed("http://r.example.org", "http://auth.corp.example/token"));
        for realm in [
            "http://auth.corp.example/token",
            "https://sso.example/token",
            "https://x.auth.corp.example/token",
            "https://me:secret@auth.corp.example/token",
        ] {
            assert!(!allowed("https://r.example.org", realm), "{realm}");
        }
    }

    #[test]
    fn token_services_of_the_upstreams_domain_are_allowed() {
        for (upstream, realm) in [
            ("https://registry-1.docker.io", "https://auth.docker.io/token"),
            ("https://registry-1.docker.io", "https://AUTH.docker.io./token"),
            ("https://ghcr.io", "https://ghcr.io/token"),
            ("https://docker.elastic.co", "https://docker-auth.elastic.co/auth"),
            ("https://registry.gitlab.com", "https://gitlab.com/jwt/auth"),
            ("https://r.example.co.uk", "https://auth.example.co.uk/token"),
            ("https://one.azurecr.io", "https://one.azurecr.io/oauth2/token"),
            ("http://127.0.0.1:5000", "http://127.0.0.1:5001/token"),
            ("http://127.0.0.1:5000", "https://127.0.0.1/token"),
            ("http://[::1]:5000", "http://[::1]:5000/token"),
            ("http://registry:5000", "http://registry:5000/token"),
            ("http://r.example.org", "https://auth.example.org/token"),
        ] {
            assert!(allowed(upstream, realm), "{upstream} → {realm} was refused");
        }
    }

    #[test]
    fn a_mirror_is_not_of_the_upstreams_domain() {
        let same = |host: &str, upstream: &str| is_same_domain(Some(host), &upstream.parse().unwrap());
        assert!(same("registry-1.docker.io", "docker.io"));
        assert!(same("registry.lan", "registry.lan:5000"));
        assert!(!same("mirror.gcr.io", "docker.io"));
        assert!(!same("127.0.0.2", "127.0.0.1:5000"));
        assert!(same("10.8.1.5", "10.8.1.5:5000"));
        assert!(!same("10.9.1.5", "10.8.1.5:5000"), "addresses have no domain");
    }

    #[test]
    fn token_services_elsewhere_are_refused() {
        for (upstream, realm) in [
            ("https://registry-1.docker.io", "https://docker.io.evil.example/token"),
            ("https://registry-1.docker.io", "https://evildocker.io/token"),
            ("https://registry-1.docker.io", "https://auth.example.org/token"),
            ("https://registry-1.docker.io", "http://auth.docker.io/token"),
            ("https://registry-1.docker.io", "http://registry-1.docker.io/token"),
            ("http://r.example.org", "http://auth.example.org/token"),
            ("https://registry-1.docker.io", "https://user:secret@auth.docker.io/token"),
            ("https://registry-1.docker.io", "ftp://auth.docker.io/token"),
            ("https://registry-1.docker.io", "file:///etc/passwd"),
            ("https://r.example.co.uk", "https://auth.other.co.uk/token"),
            ("https://one.azurecr.io", "https://two.azurecr.io/token"),
            ("https://co.uk", "https://a.co.uk/token"),
            ("http://127.0.0.1:5000", "https://127.0.0.2/token"),
            ("http://10.1.2.3", "https://9.9.2.3/token"),
            ("http://[::1]:5000", "http://127.0.0.1:5000/token"),
            ("http://registry:5000", "https://auth/token"),
            ("https://io", "https://docker.io/token"),
        ] {
            assert!(!allowed(upstream, realm), "{upstream} → {realm} was allowed");
        }
    }

    proptest! {
        #[test]
        fn no_pair_of_urls_panics_and_every_host_may_name_itself(
            upstream in "https?://[a-z0-9.\\[\\]:-]{1,30}/?", realm in "[a-z]{1,6}:/{0,3}\\PC{0,40}",
        ) {
            let (Ok(upstream), realm) = (Url::parse(&upstream), Url::parse(&realm)) else { return Ok(()) };
            if let Ok(realm) = realm {
                let _ = realm_allowed(&upstream, &realm, &[]);
            }
            prop_assert!(realm_allowed(&upstream, &upstream, &[]));
        }

        #[test]
        fn an_allowed_realm_ends_in_the_same_two_labels(a in "[a-c]{1,2}(\\.[a-c]{1,2}){0,3}", b in "[a-c]{1,2}(\\.[a-c]{1,2}){0,3}") {
            let labels = |name: &str| name.rsplit('.').take(2).map(str::to_owned).collect::<Vec<_>>();
            if allowed(&format!("https://{a}"), &format!("https://{b}")) {
                prop_assert_eq!(labels(&a), labels(&b));
            }
        }
    }
}
