//! The upstream's images, and clients that pull them: what looks complete must be what the upstream has.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use entrepot::oci::Digest;
use tokio::sync::watch;

use super::dice::Dice;
use crate::support::client::Call;
use crate::support::disk::OnDisk;
use crate::support::upstream::FakeUpstream;

const REPOSITORY: &str = "library/app";
const IMAGES: usize = 12;
/// Partial fills that one check goes on with.
const CONTINUED_MAX: usize = 2;

/// An upstream with more images than the cache holds, a few of them with a blob of several pieces.
pub struct Origin {
    fake: FakeUpstream,
    images: Arc<Vec<Image>>,
}

struct Image {
    tag: String,
    manifest: Bytes,
    blobs: Vec<(Digest, Bytes)>,
}

/// What clients got.
#[derive(Debug, Default)]
pub struct Pulls {
    pub wrong_bytes: Vec<String>,
    pub complete: usize,
    /// Statuses of the server's own failure.
    pub refused: Vec<String>,
}

impl Pulls {
    pub fn add(&mut self, mut other: Self) {
        self.wrong_bytes.append(&mut other.wrong_bytes);
        self.refused.append(&mut other.refused);
        self.complete += other.complete;
    }
}

impl Origin {
    pub async fn start(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let length = |n: usize| if n.is_multiple_of(4) { 300_000 } else { 20_000 + dice.below(100_000) };
        let lengths: Vec<usize> = (0..IMAGES).map(length).collect();
        Self::of(seed, &lengths).await
    }

    /// Images of one layer each, of these lengths.
    pub async fn of(seed: u64, lengths: &[usize]) -> Self {
        let (fake, mut dice) = (FakeUpstream::start().await, Dice::new(seed));
        let images = lengths.iter().enumerate().map(|(n, length)| {
            let (tag, layer) = (format!("v{n}"), Bytes::from(dice.bytes(*length)));
            let image = fake.push_image(REPOSITORY, &tag, &[&layer]);
            Image { tag, manifest: image.manifest_bytes, blobs: vec![(image.layers[0], layer)] }
        });
        let images = Arc::new(images.collect());
        Self { fake, images }
    }

    /// Asks for a layer, reads some of it at most, and goes.
    #[allow(dead_code, reason = "for the soak")]
    pub async fn leave_half_way(&self, address: SocketAddr, dice: &mut Dice) {
        let (digest, bytes) = &self.images[dice.below(self.images.len())].blobs[0];
        let mut reading = Call::get(&format!("/v2/{REPOSITORY}/blobs/{digest}")).open(address).await;
        // Whatever comes is what was asked for; that it ends early is what this is for.
        let _ = reading.next(1 + dice.below(bytes.len())).await;
    }

    pub fn base_url(&self) -> &str {
        self.fake.base_url()
    }

    /// Pulls one image after the other until the server is gone, or so many.
    pub fn pull_some(
        &self,
        address: SocketAddr,
        mut dice: Dice,
        steps_max: usize,
        steps: &watch::Sender<usize>,
    ) -> impl Future<Output = Pulls> {
        let images = Arc::clone(&self.images);
        async move {
            let mut pulls = Pulls::default();
            for _ in 0..steps_max {
                steps.send_modify(|steps| *steps += 1);
                let image = &images[dice.below(images.len())];
                if image.pull(address, &mut pulls).await.is_none() {
                    break;
                }
            }
            pulls
        }
    }

    /// Pulls what a crash left half-fetched. Returns how many fills went on where they were, and what is wrong with the others.
    /// Room for one may take what is left of another: what there is of a fill is looked up just before it is asked for.
    pub async fn continue_fills(&self, address: SocketAddr, left: &OnDisk, store: &Path) -> (usize, Vec<String>) {
        let (mut continued, mut wrong) = (0, Vec::new());
        for (name, length) in left.partial_fills().filter(|(_, length)| *length > 0).take(CONTINUED_MAX) {
            let now = OnDisk::of(store);
            // What was written ahead of the front is cut away at start.
            let from = now.partial_fills().find(|(other, _)| other == &name).map_or(0, |(_, length)| length);
            let blobs = || self.images.iter().flat_map(|image| &image.blobs);
            let Some((digest, bytes)) = blobs().find(|(digest, _)| digest.to_string().replace(':', "-") == name) else {
                continue;
            };
            let before = self.fake.requests().len();
            let answer = Call::get(&format!("/v2/{REPOSITORY}/blobs/{digest}")).send(address).await;
            if !answer.looks_complete() || answer.body != *bytes {
                wrong.push(format!("fill {digest}: {}, {} bytes", answer.status(), answer.body.len()));
            }
            let requests = self.fake.requests();
            let mut asked = requests.0[before..].iter().filter(|request| request.path.ends_with(&digest.to_string()));
            let range = asked.next().and_then(|request| request.header("range").map(str::to_owned));
            match range {
                Some(range) if range.starts_with(&format!("bytes={from}-")) => continued += 1,
                // Nothing was left of it.
                None if from == 0 => {}
                range => wrong.push(format!("fill {digest}: {from} of {length} bytes are here, asked for {range:?}")),
            }
        }
        (continued, wrong)
    }
}

impl Image {
    async fn pull(&self, address: SocketAddr, pulls: &mut Pulls) -> Option<()> {
        let manifest = Call::get(&format!("/v2/{REPOSITORY}/manifests/{}", self.tag)).try_send(address).await.ok()?;
        pulls.note(manifest.status(), manifest.looks_complete(), manifest.body == self.manifest, &self.tag);
        for (digest, bytes) in &self.blobs {
            let blob = Call::get(&format!("/v2/{REPOSITORY}/blobs/{digest}")).try_send(address).await.ok()?;
            pulls.note(blob.status(), blob.looks_complete(), blob.body == *bytes, &digest.to_string());
        }
        Some(())
    }
}

impl Pulls {
    fn note(&mut self, status: u16, looks_complete: bool, is_right: bool, what: &str) {
        match (status, looks_complete, is_right) {
            (200, true, true) => self.complete += 1,
            (200, true, false) => self.wrong_bytes.push(what.to_owned()),
            // It broke off, which the client sees.
            (200, false, _) => {}
            (status, ..) => self.refused.push(format!("{status} {what}")),
        }
    }
}
