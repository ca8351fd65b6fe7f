//! `Forwarded` and `X-Forwarded-For`: whatever a client writes, what its proxy adds decides who it is.
#![no_main]

use std::net::IpAddr;

use entrepot::http::forwarded::Client;
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|made_up: &[u8]| {
    let proxy: IpAddr = "10.0.0.1".parse().expect("an address");
    let client: IpAddr = "192.0.2.7".parse().expect("an address");
    for (name, added) in
        [("x-forwarded-for", ", 192.0.2.7"), ("forwarded", ", for=192.0.2.7"), ("forwarded", ", for=\"192.0.2.7\"")]
    {
        let Ok(value) = HeaderValue::from_bytes(&[made_up, added.as_bytes()].concat()) else { return };
        let headers = HeaderMap::from_iter([(name.parse().expect("a name"), value)]);
        let said = Client::of(Some(proxy), false, &headers, &["10.0.0.0/8".parse().expect("a network")]);
        // Nobody in particular, or the client: never whom it would like to be.
        assert!(said.unvouched.is_some() || said.address == Some(client), "{headers:?}: {said:?}");
    }
});
