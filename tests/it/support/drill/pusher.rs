//! A client that pushes, mounts, deletes and cancels in a repository of its own, and remembers what it was told of that: what
//! was acknowledged must be there afterwards, what was under way may be there or not, and nothing else is.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::Bytes;
use entrepot::oci::Digest;
use serde_json::json;
use tokio::sync::watch;

use super::dice::Dice;
use crate::support::client::{Answer, Call};
use crate::support::push::{IMAGE, closing, digest_of, image};

/// Tags that one repository uses, so that they are pushed over and deleted.
const TAGS: usize = 4;
/// Sessions left open that are looked at again.
const SESSIONS_KEPT: usize = 2;
/// Blobs of this repository that others are told of.
const OFFERED_MAX: usize = 8;

/// The server is gone: nothing was answered.
#[derive(Debug)]
pub struct Gone;

/// A change of which it is not known whether it was made.
enum Pending {
    Push { tag: String, digest: Digest, pushed: Pushed },
    DeleteTag(String),
    DeleteManifest(Digest),
}

/// A manifest with what it rests on.
#[derive(Clone)]
struct Pushed {
    bytes: Bytes,
    parts: Vec<(Digest, Bytes)>,
}

/// An upload session left open, with the bytes sent to it and how many of them were acknowledged.
struct Open {
    location: String,
    sent: Vec<u8>,
    acknowledged: usize,
}

pub struct Pusher {
    repository: String,
    dice: Dice,
    tags: BTreeMap<String, Digest>,
    manifests: BTreeMap<Digest, Pushed>,
    /// Acknowledged blobs that no manifest names yet.
    blobs: Vec<(Digest, Bytes)>,
    sessions: Vec<Open>,
    pending: Option<Pending>,
    /// Answers that were errors of the server.
    pub refused: Vec<String>,
    pub acknowledged: usize,
}

impl Pusher {
    pub fn new(repository: &str, seed: u64) -> Self {
        Self {
            repository: repository.to_owned(),
            dice: Dice::new(seed),
            tags: BTreeMap::new(),
            manifests: BTreeMap::new(),
            blobs: Vec::new(),
            sessions: Vec::new(),
            pending: None,
            refused: Vec::new(),
            acknowledged: 0,
        }
    }

    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Blobs that were acknowledged, for others to mount.
    pub fn offered(&self) -> Vec<(Digest, Bytes)> {
        self.manifests.values().flat_map(|pushed| pushed.parts.clone()).take(OFFERED_MAX).collect()
    }

    /// Does this and that until the server is gone, or so often. `others` are blobs of the repository `from`.
    pub async fn work(
        &mut self,
        address: SocketAddr,
        from: &str,
        others: &[(Digest, Bytes)],
        steps_max: usize,
        steps: &watch::Sender<usize>,
    ) {
        for _ in 0..steps_max {
            steps.send_modify(|steps| *steps += 1);
            let step = match self.dice.below(10) {
                0 => self.delete_tag(address).await,
                1 => self.delete_manifest(address).await,
                2 => self.leave_open(address).await,
                3 => self.cancel(address).await,
                _ => self.push_image(address, from, others).await,
            };
            if step.is_err() {
                return;
            }
        }
    }

    async fn push_image(&mut self, address: SocketAddr, from: &str, others: &[(Digest, Bytes)]) -> Result<(), Gone> {
        let config = self.dice.bytes(200);
        let mut parts = vec![self.push_whole(address, config.into()).await?];
        let (length, chunked) = (1000 + self.dice.below(60_000), self.dice.below(2) == 0);
        let layer = Bytes::from(self.dice.bytes(length));
        parts.push(if chunked {
            self.push_chunked(address, layer).await?
        } else {
            self.push_whole(address, layer).await?
        });
        if !others.is_empty() && self.dice.below(2) == 0 {
            let (digest, bytes) = others[self.dice.below(others.len())].clone();
            parts.push(self.mount(address, from, digest, bytes).await?);
        }
        let Some(parts) = parts.into_iter().collect::<Option<Vec<_>>>() else { return Ok(()) };
        let layers: Vec<&[u8]> = parts[1..].iter().map(|(_, bytes)| &bytes[..]).collect();
        let bytes = Bytes::from(image(&parts[0].1, &layers).to_string());
        let (digest, tag) = (digest_of(&bytes), format!("t{}", self.dice.below(TAGS)));
        let path = format!("/v2/{}/manifests/{tag}", self.repository);
        let put = Call::new("PUT", &path).header("content-type", IMAGE).body(bytes.clone());
        let pushed = Pushed { bytes, parts };
        self.pending = Some(Pending::Push { tag, digest, pushed });
        let answer = self.send(address, put).await?;
        self.settle(answer.status() == 201);
        if answer.status() == 201 && self.dice.below(2) == 0 {
            self.attach(address, &digest).await?;
        }
        Ok(())
    }

