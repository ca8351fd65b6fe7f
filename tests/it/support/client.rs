//! A client that does what it is told: HTTP/1.1 by hand over a socket, so that it can read slowly, in part, or not at
//! all, send odd headers, and tell a body that ended from a body that broke off.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a client waits for bytes that must come: a hang is a failed test, not a hanging one.
const PATIENCE: Duration = Duration::from_secs(20);

/// A request that is not sent yet.
#[derive(Clone, Debug)]
pub struct Call {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Bytes,
}

/// Status and headers of an answer.
#[derive(Clone, Debug)]
pub struct Head {
    pub status: u16,
    headers: Vec<(String, String)>,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub head: Head,
    pub body: Bytes,
    /// The body ended as its framing says; `false` if it broke off before.
    pub complete: bool,
}

/// An answer whose body is being read. Dropped, the connection is gone.
pub struct Reading {
    pub head: Head,
    stream: TcpStream,
    buffer: BytesMut,
    framing: Framing,
}

/// What is left of a body.
#[derive(Clone, Copy, Debug)]
enum Framing {
    Length(u64),
    /// Bytes left of this chunk.
    Chunk(u64),
    ChunkEnd,
    Close,
    Ended,
}

impl Call {
    pub fn new(method: &str, path: &str) -> Self {
        Self { method: method.to_owned(), path: path.to_owned(), headers: Vec::new(), body: Bytes::new() }
    }

    pub fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    pub fn head(path: &str) -> Self {
        Self::new("HEAD", path)
    }

    /// One more header; a `host` replaces the usual one.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn range(self, range: &str) -> Self {
        self.header("range", range)
    }

    /// A body with its length.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        let length = self.body.len().to_string();
        self.header("content-length", &length)
    }

    /// Sends it over a connection of its own and waits for the head of the answer.
    pub async fn open(self, address: SocketAddr) -> Reading {
        self.try_open(address).await.expect("the connection holds until there is an answer")
    }

    async fn try_open(self, address: SocketAddr) -> io::Result<Reading> {
        let mut stream = TcpStream::connect(address).await?;
        let mut request = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        if !self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            let _ = write!(request, "host: {address}\r\n");
        }
        for (name, value) in &self.headers {
            let _ = write!(request, "{name}: {value}\r\n");
        }
        request += "\r\n";
        stream.write_all(request.as_bytes()).await?;
        // A server may answer and close before it has read the body; its answer still counts.
        let _ = stream.write_all(&self.body).await;
        Reading::begin(stream, &self.method).await
    }

    /// Sends it and reads all of the answer. A connection that ends before there is one makes an answer of status 0: a
    /// body that fails at once may take its head with it.
    pub async fn send(self, address: SocketAddr) -> Answer {
        let nothing = Answer { head: Head { status: 0, headers: vec![] }, body: Bytes::new(), complete: false };
        self.try_send(address).await.unwrap_or(nothing)
    }

    /// Sends it to a registry that may be gone, or be killed before it has answered.
    pub async fn try_send(self, address: SocketAddr) -> io::Result<Answer> {
        Ok(self.try_open(address).await?.finish().await)
    }
}

impl Head {
    fn parse(text: &str) -> Self {
        let mut lines = text.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|status| status.parse().ok());
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Self { status: status.unwrap_or_else(|| panic!("the answer begins with {text:?}")), headers }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The headers but for those that differ from one answer to the next.
    pub fn lasting(&self) -> Vec<(String, String)> {
        let passing = ["date", "entrepot-cache", "connection"];
        let mut lasting = self.headers.clone();
        lasting.retain(|(name, _)| !passing.contains(&name.as_str()));
        lasting.sort();
        lasting
    }

    fn framing(&self, method: &str) -> Framing {
        if method == "HEAD" || matches!(self.status, 204 | 304) {
            return Framing::Ended;
        }
        match (self.header("transfer-encoding"), self.header("content-length")) {
            (Some(_), _) => Framing::Chunk(0),
            (None, Some(length)) => Framing::Length(length.parse().expect("a length is a number")),
            (None, None) => Framing::Close,
        }
    }
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    pub fn status(&self) -> u16 {
        self.head.status
    }

