use proptest::prelude::*;

use super::*;

const TRUSTED: &[&str] = &["10.0.0.0/8", "fd00::/8"];

fn client(peer: &str, headers: &[(&'static str, &str)]) -> Client {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, value.parse().unwrap());
    }
    let trusted: Vec<IpNet> = TRUSTED.iter().map(|network| network.parse().unwrap()).collect();
    Client::of(Some(peer.parse().unwrap()), false, &map, &trusted)
}

fn address(peer: &str, headers: &[(&'static str, &str)]) -> Option<String> {
    let client = client(peer, headers);
    client.address.filter(|_| client.unvouched.is_none()).map(|address| address.to_string())
}

#[test]
fn addresses_are_read_from_the_right_as_far_as_they_are_trusted() {
    let xff = "x-forwarded-for";
    for (peer, headers, expected) in [
        ("192.0.2.1", &[][..], Some("192.0.2.1")),
        ("::ffff:192.0.2.1", &[], Some("192.0.2.1")),
        ("10.0.0.1", &[], Some("10.0.0.1")),
        ("10.0.0.1", &[(xff, "192.0.2.7")], Some("192.0.2.7")),
        ("::ffff:10.0.0.1", &[(xff, "192.0.2.7")], Some("192.0.2.7")),
        // What a client made up stands on the left.
        ("10.0.0.1", &[(xff, "127.0.0.1, 192.0.2.7")], Some("192.0.2.7")),
        ("10.0.0.1", &[(xff, "127.0.0.1"), (xff, "192.0.2.7")], Some("192.0.2.7")),
        ("10.0.0.1", &[(xff, "127.0.0.1, 192.0.2.7, 10.0.0.2")], Some("192.0.2.7")),
        ("10.0.0.1", &[(xff, "10.0.0.3, 10.0.0.2")], Some("10.0.0.3")),
        ("fd00::1", &[(xff, "[2001:db8::7]:4711")], Some("2001:db8::7")),
        ("10.0.0.1", &[(xff, "192.0.2.7:4711")], Some("192.0.2.7")),
        ("10.0.0.1", &[("forwarded", "for=192.0.2.7;proto=https")], Some("192.0.2.7")),
        ("10.0.0.1", &[("forwarded", "For=\"[2001:db8::7]:1\", for=10.0.0.9")], Some("2001:db8::7")),
        ("10.0.0.1", &[("forwarded", "for=192.0.2.7"), (xff, "192.0.2.7")], Some("192.0.2.7")),
        // One of the two is made up.
        ("10.0.0.1", &[("forwarded", "for=127.0.0.1"), (xff, "192.0.2.7")], None),
        ("10.0.0.1", &[("forwarded", "for=unknown")], None),
        ("10.0.0.1", &[("forwarded", "for=_hidden, for=10.0.0.2")], None),
        ("10.0.0.1", &[("forwarded", "for=127.0.0.1;x=\", for=192.0.2.7")], None),
        ("10.0.0.1", &[("forwarded", "for=127.0.0.1;x=\", for=\"192.0.2.7\"")], None),
        ("10.0.0.1", &[(xff, "")], None),
        ("10.0.0.1", &[(xff, "somebody")], None),
        ("10.0.0.1", &[("x-real-ip", "192.0.2.7")], None),
        ("192.0.2.1", &[(xff, "127.0.0.1")], None),
        ("192.0.2.1", &[("forwarded", "for=127.0.0.1")], None),
    ] {
        assert_eq!(address(peer, headers).as_deref(), expected, "{peer} with {headers:?}");
    }
}

#[test]
fn a_stranger_never_changes_its_own_address() {
    let said = client("192.0.2.1", &[("x-forwarded-for", "127.0.0.1"), ("x-forwarded-proto", "https")]);
    assert_eq!(said.address, Some("192.0.2.1".parse().unwrap()));
    assert_eq!(said.unvouched, Some("x-forwarded-for"));
    assert!(!said.is_tls);
}

#[test]
fn scheme_and_host_are_those_of_the_last_who_is_trusted() {
    let said = client(
        "10.0.0.1",
        &[("x-forwarded-for", "192.0.2.7"), ("x-forwarded-proto", "http, https"), ("x-forwarded-host", "Mirror.lan")],
    );
    assert!(said.is_tls);
    assert_eq!(said.forwarded_host.as_deref(), Some("mirror.lan"));
    let said = client("10.0.0.1", &[("forwarded", "for=192.0.2.7;host=\"a,b;c\";proto=https")]);
    assert_eq!((said.is_tls, said.forwarded_host.as_deref()), (true, Some("a,b;c")));
}

proptest! {
    /// Whatever a client writes into the headers, what its proxy adds behind it decides.
    #[test]
    fn no_prefix_hides_the_client(made_up in "[ -~]{0,60}") {
        let value = format!("{made_up}, 192.0.2.7");
        let said = address("10.0.0.1", &[("x-forwarded-for", &value)]);
        prop_assert_eq!(said.as_deref(), Some("192.0.2.7"));
    }

    #[test]
    fn no_prefix_of_the_standard_header_makes_a_client_another(made_up in r#"([ -~]|for=127\.0\.0\.1|;x="|"|,){0,12}"#) {
        for added in ["for=192.0.2.7", "for=\"192.0.2.7\""] {
            let value = format!("{made_up}, {added}");
            let said = address("10.0.0.1", &[("forwarded", &value)]);
            prop_assert!(matches!(said.as_deref(), None | Some("192.0.2.7")), "{} is {:?}", value, said);
        }
    }

    #[test]
    fn any_header_is_read_to_its_end(value in "[ -~]{0,120}") {
        client("10.0.0.1", &[("forwarded", &value)]);
        client("10.0.0.1", &[("x-forwarded-for", &value)]);
    }
}
