//! An HTTP/1.1 client on blocking sockets that costs next to nothing, so that a run measures the server.
//!
//! Bodies are dropped inside the kernel (`MSG_TRUNC`) and sent with `sendfile`.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::net::RecvFlags;

use crate::Result;
use crate::content::Blob;

/// Longer than any server here may be silent.
const SILENCE_MAX: Duration = Duration::from_mins(2);
const HEAD_BYTES_MAX: usize = 64 << 10;

/// An answer whose head has been read and whose body is still in the socket.
pub struct Answer {
    stream: TcpStream,
    head: String,
    /// The part of the body that came with the head.
    early: Vec<u8>,
    pub status: u16,
    pub body_bytes: u64,
    started: Instant,
}

/// One finished download.
pub struct Pulled {
    pub first_byte: Duration,
    pub total: Duration,
}

/// Sends a GET on a connection of its own and reads the head of the answer.
pub fn get(server: SocketAddr, path: &str) -> Result<Answer> {
    get_with(server, path, "")
}

/// The same with more headers, each with its end of line.
pub fn get_with(server: SocketAddr, path: &str, headers: &str) -> Result<Answer> {
    let started = Instant::now();
    let mut stream = connect(server)?;
    let accept = "application/vnd.oci.image.manifest.v1+json, */*";
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {server}\r\nAccept: {accept}\r\n{headers}Connection: close\r\n\r\n")?;
    read_head(stream, started)
}

/// GET and drop the body; anything but 200 and a whole body is an error.
pub fn pull(server: SocketAddr, path: &str) -> Result<Pulled> {
    get(server, path)?.expect(200)?.sink(None)
}

fn connect(server: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    stream.set_write_timeout(Some(SILENCE_MAX))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn read_head(mut stream: TcpStream, started: Instant) -> Result<Answer> {
    let mut received = Vec::new();
    let mut piece = [0; 4096];
    let end = loop {
        if let Some(at) = received.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
        let n = stream.read(&mut piece)?;
        if n == 0 || received.len() > HEAD_BYTES_MAX {
            return Err("the connection ended before the head did".into());
        }
        received.extend_from_slice(&piece[..n]);
    };
    let early = received.split_off(end + 4);
    let head = String::from_utf8(received)?;
    let status = head.split(' ').nth(1).ok_or("no status line")?.parse()?;
    let mut answer = Answer { stream, head, early, status, body_bytes: 0, started };
    answer.body_bytes = answer.header("content-length").unwrap_or("0").parse()?;
    Ok(answer)
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    pub fn expect(self, status: u16) -> Result<Self> {
        if self.status != status {
            return Err(format!("expected {status}: {}\n{}", self.head, String::from_utf8_lossy(&self.early)).into());
        }
        Ok(self)
    }

    /// Reads the body to its end.
    pub fn body(mut self) -> Result<Vec<u8>> {
        let mut body = std::mem::take(&mut self.early);
        self.stream.read_to_end(&mut body)?;
        Ok(body)
    }

    /// Reads the body to its end and forgets it, at most `bytes_per_second` when given.
    pub fn sink(self, bytes_per_second: Option<u64>) -> Result<Pulled> {
        let mut left = self.body_bytes.saturating_sub(self.early.len() as u64);
        let mut first_byte = (!self.early.is_empty()).then(|| self.started.elapsed());
        // Never touched: with `MSG_TRUNC` TCP drops the bytes and returns their number.
        let mut nowhere = vec![0; if bytes_per_second.is_some() { 64 << 10 } else { 4 << 20 }];
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(nowhere.len());
            let (_, n) = rustix::net::recv(&self.stream, &mut nowhere[..want], RecvFlags::TRUNC)?;
            if n == 0 {
                return Err(format!("the body ended {left} bytes early").into());
            }
            first_byte.get_or_insert_with(|| self.started.elapsed());
            left -= n as u64;
            if let Some(rate) = bytes_per_second {
                std::thread::sleep(Duration::from_secs(n as u64) / u32::try_from(rate)?);
            }
        }
        let total = self.started.elapsed();
        Ok(Pulled { first_byte: first_byte.unwrap_or(total), total })
    }

    /// Reads for that long at that rate, then goes away in mid-body.
    pub fn sip(self, bytes_per_second: u64, at_most: Duration) -> Result<u64> {
        let mut nowhere = vec![0; 16 << 10];
        let (mut taken, started) = (0, Instant::now());
        while taken < self.body_bytes && started.elapsed() < at_most {
            let n = rustix::net::recv(&self.stream, &mut nowhere[..], RecvFlags::TRUNC)?.1 as u64;
            if n == 0 {
                return Err("a slow reader was cut off".into());
            }
            taken += n;
            std::thread::sleep(Duration::from_secs(n) / u32::try_from(bytes_per_second)?);
        }
        Ok(taken)
    }
}