    /// Attaches something to a manifest, with which it goes.
    async fn attach(&mut self, address: SocketAddr, subject: &Digest) -> Result<(), Gone> {
        let config = Bytes::from(self.dice.bytes(100));
        let Some((_, config)) = self.push_whole(address, config).await? else {
            return Ok(());
        };
        let mut attached = image(&config, &[]);
        attached["subject"] = json!({ "mediaType": IMAGE, "digest": subject.to_string(), "size": 1 });
        let bytes = Bytes::from(attached.to_string());
        let path = format!("/v2/{}/manifests/{}", self.repository, digest_of(&bytes));
        self.send(address, Call::new("PUT", &path).header("content-type", IMAGE).body(bytes)).await?;
        // It is named by something that may go at any time, so nobody counts on it.
        self.blobs.clear();
        Ok(())
    }

    async fn push_whole(&mut self, address: SocketAddr, bytes: Bytes) -> Result<Option<(Digest, Bytes)>, Gone> {
        let digest = digest_of(&bytes);
        let path = format!("/v2/{}/blobs/uploads/?digest={digest}", self.repository);
        let answer = self.send(address, Call::new("POST", &path).body(bytes.clone())).await?;
        Ok(self.acknowledge(&answer, digest, bytes))
    }

    async fn push_chunked(&mut self, address: SocketAddr, bytes: Bytes) -> Result<Option<(Digest, Bytes)>, Gone> {
        let digest = digest_of(&bytes);
        let Some(location) = self.open(address).await? else { return Ok(None) };
        let half = bytes.len() / 2;
        let patched = self.send(address, Call::new("PATCH", &location).body(bytes.slice(..half))).await?;
        if patched.status() != 202 {
            return Ok(None);
        }
        let put = Call::new("PUT", &closing(&location, &digest)).body(bytes.slice(half..));
        let answer = self.send(address, put).await?;
        Ok(self.acknowledge(&answer, digest, bytes))
    }

    async fn mount(
        &mut self,
        address: SocketAddr,
        from: &str,
        digest: Digest,
        bytes: Bytes,
    ) -> Result<Option<(Digest, Bytes)>, Gone> {
        let path = format!("/v2/{}/blobs/uploads/?mount={digest}&from={from}", self.repository);
        let answer = self.send(address, Call::new("POST", &path).body("")).await?;
        match (answer.status(), answer.header("location")) {
            (202, Some(location)) => {
                let put = Call::new("PUT", &closing(location, &digest)).body(bytes.clone());
                let answer = self.send(address, put).await?;
                Ok(self.acknowledge(&answer, digest, bytes))
            }
            _ => Ok(self.acknowledge(&answer, digest, bytes)),
        }
    }

    async fn open(&mut self, address: SocketAddr) -> Result<Option<String>, Gone> {
        let path = format!("/v2/{}/blobs/uploads/", self.repository);
        let answer = self.send(address, Call::new("POST", &path).body("")).await?;
        Ok(answer.header("location").filter(|_| answer.status() == 202).map(str::to_owned))
    }

    async fn leave_open(&mut self, address: SocketAddr) -> Result<(), Gone> {
        let Some(location) = self.open(address).await? else { return Ok(()) };
        let length = 1 + self.dice.below(20_000);
        let sent = self.dice.bytes(length);
        self.sessions.push(Open { location: location.clone(), sent: sent.clone(), acknowledged: 0 });
        let answer = self.send(address, Call::new("PATCH", &location).body(sent)).await?;
        if answer.status() == 202 {
            self.sessions.last_mut().expect("it was just pushed").acknowledged = length;
        }
        Ok(())
    }

    async fn cancel(&mut self, address: SocketAddr) -> Result<(), Gone> {
        let Some(open) = self.sessions.pop() else { return Ok(()) };
        self.send(address, Call::new("DELETE", &open.location)).await.map(|_| ())
    }

    async fn delete_tag(&mut self, address: SocketAddr) -> Result<(), Gone> {
        let Some(tag) = self.tags.keys().next().cloned() else { return Ok(()) };
        self.pending = Some(Pending::DeleteTag(tag.clone()));
        let path = format!("/v2/{}/manifests/{tag}", self.repository);
        let answer = self.send(address, Call::new("DELETE", &path)).await?;
        self.settle(answer.status() == 202);
        Ok(())
    }

    async fn delete_manifest(&mut self, address: SocketAddr) -> Result<(), Gone> {
        let Some(digest) = self.manifests.keys().next().copied() else { return Ok(()) };
        self.pending = Some(Pending::DeleteManifest(digest));
        let path = format!("/v2/{}/manifests/{digest}", self.repository);
        let answer = self.send(address, Call::new("DELETE", &path)).await?;
        self.settle(answer.status() == 202);
        Ok(())
    }

