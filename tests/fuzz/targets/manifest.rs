//! Manifests: no bytes panic the parser, and what it accepts means the same with and without its own media type named.
#![no_main]

use entrepot::oci::Manifest;
use libfuzzer_sys::fuzz_target;

const CONTENT_TYPES: [Option<&str>; 6] = [
    None,
    Some("application/vnd.oci.image.manifest.v1+json"),
    Some("application/vnd.oci.image.index.v1+json"),
    Some("application/vnd.docker.distribution.manifest.v2+json; charset=utf-8"),
    Some("application/vnd.docker.distribution.manifest.list.v2+json"),
    Some("application/json"),
];

fuzz_target!(|bytes: &[u8]| {
    for content_type in CONTENT_TYPES {
        let Ok(manifest) = Manifest::parse(bytes, content_type) else { continue };
        let named = Manifest::parse(bytes, Some(manifest.kind.media_type()));
        assert!(named.is_ok_and(|named| named.kind == manifest.kind), "{:?}", manifest.kind);
        // One body is an image or an index, never both.
        assert!(manifest.blobs.is_empty() || manifest.children.is_empty());
    }
});