/// How the bytes of an upload travel.
#[derive(Clone, Copy, PartialEq)]
pub enum Push {
    /// One PUT with the whole body, as containerd sends it.
    Put,
    /// One PATCH with chunked transfer encoding and an empty PUT, as docker sends it.
    ChunkedPatch,
}

/// Uploads a blob; the time runs from the first request to the 201.
pub fn push(server: SocketAddr, repository: &str, blob: &Blob, how: Push) -> Result<Duration> {
    let started = Instant::now();
    let mut stream = connect(server)?;
    write!(stream, "POST /v2/{repository}/blobs/uploads/ HTTP/1.1\r\nHost: {server}\r\nContent-Length: 0\r\n\r\n")?;
    let mut answer = read_head(stream, started)?.expect(202)?;
    if how == Push::ChunkedPatch {
        let target = answer.location()?;
        let mut stream = answer.stream;
        write!(stream, "PATCH {target} HTTP/1.1\r\nHost: {server}\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        send_chunked(&mut stream, blob)?;
        answer = read_head(stream, started)?.expect(202)?;
    }
    let target = answer.location()?;
    let joint = if target.contains('?') { '&' } else { '?' };
    let length = if how == Push::Put { blob.size_bytes } else { 0 };
    let mut stream = answer.stream;
    write!(
        stream,
        "PUT {target}{joint}digest={} HTTP/1.1\r\nHost: {server}\r\nContent-Type: application/octet-stream\r\nContent-Length: {length}\r\n\r\n",
        blob.digest.replace(':', "%3A"),
    )?;
    send(&mut stream, &mut File::open(&blob.path)?, length)?;
    read_head(stream, started)?.expect(201)?;
    Ok(started.elapsed())
}

/// Puts a manifest under a tag or digest.
pub fn push_manifest(server: SocketAddr, repository: &str, reference: &str, bytes: &[u8]) -> Result<()> {
    let mut stream = connect(server)?;
    write!(
        stream,
        "PUT /v2/{repository}/manifests/{reference} HTTP/1.1\r\nHost: {server}\r\nContent-Type: {}\r\nContent-Length: {}\r\n\r\n",
        crate::content::MANIFEST_TYPE,
        bytes.len(),
    )?;
    stream.write_all(bytes)?;
    read_head(stream, Instant::now())?.expect(201)?;
    Ok(())
}

impl Answer {
    /// The Location's path and query; servers may send it absolute.
    fn location(&self) -> Result<String> {
        let value = self.header("location").ok_or("no Location")?;
        let path = value.split_once("://").map_or(value, |(_, rest)| &rest[rest.find('/').unwrap_or(rest.len())..]);
        Ok(path.to_owned())
    }
}

fn send_chunked(stream: &mut TcpStream, blob: &Blob) -> Result<()> {
    const CHUNK_BYTES: u64 = 256 << 10;
    let mut file = File::open(&blob.path)?;
    let mut left = blob.size_bytes;
    while left > 0 {
        let n = left.min(CHUNK_BYTES);
        write!(stream, "{n:x}\r\n")?;
        send(stream, &mut file, n)?;
        stream.write_all(b"\r\n")?;
        left -= n;
    }
    stream.write_all(b"0\r\n\r\n")?;
    Ok(())
}

/// `n` bytes from the file's position on, without a copy through this process.
pub fn send(stream: &mut TcpStream, file: &mut File, mut left: u64) -> Result<()> {
    while left > 0 {
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(1 << 20);
        let n = rustix::fs::sendfile(&*stream, &*file, None, want)? as u64;
        if n == 0 {
            return Err("the file is shorter than announced".into());
        }
        left -= n;
    }
    Ok(())
}