    async fn send(&mut self, address: SocketAddr, call: Call) -> Result<Answer, Gone> {
        let answer = call.try_send(address).await.map_err(|_| Gone)?;
        match answer.status() {
            500.. => self.refused.push(format!("{} {:?}", answer.status(), answer.body)),
            _ => self.acknowledged += 1,
        }
        Ok(answer)
    }

    fn acknowledge(&mut self, answer: &Answer, digest: Digest, bytes: Bytes) -> Option<(Digest, Bytes)> {
        (answer.status() == 201).then(|| {
            self.blobs.push((digest, bytes.clone()));
            (digest, bytes)
        })
    }

    /// What was under way was done, or not.
    fn settle(&mut self, done: bool) {
        let Some(pending) = self.pending.take().filter(|_| done) else { return };
        match pending {
            Pending::Push { tag, digest, pushed } => {
                self.tags.insert(tag, digest);
                self.manifests.insert(digest, pushed);
                self.blobs.clear();
            }
            Pending::DeleteTag(tag) => {
                self.tags.remove(&tag);
            }
            Pending::DeleteManifest(digest) => {
                self.manifests.remove(&digest);
                self.tags.retain(|_, tagged| *tagged != digest);
            }
        }
    }

    /// Blobs that no manifest names are promised for a grace period only.
    #[allow(dead_code, reason = "for the bench that collects garbage meanwhile")]
    pub fn forget_unnamed(&mut self) {
        self.blobs.clear();
    }

    /// Compares what the server has with what it acknowledged. Returns what is missing or wrong.
    pub async fn check(&mut self, address: SocketAddr) -> Vec<String> {
        let mut wrong = Vec::new();
        let under_way = match &self.pending {
            Some(Pending::Push { digest, .. }) => Some((*digest, 200)),
            Some(Pending::DeleteManifest(digest)) => Some((*digest, 404)),
            Some(Pending::DeleteTag(tag)) => self.tags.get(tag).map(|digest| (*digest, 200)),
            None => None,
        };
        if let Some((digest, when_done)) = under_way {
            let is_done = match &self.pending {
                Some(Pending::DeleteTag(tag)) => self.status(address, tag).await == 404,
                _ => self.status(address, &digest.to_string()).await == when_done,
            };
            self.settle(is_done);
            self.pending = None;
        }
        for tag in (0..TAGS).map(|n| format!("t{n}")) {
            let expected = self.tags.get(&tag).map(|digest| &self.manifests[digest].bytes);
            let answer = self.get(address, &format!("manifests/{tag}")).await;
            let is_right = match expected {
                Some(bytes) => answer.looks_complete() && answer.body == *bytes,
                None => answer.status() == 404,
            };
            if !is_right {
                wrong.push(format!("tag {tag}: {} for {:?}", answer.status(), self.tags.get(&tag)));
            }
        }
        let parts = self.manifests.values().flat_map(|pushed| pushed.parts.clone());
        let parts: Vec<(Digest, Bytes)> = parts.chain(self.blobs.drain(..)).collect();
        for (digest, bytes) in parts {
            let answer = self.get(address, &format!("blobs/{digest}")).await;
            if !answer.looks_complete() || answer.body != bytes {
                wrong.push(format!("blob {digest}: {}, {} bytes", answer.status(), answer.body.len()));
            }
        }
        for (digest, pushed) in &self.manifests {
            let answer = self.get(address, &format!("manifests/{digest}")).await;
            if !answer.looks_complete() || answer.body != pushed.bytes {
                wrong.push(format!("manifest {digest}: {}", answer.status()));
            }
        }
        for open in &self.sessions {
            let answer = Call::get(&open.location).send(address).await;
            let reached = answer.header("range").and_then(|range| range.strip_prefix("0-")?.parse::<usize>().ok());
            // A session without a byte says 0-0, as one with a single byte does.
            let reached = reached.unwrap_or(0);
            if answer.status() != 204 || reached + 1 < open.acknowledged || reached > open.sent.len() {
                wrong.push(format!("session {}: {} at {reached}", open.location, answer.status()));
            }
        }
        self.forget_old();
        wrong.into_iter().map(|what| format!("{}: {what}", self.repository)).collect()
    }

    /// What was found right and is tagged no more is not looked at again, so that a round costs no more than the one before.
    fn forget_old(&mut self) {
        let tagged: Vec<Digest> = self.tags.values().copied().collect();
        self.manifests.retain(|digest, _| tagged.contains(digest));
        self.sessions.drain(..self.sessions.len().saturating_sub(SESSIONS_KEPT));
    }

    async fn status(&self, address: SocketAddr, reference: &str) -> u16 {
        self.get(address, &format!("manifests/{reference}")).await.status()
    }

    async fn get(&self, address: SocketAddr, path: &str) -> Answer {
        Call::get(&format!("/v2/{}/{path}", self.repository)).send(address).await
    }
}