    /// How it was served.
    pub fn cache(&self) -> &str {
        self.header("entrepot-cache").unwrap_or("none")
    }

    /// The code of the first error in the body.
    pub fn code(&self) -> String {
        self.error()["code"].as_str().unwrap_or_default().to_owned()
    }

    /// The message of the first error in the body.
    pub fn message(&self) -> String {
        self.error()["message"].as_str().unwrap_or_default().to_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.body))
    }

    fn error(&self) -> serde_json::Value {
        self.json()["errors"][0].clone()
    }

    /// Whether a client would take this for the whole of a blob.
    pub fn looks_complete(&self) -> bool {
        self.complete && self.status() == 200
    }
}

impl Reading {
    /// Waits for the head of the answer to a request that was sent over `stream`.
    pub async fn begin(mut stream: TcpStream, method: &str) -> io::Result<Self> {
        let mut buffer = BytesMut::new();
        loop {
            if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = Head::parse(&String::from_utf8_lossy(&buffer.split_to(end)));
                buffer.advance(4);
                // 100 and its kind are followed by the answer proper.
                if head.status >= 200 {
                    let framing = head.framing(method);
                    return Ok(Self { head, stream, buffer, framing });
                }
                continue;
            }
            let read = timeout(PATIENCE, stream.read_buf(&mut buffer)).await.expect("an answer comes in time")?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// The next bytes of the body, at most so many; `Ok(None)` at its end, an error where it broke off.
    pub async fn next(&mut self, max: usize) -> io::Result<Option<Bytes>> {
        loop {
            match self.framing {
                Framing::Ended | Framing::Length(0) => return Ok(None),
                Framing::Chunk(0) => self.next_chunk().await?,
                Framing::ChunkEnd => {
                    self.line().await?;
                    self.framing = Framing::Chunk(0);
                }
                Framing::Length(_) | Framing::Chunk(_) | Framing::Close => {
                    if self.buffer.is_empty() && !self.more().await? {
                        let ended = matches!(self.framing, Framing::Close);
                        return if ended { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
                    }
                    return Ok(Some(self.take(max)));
                }
            }
        }
    }

    /// Exactly so many bytes of the body.
    pub async fn read(&mut self, bytes: usize) -> Bytes {
        let mut all = BytesMut::new();
        while all.len() < bytes {
            match self.next(bytes - all.len()).await {
                Ok(Some(piece)) => all.extend_from_slice(&piece),
                other => panic!("{bytes} bytes were to come, but after {}: {other:?}", all.len()),
            }
        }
        all.freeze()
    }

    /// Whatever is left of the body.
    pub async fn finish(mut self) -> Answer {
        let mut body = BytesMut::new();
        let complete = loop {
            match self.next(usize::MAX).await {
                Ok(Some(piece)) => body.extend_from_slice(&piece),
                Ok(None) => break true,
                Err(_) => break false,
            }
        };
        Answer { head: self.head, body: body.freeze(), complete }
    }

    fn take(&mut self, max: usize) -> Bytes {
        let left = match &self.framing {
            Framing::Length(left) | Framing::Chunk(left) => usize::try_from(*left).expect("test bodies fit in memory"),
            _ => usize::MAX,
        };
        let piece = self.buffer.split_to(self.buffer.len().min(max).min(left)).freeze();
        match &mut self.framing {
            Framing::Length(left) => *left -= piece.len() as u64,
            Framing::Chunk(left) => {
                *left -= piece.len() as u64;
                if *left == 0 {
                    self.framing = Framing::ChunkEnd;
                }
            }
            _ => {}
        }
        piece
    }

    async fn next_chunk(&mut self) -> io::Result<()> {
        let line = self.line().await?;
        let size = u64::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
        if size == 0 {
            self.line().await?;
            self.framing = Framing::Ended;
        } else {
            self.framing = Framing::Chunk(size);
        }
        Ok(())
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|window| window == b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer.split_to(end)).into_owned();
                self.buffer.advance(2);
                return Ok(line);
            }
            if !self.more().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    async fn more(&mut self) -> io::Result<bool> {
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.buffer)).await;
        Ok(read.expect("the body goes on or ends in time")? > 0)
    }
}
