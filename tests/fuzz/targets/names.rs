//! Names, tags, digests, references, hosts, sessions and queries: what is accepted prints as it was read.
#![no_main]

use std::fmt::Display;
use std::str::FromStr;

use entrepot::http::query::Query;
use entrepot::oci::{Digest, Host, MediaType, Reference, RepositoryName, Tag, UploadId};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    for stays in [same::<RepositoryName>(text), same::<Tag>(text), same::<Digest>(text), same::<Reference>(text)] {
        assert!(stays, "{text:?}");
    }
    assert!(same::<UploadId>(text), "{text:?}");
    // A host is lower-cased, so only its second reading must be the same.
    if let Ok(host) = text.parse::<Host>() {
        assert!(same::<Host>(&host.to_string()), "{host}");
    }
    let media_type = MediaType::new(text);
    assert_eq!(MediaType::new(media_type.as_str()), media_type);
    let query = Query::parse(text);
    assert_eq!(query.first("ns"), query.all("ns").next());
});

fn same<T: FromStr + Display>(text: &str) -> bool {
    text.parse::<T>().map_or(true, |parsed| parsed.to_string() == text)
}
