//! The upstream of the benchmarks: a registry of a few files that counts what it is asked.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use crate::Result;
use crate::client;
use crate::content::{Blob, EMPTY_CONFIG, MANIFEST_TYPE, digest_of, manifest};

/// The repository that every benchmark asks for; the path form that a default upstream answers.
pub const REPOSITORY: &str = "library/bench";

#[derive(Default)]
struct State {
    /// Of one connection; as fast as it goes if none.
    bytes_per_second: Option<u64>,
    manifest: RwLock<Vec<u8>>,
    config: RwLock<Vec<u8>>,
    blobs: RwLock<HashMap<String, Blob>>,
    blob_gets: AtomicU64,
    manifest_requests: AtomicU64,
    mood: AtomicU8,
}

/// How an origin meets requests.
#[derive(Clone, Copy)]
pub enum Mood {
    /// It takes them and never answers.
    Silent = 1,
    /// It closes the connection instead.
    HangsUp = 2,
}

/// A running origin. Its threads end with the process.
pub struct Origin {
    pub addr: SocketAddr,
    state: Arc<State>,
}

impl Origin {
    pub fn start() -> Result<Self> {
        Self::start_with(State::default())
    }

    /// One that gives no connection more than so much, as many public registries do.
    pub fn capped(bytes_per_second: u64) -> Result<Self> {
        Self::start_with(State { bytes_per_second: Some(bytes_per_second), ..State::default() })
    }

    fn start_with(state: State) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (addr, state) = (listener.local_addr()?, Arc::new(state));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                // A client that goes away in mid-answer is no concern of the origin.
                std::thread::spawn(move || serve(stream, &state).ok());
            }
        });
        Ok(Self { addr, state })
    }

    /// Replaces what the repository holds: one tag `1` whose layers are these blobs.
    pub fn hold(&self, blobs: &[Blob]) {
        self.hold_image(blobs, EMPTY_CONFIG.to_vec());
    }

    /// The same with this config.
    pub fn hold_image(&self, blobs: &[Blob], config: Vec<u8>) {
        let map = blobs.iter().map(|blob| (blob.digest.clone(), blob.clone())).collect();
        *self.state.blobs.write().expect("no holder panics") = map;
        *self.state.manifest.write().expect("no holder panics") = manifest(blobs, &config);
        *self.state.config.write().expect("no holder panics") = config;
    }

    /// From now on.
    pub fn be(&self, mood: Mood) {
        self.state.mood.store(mood as u8, Ordering::Relaxed);
    }

    /// How many requests for manifests came since the last call.
    pub fn take_manifest_requests(&self) -> u64 {
        self.state.manifest_requests.swap(0, Ordering::Relaxed)
    }

    /// How many GETs of blobs came since the last call.
    pub fn take_blob_gets(&self) -> u64 {
        self.state.blob_gets.swap(0, Ordering::Relaxed)
    }
}

pub fn blob_path(blob: &Blob) -> String {
    format!("/v2/{REPOSITORY}/blobs/{}", blob.digest)
}

pub fn manifest_path() -> String {
    format!("/v2/{REPOSITORY}/manifests/1")
}

struct Request {
    head_only: bool,
    path: String,
    /// First and last byte of `Range`; the last only if it was given.
    range: Option<(u64, Option<u64>)>,
}

/// Requests of one connection, one after the other.
fn serve(mut stream: TcpStream, state: &State) -> Result<()> {
    stream.set_nodelay(true)?;
    while let Some(request) = read_request(&mut stream)? {
        match state.mood.load(Ordering::Relaxed) {
            mood if mood == Mood::Silent as u8 => {
                // Until the other side gives up.
                stream.read_exact(&mut [0])?;
            }
            mood if mood == Mood::HangsUp as u8 => return Ok(()),
            _ => {}
        }
        answer(&mut stream, state, &request)?;
    }
    Ok(())
}

