//! Answers of upstreams: no head and no body panics whoever reads it, lists lead to queries of ours alone, redirects to https.
#![no_main]

use entrepot::oci::Referrer;
use entrepot::upstream::{Part, RateLimit, read_tag_page, read_token, redirect_target, retry_after};
use http::header::{CONTENT_RANGE, DATE, LINK, LOCATION, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use url::Url;

const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");

fuzz_target!(|input: (&[u8], &[u8], &[u8])| {
    let (one, other, body) = input;
    let (Ok(one), Ok(other)) = (HeaderValue::from_bytes(one), HeaderValue::from_bytes(other)) else { return };
    let head = |name: HeaderName| HeaderMap::from_iter([(name, one.clone()), (DATE, other.clone())]);
    let _ = RateLimit::read(&head(REMAINING));
    let _ = retry_after(&head(RETRY_AFTER), i64::from(body.len() as u32));
    if let Some(part) = head(CONTENT_RANGE)[CONTENT_RANGE].to_str().ok().and_then(Part::parse) {
        assert!(part.first <= part.last && part.total_bytes.is_none_or(|total| part.last < total), "{part:?}");
    }
    if let Some(page) = read_tag_page(body, &head(LINK)) {
        assert!(page.next_query.is_some() || page.next.is_none());
        assert!(page.next_query.is_none_or(|query| !query.contains('#')));
    }
    let _ = read_token(body);
    for referrer in Referrer::read_index(body).unwrap_or_default() {
        let again = serde_json::to_vec(&referrer).expect("texts and numbers are always JSON");
        assert_eq!(serde_json::from_slice::<Referrer>(&again).ok(), Some(referrer));
    }
    let visited = [Url::parse("https://registry.example/v2/a/blobs/x").expect("a URL")];
    if let Ok(next) = redirect_target(&visited, head(LOCATION)[LOCATION].to_str().ok(), 5) {
        assert!(next.scheme() == "https" && next.has_host() && next.username().is_empty() && next.password().is_none());
    }
});
