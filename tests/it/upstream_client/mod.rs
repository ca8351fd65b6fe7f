//! What the tests of the upstream client share: one repository, one patient client, bytes worth comparing.

mod auth;
mod blobs;
mod budget;
mod manifests;
mod redirects;
mod retries;

use std::time::Duration;

use entrepot::oci::{Digest, Reference, RepositoryName};
use entrepot::upstream::{BlobStream, Error, Options, Upstream};

use crate::support::upstream::FakeUpstream;

const REPOSITORY: &str = "library/small";

fn repository() -> RepositoryName {
    REPOSITORY.parse().unwrap()
}

fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

/// Patient, but without waits between attempts.
fn options(fake: &FakeUpstream) -> Options {
    let url = fake.base_url().parse().unwrap();
    Options { retry_backoff: Duration::ZERO, ..Options::new("fake.example".parse().unwrap(), url) }
}

fn client(fake: &FakeUpstream) -> Upstream {
    Upstream::new(options(fake)).unwrap()
}

/// Bytes that differ from their neighbours, so that a shifted part is a wrong part.
fn content(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from((at * 31 + at / 251) % 256).unwrap()).collect()
}

async fn fetch_whole(upstream: &Upstream, digest: &Digest) -> Result<Vec<u8>, Error> {
    read(upstream.fetch_blob(&repository(), digest, entrepot::upstream::Fetch::Whole).await?).await
}

async fn read(mut stream: BlobStream) -> Result<Vec<u8>, Error> {
    let mut all = Vec::new();
    while let Some(piece) = stream.next().await? {
        all.extend_from_slice(&piece);
    }
    Ok(all)
}