fn read_request(stream: &mut TcpStream) -> Result<Option<Request>> {
    let (mut head, mut piece) = (Vec::new(), [0; 4096]);
    while !head.ends_with(b"\r\n\r\n") {
        let n = stream.read(&mut piece)?;
        if n == 0 {
            return Ok(None);
        }
        head.extend_from_slice(&piece[..n]);
    }
    let head = String::from_utf8(head)?;
    let mut words = head.split(' ');
    let head_only = words.next() == Some("HEAD");
    let target = words.next().ok_or("no request line")?;
    let range = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("range"))
        .and_then(|(_, value)| value.trim().strip_prefix("bytes=")?.split_once('-'))
        .and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok())));
    let path = target.split('?').next().unwrap_or(target).replace("%3A", ":");
    Ok(Some(Request { head_only, path, range }))
}

fn answer(stream: &mut TcpStream, state: &State, request: &Request) -> Result<()> {
    if request.path == "/v2/" {
        return small(stream, request, "application/json", b"{}");
    }
    let Some((kind, reference)) = request
        .path
        .strip_prefix("/v2/")
        .and_then(|rest| rest.strip_prefix(REPOSITORY)?.strip_prefix('/')?.split_once('/'))
    else {
        return missing(stream);
    };
    let manifest = state.manifest.read().expect("no holder panics").clone();
    let config = state.config.read().expect("no holder panics").clone();
    match kind {
        "manifests" if reference == "1" || reference == digest_of(&manifest) => {
            state.manifest_requests.fetch_add(1, Ordering::Relaxed);
            small(stream, request, MANIFEST_TYPE, &manifest)
        }
        "blobs" if reference == digest_of(&config) => small(stream, request, "application/octet-stream", &config),
        "blobs" => {
            let blob = state.blobs.read().expect("no holder panics").get(reference).cloned();
            match blob {
                Some(blob) => large(stream, state, request, &blob),
                None => missing(stream),
            }
        }
        _ => missing(stream),
    }
}

fn small(stream: &mut TcpStream, request: &Request, media_type: &str, body: &[u8]) -> Result<()> {
    let mut bytes = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {media_type}\r\nContent-Length: {}\r\nDocker-Content-Digest: {}\r\n\r\n",
        body.len(),
        digest_of(body),
    )
    .into_bytes();
    if !request.head_only {
        bytes.extend_from_slice(body);
    }
    Ok(stream.write_all(&bytes)?)
}

fn large(stream: &mut TcpStream, state: &State, request: &Request, blob: &Blob) -> Result<()> {
    let size = blob.size_bytes;
    let (from, last) = request.range.unwrap_or((0, None));
    if from >= size {
        return Ok(stream.write_all(b"HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 0\r\n\r\n")?);
    }
    let end = last.map_or(size, |last| size.min(last + 1));
    let (status, range) = match request.range {
        None => ("200 OK", String::new()),
        Some(_) => ("206 Partial Content", format!("Content-Range: bytes {from}-{}/{size}\r\n", end - 1)),
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: application/octet-stream\r\nContent-Length: {}\r\n{range}Accept-Ranges: bytes\r\nDocker-Content-Digest: {}\r\n\r\n",
        end - from,
        blob.digest,
    )?;
    if request.head_only {
        return Ok(());
    }
    state.blob_gets.fetch_add(1, Ordering::Relaxed);
    let mut file = File::open(&blob.path)?;
    file.seek(SeekFrom::Start(from))?;
    match state.bytes_per_second {
        None => client::send(stream, &mut file, end - from),
        Some(rate) => send_at(stream, &mut file, end - from, rate),
    }
}

/// Sends at a steady rate: each slice when its time has come.
fn send_at(stream: &mut TcpStream, file: &mut File, bytes: u64, bytes_per_second: u64) -> Result<()> {
    const SLICE_BYTES: u64 = 128 << 10;
    let (started, mut sent) = (Instant::now(), 0);
    while sent < bytes {
        let slice = SLICE_BYTES.min(bytes - sent);
        client::send(stream, file, slice)?;
        sent += slice;
        let due = Duration::from_micros(sent * 1_000_000 / bytes_per_second);
        std::thread::sleep(due.saturating_sub(started.elapsed()));
    }
    Ok(())
}

fn missing(stream: &mut TcpStream) -> Result<()> {
    Ok(stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?)
}
